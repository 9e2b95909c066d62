"""Exponential Runge-Kutta and multistep methods on the data prediction, with the exact phi functions.

With h = lam' - lam and phi_k at -h, phi_1 = (1 - e^-h)/h and phi_k+1 = (1/k! - phi_k)/h, a step is
x' = (s'/s) x + a' h sum_j b_j D_j where the b_j add up to phi_1. DPM-Solver++ of order 2 replaces phi_2 by phi_1/2, which is
enough for its order on smooth problems; the "refined" solver (RES) keeps phi_2, as the conditions of stiff order ask.
"""

from __future__ import annotations

import math

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, level_between, recipe

_RES = {
    "title": "Improved Order Analysis and Design of Exponential Integrator for Diffusion Models Sampling",
    "authors": ("Qinsheng Zhang", "Jiaming Song", "Yongxin Chen"),
    "year": 2023,
    "arxiv": "2308.02157",
}
_ETD = {
    "title": "Exponential Time Differencing for Stiff Systems",
    "authors": ("Steven M. Cox", "Paul C. Matthews"),
    "year": 2002,
}


def exponential_row(asked: Level, here: Level, target: Level, later: tuple[float, ...] = ()) -> Row:
    """Return the row that moves the state at `here` to `target` after the prediction at `asked`.

    `later` are the weights of the predictions after the first of the step, oldest first; the first takes the rest of the
    gain a' - a s'/s, which is a' h phi_1.
    """
    gain = target.a - here.a * target.s / here.s
    outputs = (*reversed(later), gain - math.fsum(later))
    return Row(asked.t, target.t, (0.0,) * len(later) + (target.s / here.s,), outputs)


def h_phi(here: Level, there: Level) -> tuple[float, float, float]:
    """Return h phi_1, h phi_2 and h phi_3 at -h, for the step from here to there."""
    h = there.lam - here.lam
    one = -math.expm1(-h)
    two = 1.0 - one / h
    return one, two, 0.5 - two / h


def points_between(path: Path, here: Level, there: Level, ratios: tuple[float, ...]) -> list[Level]:
    """Return the levels at parts of the step in log-SNR; from a level without signal, at parts of path time."""
    if here.a > 0.0:
        return [there if ratio == 1.0 else level_between(path, here, there, ratio) for ratio in ratios]
    return [there if ratio == 1.0 else level(path, here.t + ratio * (there.t - here.t)) for ratio in ratios]


def from_no_signal(here: Level, targets: list[Level]) -> list[Row]:
    """The step from a level without signal, infinitely long in log-SNR: each stage takes the newest prediction alone."""
    rows, asked = [], here
    for j, target in enumerate(targets):
        gain = target.a - here.a * target.s / here.s
        rows.append(exponential_row(asked, here, target, (0.0,) * (j - 1) + (gain,) if j else ()))
        asked = target
    return rows


def two_stages(path: Path, here: Level, there: Level, ratio: float) -> list[Row]:
    """b_2 = phi_2/c_2, the inner point at a part c_2 = `ratio` of the step: order 2, also in the stiff sense."""
    (inner,) = points_between(path, here, there, (ratio,))
    if here.a == 0.0:
        return from_no_signal(here, [inner, there])
    _, two, _ = h_phi(here, there)
    return [exponential_row(here, here, inner), exponential_row(inner, here, there, (there.a * two / ratio,))]


def three_stages(path: Path, here: Level, there: Level) -> list[Row]:
    """c = (1/3, 2/3), a_32 = 2 c_3 phi_2(-c_3 h), b = (phi_1 - phi_2/c_3, 0, phi_2/c_3): order 3, also when stiff."""
    one, two = points_between(path, here, there, (1 / 3, 2 / 3))
    if here.a == 0.0:
        return from_no_signal(here, [one, two, there])
    return [
        exponential_row(here, here, one),
        exponential_row(one, here, two, (two.a * 2.0 * h_phi(here, two)[1],)),
        exponential_row(two, here, there, (0.0, there.a * 1.5 * h_phi(here, there)[1])),
    ]


