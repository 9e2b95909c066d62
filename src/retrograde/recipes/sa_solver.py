"""SA-Solver: stochastic Adams methods for the reverse SDE with noise of strength tau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, recipe

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def decay_of(here: Level, there: Level, tau: float) -> float:
    return (there.sigma / here.sigma) ** (tau * tau)


def adams_weights(here: Level, there: Level, knots: list[Level], tau: float, simple: bool = False) -> list[float]:
    """Return the coefficients of the predictions at the knots in the step from here to there.

    a' (1 + tau^2) int e^(-(1 + tau^2)(lam' - lam)) l_j(lam) dlam from lam to lam', l_j the Lagrange polynomials of the
    knots in log-SNR; knots without signal, infinitely far away, have weight zero. `simple` replaces the integral of the
    slope between two knots by its limit of small steps, a' (1 + tau^2) h^2/2, as the authors do in their code.
    """
    gain = there.a - here.a * decay_of(here, there, tau) * there.s / here.s
    usable = [knot for knot in knots if knot.a > 0.0]
    if here.a == 0.0 or len(usable) < 2:
        return [gain] + [0.0] * (len(knots) - 1)
    h = there.lam - here.lam
    k, u = (1.0 + tau * tau) * h, 0.5 * (_NODES + 1.0)
    if simple and len(usable) == 2:
        slope = there.a * 0.5 * k * h / (usable[0].lam - usable[1].lam)
        first = (here.lam - usable[1].lam) * there.a * -math.expm1(-k) / (usable[0].lam - usable[1].lam)
        return [first + slope, gain - first - slope] + [0.0] * (len(knots) - 2)
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
    steps = len(times) - 1
    strengths = [tau if tau_min <= path.sigma(t) <= tau_max else 0.0 for t in times]
    return sa_rows(path, times, (predictor,) * steps, (corrector,) * steps, strengths)


def sa_rows(
    path: Path,
    times: tuple[float, ...],
    predictors: Sequence[int],
    correctors: Sequence[int],
    strengths: Sequence[float],
    simple: bool = False,
) -> list[Row]:
    """Return the steps between the times with orders and noise strengths of their own; see `sa_solver`.

    The corrector of a step waits for the evaluation at its end, so that of the last step is left out. A last step of no
    length is its corrector alone.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    predicted: list[float] = []
    strength = 0.0
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        asked: float | None = here.t
        if i > 0 and correctors[i - 1] and levels[i - 1].a > 0.0:
            corrected = adams_weights(levels[i - 1], here, _last(levels, i, correctors[i - 1]), strength, simple)
            change = zip_longest(corrected, [0.0, *predicted], fillvalue=0.0)
            # state and noise of prediction and correction are the same: only the weights of the predictions change
            rows.append(Row(here.t, here.t, (1.0,), tuple(new - old for new, old in change)))
            asked = None
        if there.t == here.t:
            continue
        strength = strengths[i]
        predicted = adams_weights(here, there, _last(levels, i, predictors[i]), strength, simple)
        decay = decay_of(here, there, strength)
        fresh = (there.s * math.sqrt(1.0 - decay**2),) if strength else ()
        rows.append(Row(asked, there.t, (decay * there.s / here.s,), tuple(predicted), fresh))
    return rows


def _last(levels: list[Level], i: int, count: int) -> list[Level]:
    return [levels[i - k] for k in range(min(count, i + 1))]
