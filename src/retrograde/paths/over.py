"""Anchored paths built over an ordinary one: the same noise, and an anchor beside it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from retrograde.errors import BadType, BadValue
from retrograde.paths.anchored import RESIDUAL, Residual
from retrograde.paths.diffusion import VP, VPDiscrete
from retrograde.paths.path import Path, Targets, Time, library

_VP = VP()


def _unanchored(base: Path, name: str) -> None:
    if not isinstance(base, Path) or base.anchored or math.isfinite(base.degrees):
        given = base.name if isinstance(base, Path) else repr(base)
        raise BadType(
            f"path {name!r} over {given!r}", "a path of Gaussian noise without an anchor", "base=retrograde.paths.VP()"
        )


def _ranged(path: Any, t_max: float | None = None) -> None:
    object.__setattr__(path, "t_min", path.base.t_min)
    object.__setattr__(path, "t_max", path.base.t_max if t_max is None else t_max)


def _preserving(base: Path, name: str) -> None:
    t = 0.5 * (base.t_min + base.t_max)
    if abs(base.a(t) ** 2 + base.s(t) ** 2 - 1.0) > 1e-6:
        raise BadValue(f"path {name!r} over {base.name!r}", "a path with a^2 + s^2 = 1", "base=retrograde.paths.VP()")


def _reverting_v(path: MeanReverting, t: Any) -> tuple[Any, Any, Any]:
    s = path.base.s(t)
    return -s, path.a(t) * path.spread, s


@dataclasses.dataclass(frozen=True)
class MeanReverting(Residual):
    """The base's a, b = 1 - a and s = spread times the base's: over a variance-preserving base, the mean-reverting path.

    That is the path of dx = theta (y - x) dt + spread sqrt(2 theta) dw, a = e^(-integral of theta). Spread 1 over any
    base is the path that removes a residual beside that base's noise. Its own targets are the residual y - x_0 and
    "reverting_v" = a spread eps - sqrt(1 - a^2)(x_0 - y), so that x_0 = a x_t + b y - sqrt(1 - a^2) reverting_v.

    Args:
        base: an ordinary path.
        spread: stationary standard deviation of x - y.

    Raises:
        BadType: the base has an anchor itself.

    Reference: Luo et al., Image Restoration with Mean-Reverting Stochastic Differential Equations, 2023, arXiv
    2301.11699; its parameterizations in Li et al., MRS, 2025, arXiv 2502.07856.
    """

    name: ClassVar[str] = "mean_reverting"
    targets: ClassVar[Targets] = {**RESIDUAL, "reverting_v": _reverting_v}
    base: Path = _VP
    spread: float = 50.0 / 255.0
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)
    t_max: float = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _unanchored(self.base, self.name)
        _ranged(self)

    def a(self, t: Time) -> Time:
        return self.base.a(t)

    def s(self, t: Time) -> Time:
        return self.spread * self.base.s(t)

    def a_dot(self, t: Time) -> Time:
        return self.base.a_dot(t)

    def s_dot(self, t: Time) -> Time:
        return self.spread * self.base.s_dot(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return self.base.time_of_positive_sigma(sigma / self.spread)


def mean_reverting_cosine(steps: int = 100, spread: float = 50.0 / 255.0, end: float = 0.005) -> MeanReverting:
    """Return the mean-reverting path of IR-SDE's cosine rates, exact at its `steps` steps.

    theta_i = 1 - cos^2(u_i)/cos^2(u_0), u_i = pi/2 (i/(steps + 2) + 0.008)/1.008, and a falls to `end` at the last step.

    Reference: Luo et al., 2023, arXiv 2301.11699.
    """
    i = torch.arange(steps + 2, dtype=torch.float64)
    angles = 0.5 * math.pi * (i / (steps + 2) + 0.008) / 1.008
    rates = 1.0 - (torch.cos(angles[1:]) / torch.cos(angles[0])) ** 2
    summed = torch.cumsum(rates, 0)[1:] - rates[0]
    squares = torch.exp(2.0 * math.log(end) * summed / summed[-1])
    return MeanReverting(VPDiscrete(tuple(squares.tolist()), t_max=1.0), spread)


def _resnoise(path: ResidualNoise, t: Any) -> tuple[Any, Any, Any]:
    if isinstance(path.base, VPDiscrete):
        ratio = path.base.a(t) / path.base.a(t - 1.0 / len(path.base.alphas_cumprod))
    else:
        ratio = 1.0
    weight = path.s(t) / (1.0 + ratio)
    return -weight, 1.0, weight


@dataclasses.dataclass(frozen=True)
class ResidualNoise(Path):
    """Resfusion's path: a = 2 A - 1, b = 1 - A and s, with A and s of the base, up to where the data vanish.

    x_t = A x_0 + (1 - A)(y - x_0) + s eps is the base's chain with the residual as the mean of its noise. It ends where
    A = 1/2: there x_t = y/2 + s eps, without a trace of the data. Its own targets are the residual and "resnoise" = eps
    + w (y - x_0), w = s/(1 + sqrt(alpha_t)): what takes the place of the noise in a step of DDPM; alpha_t is the ratio
    of A^2 over a step of a discrete base, 1 on a continuous one.

    Raises:
        BadType: the base has an anchor itself.
        BadValue: the base does not preserve variance, or does not come down to A = 1/2.

    Reference: Shi et al., Resfusion: Denoising Diffusion Probabilistic Models for Image Restoration Based on Prior
    Residual Noise, 2023, arXiv 2311.14900.
    """

    name: ClassVar[str] = "residual_noise"
    targets: ClassVar[Targets] = {**RESIDUAL, "resnoise": _resnoise}
    base: Path = _VP
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)
    t_max: float = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _unanchored(self.base, self.name)
        _preserving(self.base, self.name)
        last = self.base.time_of_positive_sigma(math.sqrt(3.0))
        reached = self.base.a(self.base.t_max)
        if reached > 0.5 * (1.0 + 1e-9):
            raise BadValue(f"a base that ends at a = {reached:.4g}", "one that comes down to a = 1/2", "add steps to it")
        _ranged(self, last)

    def a(self, t: Time) -> Time:
        # the root of 2 A - 1 rounds: at the end the data weigh exactly nothing
        if isinstance(t, Tensor):
            return torch.where(t < self.t_max, 2.0 * self.base.a(t) - 1.0, 0.0)
        return 2.0 * self.base.a(t) - 1.0 if t < self.t_max else 0.0

    def b(self, t: Time) -> Time:
        return 1.0 - self.base.a(t)

    def s(self, t: Time) -> Time:
        return self.base.s(t)

    def a_dot(self, t: Time) -> Time:
        return 2.0 * self.base.a_dot(t)

    def b_dot(self, t: Time) -> Time:
        return -self.base.a_dot(t)

    def s_dot(self, t: Time) -> Time:
        return self.base.s_dot(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        # w/(2 - sqrt(1 + w^2)) = sigma for the base's level w
        root = library(sigma).sqrt(1.0 + 3.0 * sigma * sigma)
        return self.base.time_of_positive_sigma(3.0 * sigma / (2.0 + root))


def residual_noise_linear(steps: int = 12) -> ResidualNoise:
    """Return Resfusion's path of `steps` linear rates, cut where A reaches 1/2: of 12 steps 5 are left.

    beta from 0.1/steps to 20/steps; the first A^2 at or below 1/4 becomes 1/4 where A misses 1/2 by more than 0.01, and
    ends the list. Otherwise the path ends between the steps, where A is exactly 1/2.

    Reference: Shi et al., 2023, arXiv 2311.14900.
    """
    betas = torch.linspace(0.1 / steps, 20.0 / steps, steps, dtype=torch.float64)
    squares = torch.cumprod(1.0 - betas, 0).tolist()
    first = next(i for i, square in enumerate(squares) if square <= 0.25)
    last = 0.25 if 0.5 - math.sqrt(squares[first]) > 0.01 else squares[first]
    return ResidualNoise(VPDiscrete((*squares[:first], last)))


@dataclasses.dataclass(frozen=True)
class Offset(Path):
    """DiffuseVAE's path (its formulation 2): the base's, carrying the anchor beside it, b = 1 at all times.

    x_t = a x_0 + y + s eps, y a reconstruction from a latent code: data and noise are those of the base, moved by y.

    Raises:
        BadType: the base has an anchor itself.

    Reference: Pandey et al., DiffuseVAE: Efficient, Controllable and High-Fidelity Generation from Low-Dimensional
    Latents, 2022, arXiv 2201.00308.
    """

    name: ClassVar[str] = "offset"
    base: Path = _VP
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)
    t_max: float = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _unanchored(self.base, self.name)
        _ranged(self)

    def a(self, t: Time) -> Time:
        return self.base.a(t)

    def b(self, t: Time) -> Time:
        return 0.0 * t + 1.0

    def s(self, t: Time) -> Time:
        return self.base.s(t)

    def a_dot(self, t: Time) -> Time:
        return self.base.a_dot(t)

    def b_dot(self, t: Time) -> Time:
        return 0.0 * t

    def s_dot(self, t: Time) -> Time:
        return self.base.s_dot(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return self.base.time_of_positive_sigma(sigma)
