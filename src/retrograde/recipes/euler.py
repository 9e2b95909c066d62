"""Euler, Heun, and the stochastic sampler of EDM.

Where the noise end of the path holds signal they step in sigma = s/a on y = x/a, where dy = E[eps|x] dsigma; else (flow,
trigonometric) in path time on the velocity. On EDM and flow paths the two agree.
"""

from __future__ import annotations

import math

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import level, recipe

_EDM = {
    "title": "Elucidating the Design Space of Diffusion-Based Generative Models",
    "authors": ("Tero Karras", "Miika Aittala", "Timo Aila", "Samuli Laine"),
    "year": 2022,
    "arxiv": "2206.00364",
}


def flow_basis(path: Path) -> str:
    """The basis of methods that step along the probability flow: noise over sigma, or velocity over path time."""
    return "velocity" if path.a(path.t_max) == 0.0 else "noise"


def slope(path: Path, t: float, t_next: float) -> tuple[float, float]:
    """Return the coefficients of the state and of one prediction in the step x(t_next) = c_x x + c_m m."""
    if flow_basis(path) == "velocity":
        return 1.0, t_next - t
    here, there = level(path, t), level(path, t_next)
    return there.a / here.a, there.a * (there.sigma - here.sigma)


@recipe(
    "euler",
    order=1,
    basis=flow_basis,
    clock="smooth",
    approximate=True,
    summary="Euler's method on the probability flow",
)
def euler(path: Path, times: tuple[float, ...]) -> list[Row]:
    """x' = x + h m: order 1, one evaluation per step (Song et al., 2021, arXiv 2011.13456)."""
    rows = []
    for t, t_next in zip(times, times[1:], strict=False):
        c_x, c_m = slope(path, t, t_next)
        rows.append(Row(t, t_next, (c_x,), (c_m,)))
    return rows


def _heun_step(path: Path, t: float, t_next: float, stages: int) -> list[Row]:
    c_x, c_m = slope(path, t, t_next)
    rows = [Row(t, t_next, (c_x,), (c_m,))]
    if stages == 2:
        rows.append(Row(t_next, t_next, (0.0, c_x), (0.5 * c_m, 0.5 * c_m)))
    return rows


@recipe(
    "heun",
    order=2,
    evaluations=2,
    basis=flow_basis,
    clock="smooth",
    approximate=True,
    summary="Heun's method, the deterministic sampler of EDM",
    paper=_EDM | {"test": "tests/recipes/test_equivalence.py::test_heun_is_the_deterministic_sampler_of_edm"},
)
def heun(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """x' = x + h (m + m')/2 with m' at the Euler point: order 2, two evaluations per step (arXiv 2206.00364)."""
    return [
        row for t, t_next, count in zip(times, times[1:], stages, strict=False) for row in _heun_step(path, t, t_next, count)
    ]


@recipe(
    "edm_stochastic",
    order=2,
    evaluations=2,
    basis=flow_basis,
    stochastic=True,
    clock="smooth",
    approximate=True,
    summary="Heun's method after a little added noise (churn), the stochastic sampler of EDM",
    paper=_EDM | {"test": "tests/recipes/test_equivalence.py::test_edm_stochastic_is_algorithm_2"},
)
def edm_stochastic(
    path: Path,
    times: tuple[float, ...],
    stages: tuple[int, ...] = (),
    churn: float = 40.0,
    churn_min: float = 0.05,
    churn_max: float = 50.0,
    noise_scale: float = 1.0,
) -> list[Row]:
    """Raise the level by the factor 1 + min(churn/N, sqrt(2) - 1), then a Heun step: algorithm 2 of arXiv 2206.00364.

    The last level of the grid, from which the data mean is returned, is not raised; none is raised above the path's
    noise end, where its networks have not been trained.

    Args:
        churn: S_churn, spread over the N levels of the grid.
        churn_min, churn_max: S_min and S_max, the range of sigma in which noise is added.
        noise_scale: S_noise, a factor on the added noise; other than 1 it misses the point-mass law.
    """
    rows: list[Row] = []
    factor = 1.0 + min(churn / len(times), math.sqrt(2.0) - 1.0)
    for t, t_next, count in zip(times, times[1:], stages, strict=False):
        here = level(path, t)
        if churn > 0.0 and churn_min <= here.sigma <= churn_max:
            raised = level(path, min(path.time_of_sigma(factor * here.sigma), path.t_max))
            added = noise_scale * raised.a * math.sqrt(raised.sigma**2 - here.sigma**2)
            rows.append(Row(None, raised.t, (raised.a / here.a,), (), (added,), renoise=True))
            here = raised
        rows.extend(_heun_step(path, here.t, t_next, count))
    return rows
