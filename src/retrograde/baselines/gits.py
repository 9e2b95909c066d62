"""GITS: levels by dynamic programming over local errors; and the trajectories that baselines learn from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrograde import grids, recipes, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.recipes import level
from retrograde.tune.teacher import Teacher, levels_of, teach

FIRST_ITEM = 1 << 40
"""Number of the first training item: far from those a user samples, and the same for all tuners."""

systems.register(
    systems.System(
        title="On the Trajectory Regularity of ODE-based Diffusion Sampling",
        authors=("Defang Chen", "Zhenyu Zhou", "Can Wang", "Chunhua Shen", "Siwei Lyu"),
        year=2024,
        arxiv="2405.11326",
        home="tune",
        call="rg.baselines.gits(denoiser, nfe=4)",
        test="tests/baselines/test_gits.py::test_the_path_is_the_cheapest_of_all",
    )
)


def gits(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    recipe: str = "ipndm_4",
    seed: int = 0,
    n: int = 256,
    levels: int = 61,
    coefficient: float = 1.15,
    condition: Any = None,
) -> Plan:
    """Return a published solver on the levels whose jumps cost least, V_k(i) = min_j c(i, j) + g V_(k-1)(j).

    c(i, j) is how far one Euler step from the reference's state at level i ends from its state at level j, |x_j/a_j| norms
    averaged over items, the data included as last level; g (`coefficient`, 1.15 as published) makes late errors dearer.

    Args:
        recipe: a multistep solver of one evaluation per step.
        n: reference trajectories; `levels`: their levels, among which the plan's are chosen.

    Raises:
        BadValue: a recipe of several evaluations per step, or fewer levels than evaluations.

    Reference: Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, 2024, arXiv 2405.11326.
    """
    check_budget(nfe)
    written = one_evaluation(recipe)
    teacher = trajectories(denoiser, n, seed, levels, condition)
    chosen = cheapest(local_costs(denoiser, teacher), nfe, coefficient)
    plan = written.compile(denoiser.path, [teacher.times[k] for k in chosen])
    report = {"evaluations": teacher.evaluations * n}
    return dataclasses.replace(
        plan, provenance={**plan.provenance, "tuner": "gits", "nfe": nfe, "seed": seed}, report=report
    )


def one_evaluation(recipe: str) -> recipes.Recipe:
    """Return the recipe, if it asks once per step and draws no noise."""
    written = recipes.get(recipe)
    if written.evaluations != 1 or written.layout is not None or written.stochastic:
        raise BadValue(f"recipe {recipe!r}", "a deterministic multistep recipe, one evaluation per step", "recipe='ipndm_4'")
    return written


def start_of(denoiser: AbstractDenoiser) -> float:
    """Return the noise end of the path, or where it holds no signal a time just below."""
    path = denoiser.path
    return denoiser.snap(path.t_max if path.a(path.t_max) > 0.0 else path.time_of_sigma(grids.levels(path)[1]))


def check_budget(nfe: int) -> None:
    """Refuse a budget of no evaluation before anything is learned for it."""
    if nfe < 1:
        raise BadValue(f"nfe={nfe}", "a whole number, nfe >= 1", "nfe=4")


def asked_at(denoiser: AbstractDenoiser, nfe: int, grid: str) -> tuple[float, ...]:
    """Return the times of `nfe` evaluations on a published grid, signal being held at the first of them.

    A grid that reaches the least level has n points for n - 1 evaluations in the papers: its last is where they end, and
    asking there once more changes nothing that can be seen.

    Raises:
        BadValue: nfe < 1.
    """
    check_budget(nfe)
    path = denoiser.path
    times = grids.make(path, nfe, grid)
    if nfe > 1 and path.sigma(times[-1]) <= 1.01 * grids.levels(path)[0]:
        times = grids.make(path, nfe + 1, grid)[:-1]
    return tuple(dict.fromkeys([start_of(denoiser), *(denoiser.snap(t) for t in times[1:])]))


def trajectories(
    denoiser: AbstractDenoiser, n: int, seed: int, levels: int, condition: Any, through: Sequence[float] = ()
) -> Teacher:
    """Return reference trajectories on falling levels that all hold signal, the times `through` among them."""
    start = start_of(denoiser)
    times = {start, *through, *(t for t in levels_of(denoiser, levels) if t < start)}
    return teach(denoiser, n, seed, levels=sorted(times, reverse=True), condition=condition, first_item=FIRST_ITEM)


def local_costs(denoiser: AbstractDenoiser, teacher: Teacher) -> np.ndarray:
    """Return c[i, j], [m, m+1]: how far, in x/a, an Euler step from level i ends from level j > i; the last is the data."""
    levels = [level(denoiser.path, t) for t in teacher.times]
    scaled: list[Tensor] = [x / here.a for x, here in zip(teacher.states, levels, strict=True)] + [teacher.end]
    sigmas = [here.sigma for here in levels] + [0.0]
    costs = np.full((len(levels), len(levels) + 1), np.inf)
    for i, mean in enumerate(teacher.outputs):
        slope = (scaled[i] - mean) / sigmas[i]
        for j in range(i + 1, len(levels) + 1):
            missed = torch.add(scaled[i], slope, alpha=sigmas[j] - sigmas[i]).sub_(scaled[j])
            costs[i, j] = float(torch.linalg.vector_norm(missed, dim=1).mean())
    return costs


def cheapest(costs: np.ndarray, jumps: int, coefficient: float) -> tuple[int, ...]:
    """Return the levels, the first one included, from which `jumps` jumps reach the data at the least cost."""
    m = len(costs)
    if not 1 <= jumps <= m:
        raise BadValue(f"nfe={jumps}", f"1 to {m}, the reference's levels", f"levels={jumps}")
    values, choices = costs[:, m], []
    for _ in range(jumps - 1):
        through = costs[:, :m] + coefficient * values[None, :]
        choices.append(through.argmin(axis=1))
        values = through.min(axis=1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return tuple(path)