def _cox_matthews(path: Path, here: Level, there: Level) -> list[Row]:
    (middle,) = points_between(path, here, there, (0.5,))
    if here.a == 0.0:
        return from_no_signal(here, [middle, there, there])
    one, two, three = (there.a * value for value in h_phi(here, there))
    return [
        exponential_row(here, here, middle),
        exponential_row(middle, here, there, (2.0 * one,)),
        exponential_row(there, here, there, (4.0 * two - 8.0 * three, 4.0 * three - two)),
    ]


def _first(here: Level, there: Level) -> list[Row]:
    return [exponential_row(here, here, there)]


@recipe(
    "res_2m",
    order=2,
    summary="refined exponential solver, multistep of order 2 with the exact phi_2",
    paper=_RES | {"test": "tests/recipes/test_res.py::test_res_2m_is_the_published_step"},
)
def res_2m(path: Path, times: tuple[float, ...]) -> list[Row]:
    """D + (phi_2/phi_1) h (D - D_-1)/h_-1 for D: the exact step for data means linear in log-SNR (arXiv 2308.02157).

    Order 2, one evaluation per step. Of order 3, the same with one more prediction, is `unip_3`.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        if i == 0:
            rows += _first(here, there)
            continue
        _, two, _ = h_phi(here, there)
        slope = there.a * two * (there.lam - here.lam) / (here.lam - levels[i - 1].lam)
        gain = there.a - here.a * there.s / here.s
        rows.append(Row(here.t, there.t, (there.s / here.s,), (gain + slope, -slope)))
    return rows


@recipe(
    "res_2s",
    order=2,
    evaluations=2,
    summary="refined exponential solver, single-step of order 2 with the exact phi_2",
    paper=_RES | {"test": "tests/recipes/test_res.py::test_exponential_methods_meet_the_stiff_order_conditions"},
)
def res_2s(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = (), ratio: float = 0.5) -> list[Row]:
    """x' = (s'/s) x + a' h ((phi_1 - phi_2/c) D + (phi_2/c) D_c): order 2, two evaluations per step (arXiv 2308.02157).

    Args:
        ratio: c, the place of the inner point in log-SNR.

    Raises:
        BadValue: ratio outside (0, 1].
    """
    if not 0.0 < ratio <= 1.0:
        raise BadValue(f"ratio={ratio}", "0 < ratio <= 1: a part of the step", "ratio=0.5")
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        rows += _first(here, there) if count == 1 else two_stages(path, here, there, ratio)
    return rows


@recipe(
    "etdrk_2",
    order=2,
    evaluations=2,
    summary="exponential Heun: exponential time differencing with two stages",
    paper=_ETD | {"test": "tests/recipes/test_res.py::test_exponential_methods_meet_the_stiff_order_conditions"},
)
def etdrk_2(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """`res_2s` with the inner point at the end of the step (Cox and Matthews, 2002): order 2, two evaluations per step."""
    return res_2s(path, times, stages, ratio=1.0)


@recipe(
    "etdrk_3",
    order=3,
    evaluations=3,
    summary="exponential time differencing with three stages",
    paper=_ETD | {"test": "tests/recipes/test_res.py::test_exponential_methods_meet_the_stiff_order_conditions"},
)
def etdrk_3(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """c = (1/2, 1), a_32 = 2 phi_1, b = (phi_1 - 3 phi_2 + 4 phi_3, 4 phi_2 - 8 phi_3, 4 phi_3 - phi_2): order 3, three
    evaluations per step (Cox and Matthews, 2002).
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        if count == 1:
            rows += _first(here, there)
        else:
            rows += two_stages(path, here, there, 1.0) if count == 2 else _cox_matthews(path, here, there)
    return rows
