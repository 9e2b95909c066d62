"""DEIS: exponential integrator with polynomial extrapolation of the noise prediction in path time (tAB)."""

from __future__ import annotations

import math

import numpy as np

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


def lagrange_integrals(path: Path, here: Level, there: Level, knots: list[float]) -> tuple[float, ...]:
    """Return the integrals of the Lagrange polynomials of `knots` (path times) over dsigma, from here to there.

    Gauss-Legendre in log sigma, where the integrand is smooth on every path.
    """
    low, high = math.log(here.sigma), math.log(there.sigma)
    logs = 0.5 * (high + low) + 0.5 * (high - low) * _NODES
    weights = 0.5 * (high - low) * _WEIGHTS * np.exp(logs)
    t = np.array([path.time_of_sigma(float(np.exp(x))) for x in logs])
    integrals = []
    for j, knot in enumerate(knots):
        others = [k for i, k in enumerate(knots) if i != j]
        basis = np.prod([(t - k) / (knot - k) for k in others], axis=0) if others else np.ones_like(t)
        integrals.append(float(weights @ basis))
    # the polynomials add up to one, the integral of one is known: give the rounding to the newest
    integrals[0] += (there.sigma - here.sigma) - math.fsum(integrals)
    return tuple(integrals)


def _write(path: Path, times: tuple[float, ...], degree: int) -> list[Row]:
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        knots = [levels[i - j].t for j in range(min(degree, i) + 1)]
        outputs = tuple(there.a * c for c in lagrange_integrals(path, here, there, knots))
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
        return _write(path, times, degree)


for _degree in (1, 2, 3):
    _register(_degree)
