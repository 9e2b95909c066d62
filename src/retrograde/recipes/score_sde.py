"""Samplers of the score SDE paper: discretizations of the reverse SDE, and Langevin steps that correct at a level.

The forward SDE of a path is dx = f x dt + g dw, f = a_dot/a and g^2 = 2 s s_dot - 2 f s^2. These predictors discretize it
without solving its linear part, so on a point mass they come close and are not exact; they declare that miss.
"""

from __future__ import annotations

import math
from typing import cast

from retrograde.errors import BadValue, UnknownName
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.ddim import ddpm
from retrograde.recipes.recipe import level, noise_basis, recipe

_PAPER = {
    "title": "Score-Based Generative Modeling through Stochastic Differential Equations",
    "authors": (
        "Yang Song",
        "Jascha Sohl-Dickstein",
        "Diederik P. Kingma",
        "Abhishek Kumar",
        "Stefano Ermon",
        "Ben Poole",
    ),
    "year": 2020,
    "arxiv": "2011.13456",
}


def _euler_maruyama(path: Path, t: float, t_next: float) -> Row:
    a, s = path.a(t), path.s(t)
    f = path.a_dot(t) / a
    variance = max(2.0 * s * (path.s_dot(t) - f * s), 0.0) * (t - t_next)
    # the score is -E/s
    return Row(t, t_next, (1.0 - f * (t - t_next),), (-variance / s,), (math.sqrt(variance),))


def _reverse_diffusion(path: Path, t: float, t_next: float) -> Row:
    here, there = level(path, t), level(path, t_next)
    r = here.a / there.a
    variance = here.s**2 - (r * there.s) ** 2
    return Row(t, t_next, (2.0 - r,), (-variance / here.s,), (math.sqrt(variance),))


def _ancestral(path: Path, t: float, t_next: float) -> Row:
    (row,) = ddpm(path, (t, t_next))
    # the same row with D = (x - s E)/a
    a, s = path.a(t), path.s(t)
    keep, gain = cast(float, row.states[0]), cast(float, row.outputs[0])
    return Row(t, t_next, (keep + gain / a,), (-gain * s / a,), row.noises)


_PREDICTORS = {"reverse_diffusion": _reverse_diffusion, "euler_maruyama": _euler_maruyama, "ancestral": _ancestral}


@recipe(
    "euler_maruyama",
    order=1,
    stochastic=True,
    approximate=True,
    basis=noise_basis,
    clock="smooth",
    summary="Euler-Maruyama on the reverse SDE, in path time",
    paper=_PAPER | {"test": "tests/recipes/test_score_sde.py::test_euler_maruyama_discretizes_the_reverse_sde"},
)
def euler_maruyama(path: Path, times: tuple[float, ...]) -> list[Row]:
    """x' = x - (f x - g^2 score) dt + g sqrt(dt) eps, dt = t - t': weak order 1, one evaluation per step (2011.13456)."""
    return [_euler_maruyama(path, t, t_next) for t, t_next in zip(times, times[1:], strict=False)]


@recipe(
    "reverse_diffusion",
    order=1,
    stochastic=True,
    approximate=True,
    basis=noise_basis,
    clock="smooth",
    summary="the reverse SDE, discretized as the forward chain is",
    paper=_PAPER | {"test": "tests/recipes/test_score_sde.py::test_reverse_diffusion_is_the_published_step"},
)
def reverse_diffusion(path: Path, times: tuple[float, ...]) -> list[Row]:
    """The forward step x = r x' + G eps, r = a/a', G^2 = s^2 - r^2 s'^2, reversed: x' = (2 - r) x + G^2 score + G eps.

    On VE G^2 = sigma^2 - sigma'^2, on VP r = sqrt(1 - beta). Weak order 1, one evaluation per step (arXiv 2011.13456).
    """
    return [_reverse_diffusion(path, t, t_next) for t, t_next in zip(times, times[1:], strict=False)]


@recipe(
    "predictor_corrector",
    order=0,
    evaluations=2,
    stochastic=True,
    approximate=True,
    basis=noise_basis,
    clock="smooth",
    summary="a step of the reverse SDE, then a Langevin step at the level it reached",
    paper=_PAPER | {"test": "tests/recipes/test_score_sde.py::test_the_corrector_is_langevin_with_the_expected_norms"},
)
def predictor_corrector(
    path: Path,
    times: tuple[float, ...],
    stages: tuple[int, ...] = (),
    predictor: str = "reverse_diffusion",
    snr: float = 0.16,
    sigma_data: float = 0.0,
) -> list[Row]:
    """After the predictor x' = x + e score + sqrt(2 e) eps at the new level: two evaluations per step (arXiv 2011.13456).

    The published e = 2 (snr |eps|/|score|)^2 measures both norms on the state. Here both have their expected values for
    Gaussian data, |eps|/|score| = sqrt(a^2 sigma_data^2 + s^2), so e depends on the level alone. sigma_data = 0 takes the
    shortest steps, stable whatever the data; above it low levels are stable only for data without flat directions. The
    published factor alpha is taken as 1, its value on VE and its limit on fine grids. e stays finite however fine the
    grid, and with it the bias of Langevin steps without rejection: order 0.

    Args:
        predictor: "reverse_diffusion", "euler_maruyama" or "ancestral".
        snr: r, the signal-to-noise ratio of the Langevin step.
        sigma_data: standard deviation of the data, at most.

    Raises:
        UnknownName: another predictor.
        BadValue: snr not positive, or sigma_data negative.
    """
    if predictor not in _PREDICTORS:
        raise UnknownName("predictor", predictor, _PREDICTORS)
    if snr <= 0.0 or sigma_data < 0.0:
        raise BadValue(f"snr={snr}, sigma_data={sigma_data}", "snr > 0, sigma_data >= 0", "snr=0.16, sigma_data=0.0")
    rows = []
    for t, t_next, count in zip(times, times[1:], stages, strict=False):
        rows.append(_PREDICTORS[predictor](path, t, t_next))
        if count == 2:
            a, s = path.a(t_next), path.s(t_next)
            e = 2.0 * snr**2 * ((a * sigma_data) ** 2 + s * s)
            rows.append(Row(t_next, t_next, (1.0,), (-e / s,), (math.sqrt(2.0 * e),)))
    return rows
