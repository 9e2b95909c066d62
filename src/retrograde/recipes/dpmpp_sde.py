"""Stochastic exponential integrators on the data prediction, for the reverse SDE in log-SNR.

With decay = e^(-eta h) the exact step for a constant data mean is x' = (s'/s) decay x + (a' - a (s'/s) decay) D + s'
sqrt(1 - decay^2) eps. Two-stage methods look at D in the middle of a step, and share one Brownian path between the stages.
"""

from __future__ import annotations

import math

from retrograde.errors import BadValue, UnknownName
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, level_between, recipe

_SEEDS = {
    "title": "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling from Diffusion Models",
    "authors": ("Martin Gonzalez", "Nelson Fernandez", "Thuy Tran", "Elies Gherbi", "Hatem Hajri", "Nader Masmoudi"),
    "year": 2023,
    "arxiv": "2305.14267",
    "test": "tests/recipes/test_dpmpp_sde.py::test_seeds_2_shares_the_noise_of_the_sde",
}


def _ratio(here: Level, there: Level) -> float:
    """sigma'/sigma, zero after a level without signal."""
    return there.sigma / here.sigma


def _middle(path: Path, here: Level, there: Level, r: float) -> Level:
    # without signal at the start log-SNR has no middle: any level between serves
    return level_between(path, here, there, r) if here.a > 0.0 else level(path, here.t + r * (there.t - here.t))


def _keep(here: Level, there: Level, up: float) -> float:
    """Coefficient of x in a step that leaves room for noise of size `up`, a share of the next level."""
    return there.s * math.sqrt(1.0 - up * up) / here.s


def _clock(path: Path, at: Level) -> float:
    """The time of the Brownian path: sigma, or path time where the noise end holds no signal."""
    return at.t if path.a(path.t_max) == 0.0 else at.sigma


def _check(eta: float, r: float = 0.5, whole: bool = False) -> None:
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from deterministic to the reverse SDE", "eta=1.0")
    if not 0.0 < r < 1.0 and not (whole and r == 1.0):
        raise BadValue(f"r={r}", "0 < r < 1: where in the step the second stage looks", "r=0.5")


@recipe(
    "dpmpp_sde",
    order=2,
    evaluations=2,
    stochastic=True,
    approximate=True,
    summary="DPM-Solver++ for the reverse SDE, two stages on one Brownian path",
)
def dpmpp_sde(
    path: Path,
    times: tuple[float, ...],
    stages: tuple[int, ...] = (),
    eta: float = 1.0,
    s_noise: float = 1.0,
    r: float = 0.5,
) -> list[Row]:
    """Each stage is an ancestral step with sigma_up = eta sigma' sqrt(1 - sigma'^2/sigma^2); D' = (1 - 1/(2r)) D + D_m/(2r).

    The noise of the whole step is the increment of the Brownian path of which the first stage saw the first part: with
    the part p = (sigma - sigma_m)/(sigma - sigma') it is sqrt(p) eps_1 + sqrt(1 - p) eps_2. As in k-diffusion, after
    arXiv 2211.01095; weak order 2.
    """
    _check(eta, r)
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        up = eta * math.sqrt(1.0 - _ratio(here, there) ** 2)
        keep, fresh = _keep(here, there, up), s_noise * there.s * up
        gain = there.a - here.a * keep
        if count == 1:
            rows.append(Row(here.t, there.t, (keep,), (gain,), (fresh,) if eta else ()))
            continue
        middle = _middle(path, here, there, r)
        inner = eta * math.sqrt(1.0 - _ratio(here, middle) ** 2)
        first = _keep(here, middle, inner)
        ticks = [_clock(path, at) for at in (here, middle, there)]
        part = (ticks[0] - ticks[1]) / (ticks[0] - ticks[2]) if math.isfinite(ticks[0]) else 1.0
        noises = (fresh * math.sqrt(1.0 - part), fresh * math.sqrt(part))
        weights = (gain / (2.0 * r), gain * (1.0 - 1.0 / (2.0 * r)))
        rows += [
            Row(here.t, middle.t, (first,), (middle.a - here.a * first,), (s_noise * middle.s * inner,) if eta else ()),
            Row(middle.t, there.t, (0.0, keep), weights, noises if eta else ()),
        ]
    return rows


