"""PNDM: linear multistep of the noise prediction, moved by the DDIM transfer, after a start of Runge-Kutta steps.

The transfer phi(x, e, t, t') = (a'/a) x + a'(sigma' - sigma) e is the DDIM step. A pseudo method puts the combination of
predictions of a classical one into it; its midpoints lie in the middle of path time (of sigma, on paths whose noise end
holds no signal). The weights are those of even steps.
"""

from __future__ import annotations

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.deis import HEUN, RUNGE_KUTTA_4, Stages, stage_rows
from retrograde.recipes.ipndm import ADAMS_BASHFORTH
from retrograde.recipes.recipe import Level, level, noise_basis, recipe

_PAPER = {
    "title": "Pseudo Numerical Methods for Diffusion Models on Manifolds",
    "authors": ("Luping Liu", "Yi Ren", "Zhijie Lin", "Zhou Zhao"),
    "year": 2022,
    "arxiv": "2202.09778",
}


def four_stage_start(evaluations: int) -> tuple[int, ...]:
    """Three intervals of four evaluations, then one each: N intervals cost N + 9; budgets below N = 4 have one each."""
    return (4, 4, 4) + (1,) * (evaluations - 12) if evaluations > 12 else (1,) * evaluations


def two_stage_start(evaluations: int) -> tuple[int, ...]:
    """One interval of two evaluations, then one each: N intervals cost N + 1."""
    return (2,) + (1,) * (evaluations - 2) if evaluations > 1 else (1,) * evaluations


def _write(path: Path, times: tuple[float, ...], stages: tuple[int, ...], order: int) -> list[Row]:
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    starts: list[int] = []  # evaluation asked at the begin of each step, counted from the first
    asked = 0
    for i, (here, there, count) in enumerate(zip(levels, levels[1:], stages, strict=False)):
        starts.append(asked)
        if count == 1:
            rows.append(_multistep(here, there, ADAMS_BASHFORTH[min(order, i + 1) - 1], [asked - k for k in starts[::-1]]))
        else:
            rows += _pseudo_runge_kutta(path, here, there, RUNGE_KUTTA_4 if count == 4 else HEUN)
        asked += count
    return rows


def _multistep(here: Level, there: Level, weights: tuple[float, ...], ages: list[int]) -> Row:
    """One step with the predictions made at the begin of the last steps; `ages` counts evaluations since, newest first."""
    step = there.a * (there.sigma - here.sigma)
    outputs = [0.0] * (ages[len(weights) - 1] + 1)
    for age, weight in zip(ages, weights, strict=False):
        outputs[age] = step * weight
    return Row(here.t, there.t, (there.a / here.a,), tuple(outputs))


def _pseudo_runge_kutta(path: Path, here: Level, there: Level, method: Stages) -> list[Row]:
    if path.a(path.t_max) > 0.0:
        middle = level(path, 0.5 * (here.t + there.t))
    else:  # there sigma has a pole, and the middle of path time is nowhere near the middle its weights are for
        middle = level(path, path.time_of_sigma(0.5 * (here.sigma + there.sigma)))
    return stage_rows(here, [middle if node == 0.5 else there for node, _ in method], method)


@recipe(
    "pndm",
    order=4,
    basis=noise_basis,
    clock="uniform sigma",
    layout=four_stage_start,
    summary="F-PNDM: pseudo Runge-Kutta for three steps, then Adams-Bashforth of order 4",
    paper=_PAPER | {"test": "tests/recipes/test_pndm.py::test_pndm_agrees_with_diffusers"},
)
def pndm(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """e = (55 e_0 - 59 e_1 + 37 e_2 - 9 e_3)/24 in the transfer; three steps before with (e_1 + 2 e_2 + 2 e_3 + e_4)/6.

    One evaluation per step, nine more in all (arXiv 2202.09778). Order 4 on grids even in sigma; elsewhere the multistep
    weights are those of another grid and, with the midpoints of the start, the order is 2 on a smooth grid.
    """
    return _write(path, times, stages, 4)


@recipe(
    "s_pndm",
    order=2,
    basis=noise_basis,
    clock="uniform sigma",
    layout=two_stage_start,
    summary="S-PNDM: one improved Euler step, then Adams-Bashforth of order 2",
    paper=_PAPER | {"test": "tests/recipes/test_pndm.py::test_s_pndm_is_the_paper_s"},
)
def s_pndm(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """e = (3 e_0 - e_1)/2 in the transfer, the first step with the mean of the predictions at both its ends.

    One evaluation per step and one more (arXiv 2202.09778); order 2 on grids even in sigma and on smooth ones.
    """
    return _write(path, times, stages, 2)


@recipe(
    "plms",
    order=4,
    basis=noise_basis,
    clock="uniform sigma",
    layout=two_stage_start,
    summary="PNDM with the start of Stable Diffusion: one improved Euler step, then orders 2, 3, 4",
    paper=_PAPER | {"test": "tests/recipes/test_pndm.py::test_plms_agrees_with_diffusers"},
)
def plms(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """Adams-Bashforth of orders 2, 3, 4 in the transfer after one improved Euler step: one evaluation per step and one more.

    Order 4 on grids even in sigma with exact history (arXiv 2202.09778).
    """
    return _write(path, times, stages, 4)
