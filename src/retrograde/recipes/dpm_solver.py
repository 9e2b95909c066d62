"""DPM-Solver: single-step exponential integrators in log-SNR on the noise prediction."""

from __future__ import annotations

import math

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, level_between, noise_basis, recipe

_PAPER = {
    "title": "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
    "authors": ("Cheng Lu", "Yuhao Zhou", "Fan Bao", "Jianfei Chen", "Chongxuan Li", "Jun Zhu"),
    "year": 2022,
    "arxiv": "2206.00927",
}


def _first(here: Level, there: Level) -> Row:
    h = there.lam - here.lam
    return Row(here.t, there.t, (there.a / here.a,), (-there.s * math.expm1(h),))


def _second(path: Path, here: Level, there: Level) -> list[Row]:
    h = there.lam - here.lam
    middle = level_between(path, here, there, 0.5)
    phi = there.s * math.expm1(h)
    # x - phi E_s - phi/(2 r) (E_m - E_s) with r = 1/2 uses the middle prediction alone
    return [_first(here, middle), Row(middle.t, there.t, (0.0, there.a / here.a), (-phi, 0.0))]


def _third(path: Path, here: Level, there: Level) -> list[Row]:
    h, r1, r2 = there.lam - here.lam, 1.0 / 3.0, 2.0 / 3.0
    one, two = level_between(path, here, there, r1), level_between(path, here, there, r2)
    phi_two = math.expm1(r2 * h) / (r2 * h) - 1.0
    second = -two.s * (r2 / r1) * phi_two
    third = -(there.s / r2) * (math.expm1(h) / h - 1.0)
    return [
        _first(here, one),
        Row(one.t, two.t, (0.0, two.a / here.a), (second, -two.s * math.expm1(r2 * h) - second)),
        Row(two.t, there.t, (0.0, 0.0, there.a / here.a), (third, 0.0, -there.s * math.expm1(h) - third)),
    ]


def _write(path: Path, times: tuple[float, ...], stages: tuple[int, ...]) -> list[Row]:
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        rows += [_first(here, there)] if count == 1 else (_second if count == 2 else _third)(path, here, there)
    return rows


@recipe(
    "dpm_solver_2",
    order=2,
    evaluations=2,
    basis=noise_basis,
    summary="DPM-Solver-2, single-step, noise prediction",
    paper=_PAPER | {"test": "tests/recipes/test_equivalence.py::test_dpm_solver_agrees_with_diffusers"},
)
def dpm_solver_2(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """x' = (a'/a) x - s'(e^h - 1) E(u at the middle of log-SNR): order 2, two evaluations per step (arXiv 2206.00927)."""
    return _write(path, times, stages)


@recipe(
    "dpm_solver_3",
    order=3,
    evaluations=3,
    basis=noise_basis,
    summary="DPM-Solver-3, single-step, noise prediction",
    paper=_PAPER | {"test": "tests/recipes/test_equivalence.py::test_dpm_solver_agrees_with_diffusers"},
)
def dpm_solver_3(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """Two inner points at a third and two thirds of log-SNR: order 3, three evaluations per step (arXiv 2206.00927)."""
    return _write(path, times, stages)


def fast_layout(evaluations: int) -> tuple[int, ...]:
    """K = floor(N/3) + 1 intervals: of order 3 as long as the budget N lasts, with 2 and 1 evaluations to end it."""
    full, rest = divmod(evaluations, 3)
    if rest == 0 and full > 0:
        return (3,) * (full - 1) + (2, 1)
    return (3,) * full + ((rest,) if rest else ())


@recipe(
    "dpm_fast",
    order=3,
    evaluations=3,
    basis=noise_basis,
    layout=fast_layout,
    summary='DPM-Solver-fast: order 3, with the published shares of a budget ("dpm_fast" of k-diffusion)',
    paper=_PAPER | {"test": "tests/recipes/test_dpm_fast.py::test_dpm_fast_deals_its_budget_as_published"},
)
def dpm_fast(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """Steps of `dpm_solver_3`, closed by one of order 2 or 1 or by both, whatever the budget leaves (arXiv 2206.00927).

    The authors use it on a grid even in log-SNR (grid="log_snr").
    """
    return _write(path, times, stages)


@recipe(
    "dpm_2",
    order=2,
    evaluations=2,
    basis=noise_basis,
    summary='midpoint rule with the middle of log sigma ("dpm_2" of k-diffusion); the step of DPM-Solver-2',
)
def dpm_2(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """x'/a' = x/a + (sigma' - sigma) E(u), u the Euler point at sqrt(sigma sigma'): order 2, two evaluations per step.

    Algorithm 2 of arXiv 2206.00364 with the intermediate point of DPM-Solver-2.
    """
    return _write(path, times, stages)