@recipe(
    "seeds_2",
    order=2,
    evaluations=2,
    stochastic=True,
    summary="SEEDS-2 on the data prediction: two stages, noise split as in the SDE",
    paper=_SEEDS,
)
def seeds_2(
    path: Path,
    times: tuple[float, ...],
    stages: tuple[int, ...] = (),
    eta: float = 1.0,
    r: float = 0.5,
    weights: str = "phi_1",
) -> list[Row]:
    """As dpmpp_sde, with the decay e^(-eta h) and the noise of both stages as the linear SDE gives them: weak order 2.

    x_m = (s_m/s) e^(-eta r h) x + gain_m D + s_m sqrt(1 - e^(-2 eta r h)) eps_1, and the noise of the step is s' (sqrt(1 -
    e^(-2 eta (1-r) h)) eps_2 + e^(-eta (1-r) h) sqrt(1 - e^(-2 eta r h)) eps_1); arXiv 2305.14267. The second prediction
    weighs gain/(2 r) ("phi_1"), or a' phi_2/r with the exact integral of the slope ("phi_2"). r = 1 with "phi_2" is the
    stochastic exponential Heun method ("exp_heun_2_x0_sde" of ComfyUI).

    Raises:
        UnknownName: weights other than "phi_1" and "phi_2".
        BadValue: eta outside [0, 1], or r outside (0, 1].
    """
    _check(eta, r, whole=True)
    if weights not in ("phi_1", "phi_2"):
        raise UnknownName("weights", weights, ("phi_1", "phi_2"))
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        decay = _ratio(here, there) ** eta
        keep = decay * there.s / here.s
        gain = there.a - here.a * keep
        if count == 1:
            rows.append(Row(here.t, there.t, (keep,), (gain,), (there.s * math.sqrt(1.0 - decay**2),) if eta else ()))
            continue
        middle = there if r == 1.0 else _middle(path, here, there, r)
        before, after = _ratio(here, middle) ** eta, _ratio(middle, there) ** eta
        first, seen = before * middle.s / here.s, math.sqrt(1.0 - before**2)
        noises = (there.s * math.sqrt(1.0 - after**2), there.s * after * seen)
        second = gain / (2.0 * r)
        if weights == "phi_2" and here.a > 0.0:
            k = (1.0 + eta) * (there.lam - here.lam)
            second = there.a * (1.0 + math.expm1(-k) / k) / r
        rows += [
            Row(here.t, middle.t, (first,), (middle.a - here.a * first,), (middle.s * seen,) if eta else ()),
            Row(middle.t, there.t, (0.0, keep), (second, gain - second), noises if eta else ()),
        ]
    return rows


@recipe(
    "dpmpp_3m_sde",
    order=2,
    stochastic=True,
    approximate=True,
    summary="DPM-Solver++(3M) for the reverse SDE",
)
def dpmpp_3m_sde(path: Path, times: tuple[float, ...], eta: float = 1.0, s_noise: float = 1.0) -> list[Row]:
    """D is extrapolated by D_1 phi_2 - D_2 phi_3 of three predictions, phi_2 = 1 + (e^-k - 1)/k, k = (1 + eta) h.

    As in k-diffusion after arXiv 2211.01095, with its half of the second difference. The noise of the SDE caps the weak
    order at 2; one evaluation per step, starts with orders 1 and 2.
    """
    _check(eta)
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        decay = _ratio(here, there) ** eta
        keep = decay * there.s / here.s
        outputs = [there.a - here.a * keep, 0.0, 0.0]
        past = [levels[i - k] for k in (1, 2) if i >= k and levels[i - k].a > 0.0]
        if past:
            h = there.lam - here.lam
            k = (1.0 + eta) * h
            phi_2 = math.expm1(-k) / k + 1.0
            r0 = (here.lam - past[0].lam) / h
            on_u0, on_u1, r1 = there.a * phi_2, 0.0, 1.0  # u_0 = (D - D_-1)/r0, u_1 = (D_-1 - D_-2)/r1
            if len(past) == 2:
                r1 = (past[0].lam - past[1].lam) / h
                second = there.a * (phi_2 * r0 - (phi_2 / k - 0.5)) / (r0 + r1)
                on_u0, on_u1 = on_u0 + second, -second
            outputs = [outputs[0] + on_u0 / r0, -on_u0 / r0 + on_u1 / r1, -on_u1 / r1]
        fresh = s_noise * there.s * math.sqrt(1.0 - decay**2)
        rows.append(Row(here.t, there.t, (keep,), tuple(outputs[: min(i, 2) + 1]), (fresh,) if eta else ()))
    return rows
