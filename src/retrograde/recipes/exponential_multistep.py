"""Exponential multistep methods in both parameterizations, with and without the noise of the reverse SDE.

With h = lam' - lam and k = (1 + eta) h, from data predictions

    x' = (s'/s) e^(-eta h) x + a' (1 - e^-k) D + a' w D_1 - a' v D_2 + s' sqrt(1 - e^(-2 eta h)) eps,

and from noise predictions (eta 0 or 1; with 1 it misses the point-mass law by terms of order h^2)

    x' = (a'/a) x - (1 + eta) s' ((e^h - 1) E + w E_1 + v E_2) + s' sqrt(eta (e^(2h) - 1)) eps.

D_1 is h times the slope, D_2 half of h^2 times the second derivative, by differences of the last predictions. In the form
"midpoint" w is half of the first weight; in the form "heun" it is the integral of the slope, 1 - (1 - e^-k)/k and
(e^h - 1)/h - 1.
"""

from __future__ import annotations

import math

from retrograde.errors import UnknownName
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, noise_basis, recipe

FORMS = ("midpoint", "heun")

_PAPER = {
    "title": "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
    "authors": ("Cheng Lu", "Yuhao Zhou", "Fan Bao", "Jianfei Chen", "Chongxuan Li", "Jun Zhu"),
    "year": 2022,
    "arxiv": "2211.01095",
}


def weights(h: float, basis: str, form: str, eta: float) -> tuple[float, float, float]:
    """Return the weights of D, D_1 and D_2 (in the direction of D, without a' or s') in a step of length h."""
    if basis == "data":
        k = (1.0 + eta) * h
        one = -math.expm1(-k)
        slope = 1.0 - one / k
        return one, (0.5 * one if form == "midpoint" else slope), -(slope / k - 0.5)
    one = math.expm1(h)
    slope = one / h - 1.0
    share = -(1.0 + eta)
    return share * one, share * (0.5 * one if form == "midpoint" else slope), share * (slope / h - 0.5)


def multistep_row(
    levels: list[Level], there: Level, basis: str, form: str = "midpoint", eta: float = 0.0, second: float = 1.0
) -> Row:
    """Return the step from levels[0], the newest, to `there` with the predictions at up to three levels.

    Args:
        second: factor on D_2: 1 as the solvers of DPM-Solver++ publish it, 2 for the whole integral of the parabola.
    """
    here = levels[0]
    h = there.lam - here.lam
    w_0, w_1, w_2 = weights(h, basis, form if len(levels) == 2 else "heun", eta)
    on = [w_0, 0.0, 0.0]
    if len(levels) > 1:
        r_0 = (here.lam - levels[1].lam) / h
        on[0], on[1] = on[0] + w_1 / r_0, -w_1 / r_0
    if len(levels) > 2:
        r_1 = (levels[1].lam - levels[2].lam) / h
        # D_1 = u_0 + r_0/(r_0 + r_1) (u_0 - u_1), D_2 = (u_0 - u_1)/(r_0 + r_1)
        extra = (w_1 * r_0 + second * w_2) / (r_0 + r_1)
        on = [on[0] + extra / r_0, on[1] - extra / r_0 - extra / r_1, extra / r_1]
    scale = there.a if basis == "data" else there.s
    keep = (there.s / here.s) * math.exp(-eta * h) if basis == "data" else there.a / here.a
    fresh = (there.s * math.sqrt(-math.expm1(-2.0 * h * eta) if basis == "data" else math.expm1(2.0 * h)),) if eta else ()
    return Row(here.t, there.t, (keep,), tuple(scale * w for w in on[: len(levels)]), fresh)


def _write(path: Path, times: tuple[float, ...], order: int, basis: str, form: str, eta: float) -> list[Row]:
    if form not in FORMS:
        raise UnknownName("form of the second-order step", form, FORMS)
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        if here.a == 0.0:  # infinitely long in log-SNR
            rows.append(Row(here.t, there.t, (0.0 if eta else there.s / here.s,), (there.a,), (there.s,) if eta else ()))
            continue
        known = [levels[i - j] for j in range(min(order, i + 1)) if levels[i - j].a > 0.0]
        rows.append(multistep_row(known, there, basis, form, eta))
    return rows


@recipe(
    "dpm_solver_2m",
    order=2,
    basis=noise_basis,
    summary="DPM-Solver of order 2 with the last two noise predictions",
    paper=_PAPER | {"test": "tests/interop/test_diffusers.py::test_a_scheduler_of_diffusers_is_its_plan"},
)
def dpm_solver_2m(path: Path, times: tuple[float, ...], form: str = "midpoint") -> list[Row]:
    """The multistep method on noise predictions, in one of its two forms: order 2, one evaluation (arXiv 2211.01095).

    Raises:
        UnknownName: a form other than "midpoint" and "heun".
    """
    return _write(path, times, 2, "noise", form, 0.0)


@recipe("dpm_solver_3m", order=2, basis=noise_basis, summary="DPM-Solver with the last three noise predictions")
def dpm_solver_3m(path: Path, times: tuple[float, ...]) -> list[Row]:
    """Three noise predictions, with the published half of the second difference: order 2, as `dpmpp_3m`; one evaluation."""
    return _write(path, times, 3, "noise", "heun", 0.0)


@recipe(
    "dpmpp_2m_sde_heun",
    order=2,
    stochastic=True,
    summary="DPM-Solver++(2M) for the reverse SDE, with the integral of the slope",
)
def dpmpp_2m_sde_heun(path: Path, times: tuple[float, ...], eta: float = 1.0) -> list[Row]:
    """As `dpmpp_2m_sde` in the form "heun", where the slope is integrated exactly: weak order 2, one evaluation per step."""
    return _write(path, times, 2, "data", "heun", eta)
