"""Ancestral samplers: a deterministic step below the next level, then forward noise up to it.

Both halves keep the marginals, so any split of the step converges: with the order of the deterministic half. Levels are
split as sigma'^2 = sigma_down^2 + sigma_up^2; with y = x/a the step is y' = (flow of y to sigma_down) + sigma_up eps. They
are known from Crowson's k-diffusion; on flow paths euler_ancestral and dpmpp_2s_ancestral are ComfyUI's variants.
"""

from __future__ import annotations

import dataclasses
import math
from typing import cast

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.recipe import Level, level, noise_basis, recipe


def down(path: Path, here: Level, there: Level, eta: float) -> float:
    """Return sigma_down, the level from which forward noise leads to `there`.

    sigma_up = eta sigma' sqrt(1 - sigma'^2/sigma^2), for eta = 1 the posterior's noise of DDPM. Where the noise end holds
    no signal (flow) sigma is infinite there, and the split is made in path time: t_down = t' (1 + eta (t'/t - 1)).

    Raises:
        BadValue: eta outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from deterministic to ancestral", "eta=1.0")
    if path.a(path.t_max) == 0.0:
        return path.sigma(max(there.t * (1.0 + eta * (there.t / here.t - 1.0)), min(path.t_min, there.t)))
    return there.sigma * math.sqrt(1.0 - (eta * eta) * (1.0 - (there.sigma / here.sigma) ** 2))


def _fresh(there: Level, low: float, s_noise: float) -> tuple[float, ...]:
    variance = there.sigma**2 - low**2
    return (s_noise * there.a * math.sqrt(variance),) if variance > 0.0 else ()


def _euler(here: Level, there: Level, low: float, s_noise: float) -> Row:
    keep = there.a * low / here.s
    return Row(here.t, there.t, (keep,), (there.a - here.a * keep,), _fresh(there, low, s_noise))


@recipe(
    "euler_ancestral",
    order=1,
    stochastic=True,
    approximate=True,
    clock="smooth",
    summary="Euler to a lower level, then noise up to the next",
)
def euler_ancestral(path: Path, times: tuple[float, ...], eta: float = 1.0, s_noise: float = 1.0) -> list[Row]:
    """y' = (sigma_down/sigma) y + (1 - sigma_down/sigma) D + s_noise sigma_up eps: weak order 1, one evaluation per step.

    On paths with signal at the noise end this is DDIM with the same eta. s_noise other than 1 misses the point-mass law.
    """
    levels = [level(path, t) for t in times]
    pairs = zip(levels, levels[1:], strict=False)
    return [_euler(here, there, down(path, here, there, eta), s_noise) for here, there in pairs]


@recipe(
    "dpm_2_ancestral",
    order=2,
    evaluations=2,
    stochastic=True,
    approximate=True,
    basis=noise_basis,
    summary="midpoint rule to a lower level, then noise up to the next",
)
def dpm_2_ancestral(
    path: Path, times: tuple[float, ...], stages: tuple[int, ...] = (), eta: float = 1.0, s_noise: float = 1.0
) -> list[Row]:
    """y' = y + (sigma_down - sigma) E(y_m) + s_noise sigma_up eps, y_m by Euler at sqrt(sigma sigma_down).

    Weak order 2, two evaluations per step; the middle may lie below the next level.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        low, scale = down(path, here, there, eta), there.a / here.a
        gain, fresh = there.a * (low - here.sigma), _fresh(there, low, s_noise)
        if count == 1:
            rows.append(Row(here.t, there.t, (scale,), (gain,), fresh))
            continue
        middle = level(path, path.time_of_sigma(math.sqrt(here.sigma * low)))
        rows += [
            Row(here.t, middle.t, (middle.a / here.a,), (middle.a * (middle.sigma - here.sigma),)),
            Row(middle.t, there.t, (0.0, scale), (gain, 0.0), fresh, renoise=bool(fresh)),
        ]
    return rows


@recipe(
    "dpmpp_2s_ancestral",
    order=2,
    evaluations=2,
    stochastic=True,
    approximate=True,
    summary="DPM-Solver++(2S) to a lower level, then noise up to the next",
)
def dpmpp_2s_ancestral(
    path: Path, times: tuple[float, ...], stages: tuple[int, ...] = (), eta: float = 1.0, s_noise: float = 1.0
) -> list[Row]:
    """y' = (sigma_down/sigma) y + (1 - sigma_down/sigma) D(y_m) + s_noise sigma_up eps, the middle in log-SNR.

    Weak order 2, two evaluations per step. From a level without signal, which has no such middle, any level between serves.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        low = down(path, here, there, eta)
        step = _euler(here, there, low, s_noise)
        if count == 1:
            rows.append(step)
            continue
        endless = here.a == 0.0
        middle = level(path, 0.5 * (here.t + there.t) if endless else path.time_of_sigma(math.sqrt(here.sigma * low)))
        keep = middle.s / here.s
        rows += [
            Row(here.t, middle.t, (keep,), (middle.a - here.a * keep,)),
            Row(middle.t, there.t, (0.0, *step.states), (*step.outputs, 0.0), step.noises, renoise=bool(step.noises)),
        ]
    return rows


@recipe(
    "res_2m_ancestral",
    order=2,
    stochastic=True,
    approximate=True,
    summary="refined exponential solver of two predictions to a lower level, then noise up to the next",
)
def res_2m_ancestral(path: Path, times: tuple[float, ...], eta: float = 1.0, s_noise: float = 1.0) -> list[Row]:
    """y' = (sigma_down/sigma) y + (1 - sigma_down/sigma) D + k phi_2(-k) (k/k_-1)(D - D_-1) + s_noise sigma_up eps.

    k = log(sigma/sigma_down) of this step and of the last: the step's length without its noise. Weak order 2, one
    evaluation per step; "res_multistep_ancestral" of ComfyUI.
    """
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    last = 0.0
    for here, there in zip(levels, levels[1:], strict=False):
        low = down(path, here, there, eta)
        step = _euler(here, there, low, s_noise)
        k = math.log(here.sigma / low) if here.a > 0.0 and low > 0.0 else 0.0
        if last and k:
            slope = there.a * (1.0 + math.expm1(-k) / k) * k / last
            step = dataclasses.replace(step, outputs=(cast(float, step.outputs[0]) + slope, -slope))
        rows.append(step)
        last = k
    return rows
