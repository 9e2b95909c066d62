"""Restart sampling: Heun's rows, and at some levels several times back up with fresh noise and down again."""

from __future__ import annotations

import math
from collections.abc import Sequence

from retrograde import grids, laws, systems
from retrograde.errors import BadValue, PlanError
from retrograde.paths import Path
from retrograde.plan import Plan, Row
from retrograde.recipes.euler import heun
from retrograde.recipes.recipe import end_row, get, level

Interval = tuple[float, float, int, int]
"""(sigma_min, sigma_max, restarts, steps of each)."""


def plan(
    path: Path,
    nfe: int,
    intervals: Sequence[Interval] = ((0.06, 0.30, 2, 3),),
    grid: str = "karras",
    **options: float,
) -> Plan:
    """Return the plan of Xu et al., 2023, arXiv 2306.14878, with exactly `nfe` evaluations.

    Where the main grid is nearest to sigma_min, `restarts` times: x' = (a'/a) x + a' sqrt(sigma_max^2 - sigma^2) eps, then
    `steps` Heun steps back on Karras levels. What the restarts leave of nfe goes to the main steps, also Heun's; an odd
    evaluation becomes a closing Euler step.

    Raises:
        BadValue: a budget that the restarts use up, or an interval that is empty on this path and grid.
    """
    cost = sum(2 * restarts * steps for _, _, restarts, steps in intervals)
    least = cost + 3
    if nfe < least:
        given = f"nfe={nfe} with restarts that take {cost} evaluations"
        raise BadValue(given, f"nfe = {least}, {least + 1}, {least + 2}, ... : every budget from {least} on", f"nfe={least}")
    heuns = get("heun")
    count, stages = heuns.points(nfe - cost)
    times = grids.make(path, count, grid, **options)
    places = [_nearest(path, times, interval) for interval in intervals]
    rows: list[Row] = []
    for i, (t, t_next, spent) in enumerate(zip(times[:-1], times[1:], stages, strict=True)):
        rows += heun(path, (t, t_next), (spent,))
        for place, (_, high, restarts, steps) in zip(places, intervals, strict=True):
            if place == i + 1:
                rows += _round(path, t_next, high, steps) * restarts
    basis = heuns.basis(path)
    rows.append(end_row(path, times[-1], basis))
    fields = {
        "basis": basis,
        "recipe": "restart@1",
        "start": times[0],
        "provenance": {"recipe": "restart", "intervals": [list(i) for i in intervals], "times": list(times)},
    }
    try:
        return Plan(path, tuple(rows), **fields)
    except PlanError as error:
        if laws.POINT_MASS not in error.given:
            raise
    return Plan(path, tuple(rows), misses=(laws.POINT_MASS,), **fields)


def _nearest(path: Path, times: Sequence[float], interval: Interval) -> int:
    low, high, restarts, steps = interval
    top = path.sigma(path.t_max)
    place = min(range(1, len(times)), key=lambda i: abs(math.log(path.sigma(times[i]) / low)))
    reached = path.sigma(times[place])
    if not reached < high <= top or restarts < 1 or steps < 1:
        raise BadValue(
            f"interval {interval} on a grid that comes to sigma={reached:.4g} there, of a path up to {top:.4g}",
            f"({reached:.4g}, sigma_max, restarts >= 1, steps >= 1) with {reached:.4g} < sigma_max <= {top:.4g}",
            f"({reached:.4g}, {min(5.0 * reached, top):.4g}, 1, 2), or a finer grid",
        )
    return place


def _round(path: Path, t: float, high: float, steps: int) -> list[Row]:
    here = level(path, t)
    raised = level(path, path.time_of_sigma(high))
    fresh = raised.a * math.sqrt(raised.sigma**2 - here.sigma**2)
    inner = grids.karras(path, steps + 1, sigma_min=here.sigma, sigma_max=high)
    times = (raised.t, *inner[1:-1], t)
    up = Row(None, raised.t, (raised.a / here.a,), (), (fresh,), renoise=True)
    return [up, *heun(path, times, (2,) * steps)]


systems.register(
    systems.System(
        title="Restart Sampling for Improving Generative Processes",
        authors=("Yilun Xu", "Mingyang Deng", "Xiang Cheng", "Yonglong Tian", "Ziming Liu", "Tommi Jaakkola"),
        year=2023,
        arxiv="2306.14878",
        home="solvers",
        call="rg.recipes.restart.plan(path, nfe=40)",
        test="tests/recipes/test_restart.py::test_restart_is_the_published_loop",
    )
)
