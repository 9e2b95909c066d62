"""SA-Solver: stochastic Adams methods for the reverse SDE with noise of strength tau."""

from __future__ import annotations

import math
from itertools import zip_longest

import numpy as np

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, recipe

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def _decay(here: Level, there: Level, tau: float) -> float:
    return (there.sigma / here.sigma) ** (tau * tau)


def _adams(here: Level, there: Level, knots: list[Level], tau: float) -> list[float]:
    """Return the coefficients of the predictions at the knots in the step from here to there.

    a' (1 + tau^2) int e^(-(1 + tau^2)(lam' - lam)) l_j(lam) dlam from lam to lam', l_j the Lagrange polynomials of the
    knots in log-SNR; knots without signal, infinitely far away, have weight zero.
    """
    gain = there.a - here.a * _decay(here, there, tau) * there.s / here.s
    usable = [knot for knot in knots if knot.a > 0.0]
    if here.a == 0.0 or len(usable) < 2:
        return [gain] + [0.0] * (len(knots) - 1)
    h = there.lam - here.lam
    k, u = (1.0 + tau * tau) * h, 0.5 * (_NODES + 1.0)
    density = there.a * k * 0.5 * _WEIGHTS * np.exp(-k * (1.0 - u))
    places = [(knot.lam - here.lam) / h for knot in usable]
    weights = []
    for place in places:
        others = [other for other in places if other != place]
        weights.append(float(density @ np.prod([(u - other) / (place - other) for other in others], axis=0)))
    # the polynomials add up to one, the integral of one is known: give the rounding to the newest
    weights[0] += gain - math.fsum(weights)
    return weights + [0.0] * (len(knots) - len(usable))


@recipe(
    "sa_solver",
    order=2,
    stochastic=True,
    summary="stochastic Adams predictor and corrector, noise of strength tau",
    paper={
        "title": "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models",
        "authors": (
            "Shuchen Xue",
            "Mingyang Yi",
            "Weijian Luo",
            "Shifeng Zhang",
            "Jiacheng Sun",
            "Zhenguo Li",
            "Zhi-Ming Ma",
        ),
        "year": 2023,
        "arxiv": "2309.05019",
        "test": "tests/recipes/test_sa_solver.py::test_sa_solver_is_the_loop_with_exact_integrals",
    },
)
def sa_solver(
    path: Path,
    times: tuple[float, ...],
    predictor: int = 3,
    corrector: int = 3,
    tau: float = 1.0,
    tau_min: float = 0.0,
    tau_max: float = math.inf,
) -> list[Row]:
    """x' = (s'/s) e^(-tau^2 h) x + sum_j b_j D_j + s' sqrt(1 - e^(-2 tau^2 h)) eps, one evaluation per step.

    D is integrated as the polynomial through the last `predictor` predictions; then, with the same noise, through the
    newest and the last `corrector` - 1 before it (corrector=0 leaves the correction out). arXiv 2309.05019. For tau = 1
    the noise caps the weak order at 2; for tau = 0 these are the deterministic Adams methods of their order.

    Args:
        tau: strength of the noise on steps that start at tau_min <= sigma <= tau_max, zero elsewhere.

    Raises:
        BadValue: an order outside 1..4 (0..4 for the corrector), or a negative tau.
    """
    if not 1 <= predictor <= 4 or not 0 <= corrector <= 4 or tau < 0.0:
        given = f"predictor={predictor}, corrector={corrector}, tau={tau}"
        raise BadValue(given, "1 <= predictor <= 4, 0 <= corrector <= 4, tau >= 0", "predictor=3, corrector=3, tau=1.0")
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    predicted: list[float] = []
    strength = 0.0
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        asked: float | None = here.t
        if corrector and i > 0 and levels[i - 1].a > 0.0:
            corrected = _adams(levels[i - 1], here, _last(levels, i, corrector), strength)
            change = zip_longest(corrected, [0.0, *predicted], fillvalue=0.0)
            # state and noise of prediction and correction are the same: only the weights of the predictions change
            rows.append(Row(here.t, here.t, (1.0,), tuple(new - old for new, old in change)))
            asked = None
        strength = tau if tau_min <= here.sigma <= tau_max else 0.0
        predicted = _adams(here, there, _last(levels, i, predictor), strength)
        decay = _decay(here, there, strength)
        fresh = (there.s * math.sqrt(1.0 - decay**2),) if strength else ()
        rows.append(Row(asked, there.t, (decay * there.s / here.s,), tuple(predicted), fresh))
    return rows


def _last(levels: list[Level], i: int, count: int) -> list[Level]:
    return [levels[i - k] for k in range(min(count, i + 1))]
