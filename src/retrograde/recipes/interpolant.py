"""Steps between two laws: the denoiser answers with two quantities, and every diffusion keeps the marginals.

With D, E and Y the means of data, noise and start given x_t = a D + b Y + s E, the flow's velocity is v = a' D + b' Y + s' E
and the score is -E/s; towards the data, dx = (v - e score) dt + sqrt(2 e) dw backwards in time has the same marginals for
every e(t) >= 0. These steps keep D and Y over a step, and let e turn the noise over: E becomes k E + sqrt(1 - k^2) eps with
k = exp(-integral of e/s^2 dt), so that a pair of points is carried exactly.
"""

from __future__ import annotations

import math

import numpy as np

from retrograde.errors import BadValue, UnknownName
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import recipe

SCHEDULES = ("constant", "reverse", "squared")
_NODES, _WEIGHTS = (values.tolist() for values in np.polynomial.legendre.leggauss(16))

_PAPER = {
    "title": "Stochastic Interpolants: A Unifying Framework for Flows and Diffusions",
    "authors": ("Michael S. Albergo", "Nicholas M. Boffi", "Eric Vanden-Eijnden"),
    "year": 2023,
    "arxiv": "2303.08797",
}


def both(path: Path) -> str:
    """The basis of recipes that step with the means of data and noise, each asked for itself."""
    return "data+noise"


def _shares(path: Path, t: float, t_next: float) -> tuple[float, float, float]:
    """Return r and what a step x' = r x + A D + S E adds of the means of data and noise.

    x/b moves by the changes of a/b and s/b, so r = b'/b; without a start x itself moves by those of a and s.
    """
    r = path.b(t_next) / path.b(t) if path.b(t) > 0.0 else 1.0
    return r, path.a(t_next) - r * path.a(t), path.s(t_next) - r * path.s(t)


def _step(path: Path, t: float, t_next: float, keep: float) -> Row:
    r, a, s = _shares(path, t, t_next)
    s_next = path.s(t_next)
    noises = (s_next * math.sqrt(1.0 - keep * keep),) if keep < 1.0 else ()
    return Row(t, t_next, (r,), (a, s - (1.0 - keep) * s_next), noises)


@recipe(
    "interpolant_ode",
    order=1,
    basis=both,
    clock="smooth",
    summary="the flow of a stochastic interpolant; DDIM where the start is noise",
    paper=_PAPER | {"test": "tests/recipes/test_interpolant.py::test_without_noise_it_is_rectified_flow"},
)
def interpolant_ode(path: Path, times: tuple[float, ...]) -> list[Row]:
    """x' = a' D + b' Y + s' E: order 1, one evaluation per step (arXiv 2303.08797)."""
    return [_step(path, t, t_next, 1.0) for t, t_next in zip(times, times[1:], strict=False)]


@recipe(
    "interpolant_sde",
    order=1,
    stochastic=True,
    basis=both,
    clock="smooth",
    summary="an SDE of a stochastic interpolant, with any diffusion",
    paper=_PAPER | {"test": "tests/recipes/test_interpolant.py::test_the_reverse_schedule_is_ddpm"},
)
def interpolant_sde(path: Path, times: tuple[float, ...], diffusion: float = 1.0, schedule: str = "constant") -> list[Row]:
    """x' = a' D + b' Y + s' (k E + sqrt(1 - k^2) eps), k = exp(-integral of e/s^2): weak order 1, one evaluation per step.

    Args:
        diffusion: e; with schedule="reverse" e in units of half the forward SDE's g^2, where 1 is DDPM; with "squared"
            the c of e = g^2/2, g = c (t/t_max)^2, where 3 is what was chosen for searches (Kim et al., 2025, 2503.19385).

    Raises:
        BadValue: a negative diffusion.
        UnknownName: another schedule.
    """
    if diffusion < 0.0:
        raise BadValue(f"diffusion={diffusion}", "diffusion >= 0", "diffusion=1.0")
    if schedule not in SCHEDULES:
        raise UnknownName("schedule", schedule, SCHEDULES)
    rows = []
    for t, t_next in zip(times, times[1:], strict=False):
        if schedule == "reverse":
            keep = (path.sigma(t_next) / path.sigma(t)) ** diffusion if path.a(t_next) > 0.0 else 1.0
        else:
            keep = math.exp(-_turnover(path, t_next, t, diffusion, schedule))
        rows.append(_step(path, t, t_next, keep))
    return rows


def _turnover(path: Path, low: float, high: float, diffusion: float, schedule: str) -> float:
    """The integral of e/s^2 over path time, by a quadrature whose error is but another diffusion."""
    half = 0.5 * (high - low)
    total = 0.0
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        t = low + half * (1.0 + node)
        e = diffusion if schedule == "constant" else 0.5 * (diffusion * (t / path.t_max) ** 2) ** 2
        total += half * weight * e / path.s(t) ** 2 if path.s(t) > 0.0 else math.inf
    return total


@recipe(
    "interpolant_heun",
    order=2,
    evaluations=2,
    basis=both,
    clock="smooth",
    summary="the flow of a stochastic interpolant, with the means of both ends of a step",
    paper=_PAPER | {"test": "tests/recipes/test_interpolant.py::test_the_flow_tells_the_density_of_the_data"},
)
def interpolant_heun(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """x' = r x + A (D + D')/2 + S (E + E')/2, D' and E' at the first-order point: order 2, two evaluations (2303.08797)."""
    rows = []
    for t, t_next, count in zip(times, times[1:], stages, strict=False):
        rows.append(_step(path, t, t_next, 1.0))
        if count == 2:
            r, a, s = _shares(path, t, t_next)
            rows.append(Row(t_next, t_next, (0.0, r), (0.5 * a, 0.5 * s, 0.5 * a, 0.5 * s)))
    return rows
