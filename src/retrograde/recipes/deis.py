"""DEIS: exponential integrators of the noise prediction, for y = x/a over sigma, where dy = E[eps|x] dsigma.

tAB extrapolates past predictions by a polynomial in path time, rhoAB by one in sigma itself (Adams-Bashforth with the
weights of the actual steps), logrho by one in log sigma; rhoRK takes the steps of a Runge-Kutta method in sigma.

rhoAB of degrees 1, 2, 3 is what the field calls variable-step iPNDM ("ipndm_v") of orders 2, 3, 4. The formulas of its
public code slip: order 3 falls to 2 on an uneven grid; order 4 weighs the third difference 11/24 instead of 3/8 on an even
grid, and its weights do not add up to one on an uneven one. These here are the integrals.
"""

from __future__ import annotations

import math

import numpy as np

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, noise_basis, recipe

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_PAPER = {
    "title": "Fast Sampling of Diffusion Models with Exponential Integrator",
    "authors": ("Qinsheng Zhang", "Yongxin Chen"),
    "year": 2022,
    "arxiv": "2204.13902",
    "test": "tests/recipes/test_equivalence.py::test_deis_coefficients_reproduce_polynomials",
}


def lagrange_integrals(path: Path, here: Level, there: Level, knots: list[float], clock: str = "time") -> tuple[float, ...]:
    """Return the integrals of the Lagrange polynomials of `knots` over dsigma, from here to there.

    The knots are path times, and log sigmas where the clock is "log_sigma".

    Gauss-Legendre in log sigma, where the integrand is smooth on every path.
    """
    low, high = math.log(here.sigma), math.log(there.sigma)
    logs = 0.5 * (high + low) + 0.5 * (high - low) * _NODES
    weights = 0.5 * (high - low) * _WEIGHTS * np.exp(logs)
    t = logs if clock == "log_sigma" else np.array([path.time_of_sigma(float(np.exp(x))) for x in logs])
    integrals = []
    for j, knot in enumerate(knots):
        others = [k for i, k in enumerate(knots) if i != j]
        basis = np.prod([(t - k) / (knot - k) for k in others], axis=0) if others else np.ones_like(t)
        integrals.append(float(weights @ basis))
    # the polynomials add up to one, the integral of one is known: give the rounding to the newest
    integrals[0] += (there.sigma - here.sigma) - math.fsum(integrals)
    return tuple(integrals)


def sigma_integrals(here: Level, there: Level, knots: list[float]) -> tuple[float, ...]:
    """Return the integrals over dsigma, from here to there, of the Lagrange polynomials of `knots` (sigmas), exactly."""
    step = there.sigma - here.sigma
    u = [(knot - here.sigma) / step for knot in knots]  # the step is the unit interval
    integrals = []
    for j, own in enumerate(u):
        others = [v for i, v in enumerate(u) if i != j]
        antiderivative = np.polyint(np.poly(others) if others else np.ones(1))
        integrals.append(step * float(np.polyval(antiderivative, 1.0)) / math.prod(own - v for v in others))
    integrals[0] += step - math.fsum(integrals)
    return tuple(integrals)


def polynomial_rows(path: Path, times: tuple[float, ...], degree: int, clock: str) -> list[Row]:
    """Return the steps with a polynomial of this degree through the last predictions, in "time", "sigma" or "log_sigma"."""
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        past = levels[i - min(degree, i) : i + 1][::-1]
        if clock == "time":
            integrals = lagrange_integrals(path, here, there, [knot.t for knot in past])
        elif clock == "log_sigma":
            integrals = lagrange_integrals(path, here, there, [math.log(knot.sigma) for knot in past], clock)
        else:
            integrals = sigma_integrals(here, there, [knot.sigma for knot in past])
        outputs = tuple(there.a * c for c in integrals)
        rows.append(Row(here.t, there.t, (there.a / here.a,), outputs))
    return rows


def _register(degree: int) -> None:
    @recipe(
        f"deis_tab{degree}",
        order=degree + 1,
        basis=noise_basis,
        clock="smooth",
        summary=f"DEIS tAB{degree}: polynomial of degree {degree} in path time",
        paper=_PAPER if degree == 3 else None,
    )
    def deis(path: Path, times: tuple[float, ...]) -> list[Row]:
        return polynomial_rows(path, times, degree, "time")

    @recipe(
        f"deis_rhoab{degree}",
        order=degree + 1,
        basis=noise_basis,
        clock="smooth",
        summary=f"DEIS rhoAB{degree}: Adams-Bashforth of order {degree + 1} in sigma for uneven steps",
        paper=_PAPER | {"test": "tests/recipes/test_deis.py::test_rhoab_reproduces_polynomials_of_sigma"}
        if degree == 3
        else None,
    )
    def rhoab(path: Path, times: tuple[float, ...]) -> list[Row]:
        return polynomial_rows(path, times, degree, "sigma")

    @recipe(
        f"deis_logrho{degree}",
        order=degree + 1,
        basis=noise_basis,
        clock="smooth",
        summary=f"DEIS with a polynomial of degree {degree} in log sigma, as diffusers has it",
    )
    def logrho(path: Path, times: tuple[float, ...]) -> list[Row]:
        return polynomial_rows(path, times, degree, "log_sigma")


