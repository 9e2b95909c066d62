"""DPM-Solver++: exponential integrators in log-SNR on the data prediction.

With h = lam' - lam, the exact step for a constant data mean is x' = (s'/s) x + (a' - a s'/s) D, for a' (1 - e^-h) = a' -
a s'/s; multistep variants replace D by an extrapolation of past predictions.
"""

from __future__ import annotations

import math

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, level_between, recipe
from retrograde.recipes.res import three_stages

_PAPER = {
    "title": "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
    "authors": ("Cheng Lu", "Yuhao Zhou", "Fan Bao", "Jianfei Chen", "Chongxuan Li", "Jun Zhu"),
    "year": 2022,
    "arxiv": "2211.01095",
}


def _gain(here: Level, there: Level) -> float:
    """a' (1 - e^-h), also where the path holds no signal at the start (h infinite)."""
    return there.a - here.a * there.s / here.s


def _first(here: Level, there: Level) -> Row:
    return Row(here.t, there.t, (there.s / here.s,), (_gain(here, there),))


@recipe(
    "dpmpp_2s",
    order=2,
    evaluations=2,
    summary="DPM-Solver++(2S), single-step",
    paper=_PAPER | {"test": "tests/recipes/test_equivalence.py::test_dpmpp_agrees_with_diffusers"},
)
def dpmpp_2s(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """The data mean at the middle of log-SNR serves the whole step: order 2, two evaluations per step (arXiv 2211.01095).

    A first interval from a level without signal has no middle; it takes a step of order one, with one evaluation less.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        if count == 1:
            rows.append(_first(here, there))
            continue
        if here.a > 0.0:
            middle = level_between(path, here, there, 0.5)
        else:
            middle = level(path, 0.5 * (here.t + there.t))  # any level between: only the order of this interval falls
        rows += [_first(here, middle), Row(middle.t, there.t, (0.0, there.s / here.s), (_gain(here, there), 0.0))]
    return rows


@recipe(
    "dpmpp_3s",
    order=3,
    evaluations=3,
    summary="DPM-Solver++(3S), single-step",
    paper=_PAPER | {"test": "tests/recipes/test_res.py::test_dpmpp_3s_is_the_published_step"},
)
def dpmpp_3s(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """Inner points at a third and two thirds of log-SNR: order 3, three evaluations per step (arXiv 2211.01095).

    What is left of a budget goes to a step of 2S or of order one.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        rows += three_stages(path, here, there) if count == 3 else dpmpp_2s(path, (here.t, there.t), (count,))
    return rows


def _ratio(before: Level, here: Level, there: Level) -> float:
    """Previous step over this one, in log-SNR; infinite after a start without signal."""
    return (here.lam - before.lam) / (there.lam - here.lam)


def _two(before: Level, here: Level, there: Level, gain: float) -> tuple[float, float]:
    slope = 0.5 / _ratio(before, here, there)
    return gain * (1.0 + slope), -gain * slope


@recipe(
    "dpmpp_2m",
    order=2,
    summary="DPM-Solver++(2M), multistep; the usual choice",
    paper=_PAPER | {"test": "tests/recipes/test_equivalence.py::test_dpmpp_agrees_with_diffusers"},
)
def dpmpp_2m(path: Path, times: tuple[float, ...]) -> list[Row]:
    """D + (D - D_-1)/(2r) for D, with r the ratio of the last two steps: order 2, one evaluation (arXiv 2211.01095)."""
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        if i == 0:
            rows.append(_first(here, there))
        else:
            outputs = _two(levels[i - 1], here, there, _gain(here, there))
            rows.append(Row(here.t, there.t, (there.s / here.s,), outputs))
    return rows


@recipe(
    "dpmpp_3m",
    order=2,
    summary="DPM-Solver++(3M), multistep",
    paper=_PAPER | {"test": "tests/recipes/test_equivalence.py::test_dpmpp_agrees_with_diffusers"},
)
def dpmpp_3m(path: Path, times: tuple[float, ...]) -> list[Row]:
    """Extrapolation of the data mean from three predictions: order 2, one evaluation (arXiv 2211.01095).

    x' = (s'/s) x - a'(phi_1 D - phi_2 D_1 + phi_3 D_2), phi_1 = e^-h - 1, phi_2 = phi_1/h + 1, phi_3 = phi_2/h - 1/2, with
    D_1 and D_2 from divided differences of three predictions. Starts with orders 1 and 2.

    The published code takes D_2 = (u_0 - u_1)/(r_0 + r_1), which is half of h^2 D''; the integral of the quadratic needs
    all of it. So the order is 2, with a smaller constant than 2M, not the 3 of the name; `unip_3` is the same step with
    the full second difference and has order 3.
    """
    levels = [level(path, t) for t in times]
    rows = dpmpp_2m(path, times)
    for i in range(2, len(levels) - 1):
        here, there = levels[i], levels[i + 1]
        if levels[i - 2].a == 0.0:
            continue  # the oldest step is infinitely long in log-SNR: its weight is zero, which is order two
        h = there.lam - here.lam
        r0, r1 = (here.lam - levels[i - 1].lam) / h, (levels[i - 1].lam - levels[i - 2].lam) / h
        phi_1 = math.expm1(-h)
        phi_2 = phi_1 / h + 1.0
        phi_3 = phi_2 / h - 0.5
        # D_1 = (1 + w) u_0 - w u_1, D_2 = (u_0 - u_1)/(r0 + r1), u_0 = (D - D_-1)/r0, u_1 = (D_-1 - D_-2)/r1
        w = r0 / (r0 + r1)
        on_u0 = there.a * (phi_2 * (1.0 + w) - phi_3 / (r0 + r1))
        on_u1 = there.a * (-phi_2 * w + phi_3 / (r0 + r1))
        newest = -there.a * phi_1 + on_u0 / r0
        outputs = (newest, -on_u0 / r0 + on_u1 / r1, -on_u1 / r1)
        rows[i] = Row(here.t, there.t, (there.s / here.s,), outputs)
    return rows


@recipe(
    "dpmpp_2m_sde",
    order=2,
    stochastic=True,
    summary="DPM-Solver++(2M) for the reverse SDE, midpoint form",
    paper=_PAPER | {"test": "tests/recipes/test_equivalence.py::test_dpmpp_agrees_with_diffusers"},
)
def dpmpp_2m_sde(path: Path, times: tuple[float, ...], eta: float = 1.0) -> list[Row]:
    """x' = (s'/s) e^(-eta h) x + a'(1 - e^-(1+eta)h) D-bar + s' sqrt(1 - e^(-2 eta h)) eps; arXiv 2211.01095.

    One evaluation per step, D-bar as in 2M. eta = 1 is the reverse SDE, eta = 0 the deterministic 2M. Weak order 2: the
    noise of the SDE is additive, and the difference of the last two predictions carries the last draw, whose covariance
    with the state is the term of order h^2 that a step of order one misses.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        decay = (there.sigma / here.sigma) ** eta  # e^(-eta h)
        gain = there.a - here.a * decay * there.s / here.s
        outputs = (gain,) if i == 0 else _two(levels[i - 1], here, there, gain)
        fresh = there.s * math.sqrt(1.0 - decay**2)
        rows.append(Row(here.t, there.t, (decay * there.s / here.s,), outputs, (fresh,) if eta else ()))
    return rows
