"""MRS: solvers for mean-reverting paths, exponential integrators in log-SNR that carry the mean exactly.

With h = lam' - lam and D_1 = (D - D_-1)/r, r the ratio of the last two steps, they are DPM-Solver(++) in its phi_2 form on x
- b y: what they add of y is the coefficient on the anchor that every table on an anchored path has.
"""

from __future__ import annotations

import math

from retrograde import systems
from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.dpmpp import dpmpp_3m
from retrograde.recipes.exponential_multistep import multistep_row
from retrograde.recipes.recipe import level, noise_basis, recipe


def _check(order: int, most: int) -> None:
    if order not in range(1, most + 1):
        raise BadValue(f"order={order}", f"1 to {most}", "order=2")


def _write(path: Path, times: tuple[float, ...], order: int, kind: str) -> list[Row]:
    """Return rows of order one or two; kind is "ode" or "sde" on the data mean, or "noise"."""
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        if kind == "noise":
            keep, gain, fresh = there.a / here.a, there.a * (there.sigma - here.sigma), 0.0
        else:
            decay = there.sigma / here.sigma if kind == "sde" else 1.0
            keep = decay * there.s / here.s
            gain, fresh = there.a - here.a * keep, there.s * math.sqrt(1.0 - decay**2)
        outputs = (gain,)
        if i > 0 and order > 1:
            h = there.lam - here.lam
            r = (here.lam - levels[i - 1].lam) / h
            if kind == "noise":
                slope = -there.s * (math.expm1(h) / h - 1.0) / r
            else:
                k = 2.0 * h if kind == "sde" else h
                slope = there.a * (math.expm1(-k) / k + 1.0) / r
            outputs = (gain + slope, -slope)
        rows.append(Row(here.t, there.t, (keep,), outputs, (fresh,) if kind == "sde" else ()))
    return rows


@recipe(
    "mrs_ode",
    order=2,
    summary="MRS on the data mean, for mean-reverting paths: DPM-Solver++(2M) in its phi_2 form",
)
def mrs_ode(path: Path, times: tuple[float, ...], order: int = 2) -> list[Row]:
    """x' = (s'/s) x - a' (phi_1 D - phi_2 D_1) + b-part, phi_1 = e^-h - 1, phi_2 = phi_1/h + 1; arXiv 2502.07856.

    One evaluation per step. order = 1 is DDIM; order = 3 adds -a' phi_3 D_2 as DPM-Solver++(3M) does, and like that keeps
    order 2 with a smaller constant: D_2 is half of the second difference. `unip_3` has all of it, and order 3 on these
    paths too.

    Raises:
        BadValue: an order outside 1, 2, 3.
    """
    _check(order, 3)
    rows = _write(path, times, order, "ode")
    if order == 3:
        rows = [three if len(three.outputs) == 3 else two for two, three in zip(rows, dpmpp_3m(path, times), strict=True)]
    return rows


@recipe(
    "mrs_noise",
    order=2,
    basis=noise_basis,
    summary="MRS on the noise mean, for mean-reverting paths: DPM-Solver multistep in its phi_2 form",
)
def mrs_noise(path: Path, times: tuple[float, ...], order: int = 2) -> list[Row]:
    """x' = (a'/a) x - s' (phi_1 E + phi_2 E_1) + b-part, phi_1 = e^h - 1, phi_2 = phi_1/h - 1; arXiv 2502.07856.

    One evaluation per step; order = 1 is DDIM.

    Raises:
        BadValue: an order outside 1, 2.
    """
    _check(order, 2)
    return _write(path, times, order, "noise")


@recipe(
    "mrs_sde",
    order=2,
    stochastic=True,
    summary="MRS on the data mean for the reverse SDE of mean-reverting paths",
)
def mrs_sde(path: Path, times: tuple[float, ...], order: int = 2) -> list[Row]:
    """x' = (s'/s) e^-h x + a' (1 - e^-2h) D + a' (1 - (1 - e^-2h)/(2h)) D_1 + s' sqrt(1 - e^-2h) eps + b-part.

    Weak order 2, one evaluation per step; order = 1 is DDPM (arXiv 2502.07856).

    Raises:
        BadValue: an order outside 1, 2.
    """
    _check(order, 2)
    return _write(path, times, order, "sde")


@recipe(
    "mrs_noise_sde",
    order=2,
    basis=noise_basis,
    stochastic=True,
    approximate=True,
    summary="MRS on the noise mean for the reverse SDE of mean-reverting paths",
)
def mrs_noise_sde(path: Path, times: tuple[float, ...], order: int = 2) -> list[Row]:
    """x' = (a'/a) x - 2 s' (phi_1 E + phi_2 E_1) + s' sqrt(e^2h - 1) eps + b-part, phi as in `mrs_noise`; 2502.07856.

    Weak order 2, one evaluation per step; order = 1 is SEEDS-1. It misses the point-mass law by terms of order h^2.

    Raises:
        BadValue: an order outside 1, 2.
    """
    _check(order, 2)
    levels = [level(path, t) for t in times]
    return [
        multistep_row([levels[i], *levels[i - 1 : i]][:order], there, "noise", "heun", eta=1.0)
        for i, there in enumerate(levels[1:])
    ]


systems.register(
    systems.System(
        title="MRS: A Fast Sampler for Mean Reverting Diffusion based on ODE and SDE Solvers",
        authors=("Ao Li", "Wei Fang", "Hongbo Zhao", "Le Lu", "Ge Yang", "Minfeng Xu"),
        year=2025,
        arxiv="2502.07856",
        home="solvers",
        call="rg.plan('mrs_ode', rg.paths.mean_reverting_cosine(), nfe=10)",
        test="tests/recipes/test_mrs.py::test_mrs_has_the_published_coefficients",
    )
)