for _degree in (1, 2, 3):
    _register(_degree)


@recipe(
    "lms",
    order=4,
    basis=noise_basis,
    clock="smooth",
    summary="linear multistep of k-diffusion: Adams-Bashforth in sigma for uneven steps (rhoAB3)",
)
def lms(path: Path, times: tuple[float, ...], order: int = 4) -> list[Row]:
    """x'/a' = x/a + sum_j E_-j times the integral of the Lagrange polynomial j over dsigma: one evaluation per step.

    The integrals are exact, where k-diffusion takes them by quadrature.

    Raises:
        BadValue: an order outside 1..4.
    """
    if order not in (1, 2, 3, 4):
        raise BadValue(f"order={order}", "an order of 1, 2, 3 or 4", "order=4")
    return polynomial_rows(path, times, order - 1, "sigma")


Stages = tuple[tuple[float, tuple[float, ...]], ...]
"""A Runge-Kutta method: for each stage the point it moves to, as a part of the step, and the mean of the slopes so far
(oldest first, adding up to one) that it moves with."""

EULER: Stages = ((1.0, (1.0,)),)
HEUN: Stages = ((1.0, (1.0,)), (1.0, (0.5, 0.5)))
MIDPOINT: Stages = ((0.5, (1.0,)), (1.0, (0.0, 1.0)))
KUTTA_3: Stages = ((0.5, (1.0,)), (1.0, (-1.0, 2.0)), (1.0, (1 / 6, 4 / 6, 1 / 6)))
RUNGE_KUTTA_4: Stages = (
    (0.5, (1.0,)),
    (0.5, (0.0, 1.0)),
    (1.0, (0.0, 0.0, 1.0)),
    (1.0, (1 / 6, 2 / 6, 2 / 6, 1 / 6)),
)


def stage_rows(here: Level, targets: list[Level], method: Stages) -> list[Row]:
    """Return the rows of one step: each moves the state at `here` to its target with a mean of the predictions so far."""
    rows, asked = [], here
    for j, (target, (_, weights)) in enumerate(zip(targets, method, strict=True)):
        step = target.a * (target.sigma - here.sigma)
        outputs = tuple(step * w for w in reversed(weights))
        rows.append(Row(asked.t, target.t, (0.0,) * j + (target.a / here.a,), outputs))
        asked = target
    return rows


def _data_rows(path: Path, here: Level, there: Level, method: Stages) -> list[Row]:
    """The rows of the same step written with data means: E = (x - a D)/s is put in, and with it the inner states.

    For data that is zero the step is x' = (s'/s) x, so this is the coefficient of the state; the large terms that cancel
    over a long step in sigma are gone before a number is rounded.
    """
    if here.a > 0.0:
        places = {node: here.sigma + node * (there.sigma - here.sigma) for node, _ in method if node < 1.0}
        inner = {node: level(path, path.time_of_sigma(sigma)) for node, sigma in places.items()}
    else:  # an infinitely long step in sigma: any levels between, each with the newest mean alone
        inner = {node: level(path, here.t + node * (there.t - here.t)) for node, _ in method if node < 1.0}
    rows, asked = [], here
    made = np.zeros(len(method))  # coefficients of the data means in the state at `asked`, oldest first
    slopes: list[np.ndarray] = []
    for j, (node, weights) in enumerate(method):
        target = inner.get(node, there)
        gain = target.a - here.a * target.s / here.s
        unit = np.eye(len(method))[j]
        if here.a > 0.0:
            slopes.append((made - asked.a * unit) / asked.s)
            made = (
                target.a
                * (target.sigma - here.sigma)
                * np.sum([w * e for w, e in zip(weights, slopes, strict=True)], axis=0)
            )
            made[0] += gain - math.fsum(made)
        else:
            made = gain * unit
        rows.append(Row(asked.t, target.t, (0.0,) * j + (target.s / here.s,), tuple(map(float, made[j::-1]))))
        asked = target
    return rows


def _register_runge_kutta(name: str, method: Stages, words: str) -> None:
    cheaper = {1: EULER, 2: HEUN, 3: KUTTA_3} | {len(method): method}

    @recipe(
        f"rho_{name}",
        order=len(method),
        evaluations=len(method),
        clock="smooth",
        summary=f"DEIS rhoRK: {words} in sigma",
    )
    def rho_rk(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
        levels = [level(path, t) for t in times]
        steps = zip(levels, levels[1:], stages, strict=False)
        return [row for here, there, count in steps for row in _data_rows(path, here, there, cheaper[count])]


for _name, _method, _words in (
    ("heun", HEUN, "Heun's method"),
    ("midpoint", MIDPOINT, "the midpoint rule"),
    ("kutta3", KUTTA_3, "Kutta's third-order method"),
    ("rk4", RUNGE_KUTTA_4, "the classical Runge-Kutta method"),
):
    _register_runge_kutta(_name, _method, _words)
