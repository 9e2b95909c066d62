"""Paths from data to a noisy anchor, such as a degraded image: b(t) = 1 - a(t).

Their process is x_t = x_0 + (1 - a)(y - x_0) + s eps. A run that begins by itself starts at y + s eps: it takes the anchor
for the data, of which a finite level still holds a share. For fixed y, x_t - b y is an ordinary path, and every recipe
steps on it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from retrograde.paths.path import Path, Targets, Time, library

RESIDUAL: Targets = {"residual": lambda path, t: (-1.0, 0.0, 1.0)}
"""The residual y - x_0 as what a network predicts."""


class Residual(Path):
    """A path from the data to the anchor: b = 1 - a."""

    guess: ClassVar[float] = 1.0
    targets: ClassVar[Targets] = RESIDUAL

    def b(self, t: Time) -> Time:
        return 1.0 - self.a(t)

    def b_dot(self, t: Time) -> Time:
        return -self.a_dot(t)


@dataclasses.dataclass(frozen=True)
class ResidualShift(Residual):
    """ResShift's path: a = 1 - eta, b = eta, s = kappa sqrt(eta), sqrt(eta) = q (end/q)^t from q = min(m/kappa, m).

    Time t = ((i - 1)/(T - 1))^p is step i of T of the published chain: the grid "power" lays its steps out. Like a
    variance-exploding path it begins above the data (t = 0 is step 1), and it ends below eta = 1, where the data still
    weigh 1 - eta.

    Args:
        kappa: standard deviation of the noise at eta = 1.
        least: m, the published `min_noise_level`.
        end: sqrt(eta) at t = 1.

    Reference: Yue et al., Efficient Diffusion Model for Image Restoration by Residual Shifting, 2024, arXiv 2403.07319.
    """

    name: ClassVar[str] = "residual_shift"
    kappa: float = 2.0
    least: float = 0.2
    end: float = 0.99
    t_min: float = 0.0
    t_max: float = 1.0

    @property
    def _first(self) -> float:
        return min(self.least / self.kappa, self.least)

    @property
    def _rate(self) -> float:
        return math.log(self.end / self._first)

    def _root(self, t: Time) -> Time:
        """sqrt(eta)."""
        return self._first * library(t).exp(self._rate * t)

    def a(self, t: Time) -> Time:
        root = self._root(t)
        return (1.0 - root) * (1.0 + root)

    def s(self, t: Time) -> Time:
        return self.kappa * self._root(t)

    def a_dot(self, t: Time) -> Time:
        root = self._root(t)
        return -2.0 * self._rate * root * root

    def s_dot(self, t: Time) -> Time:
        return self._rate * self.s(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        # sigma (1 - eta) = kappa sqrt(eta)
        root = 2.0 * sigma / (self.kappa + library(sigma).sqrt(self.kappa**2 + 4.0 * sigma * sigma))
        return library(root).log(root / self._first) / self._rate


@dataclasses.dataclass(frozen=True)
class OrnsteinUhlenbeck(Residual):
    """Path of dx = gamma (y - x) dt + g dw: a = e^(-gamma t), b = 1 - a, and exploding noise g.

    g = sigma_min (sigma_max/sigma_min)^t sqrt(2 L), s^2 = L/(gamma + L) sigma_min^2 (e^(2 L t) - e^(-2 gamma t)), with L
    = log(sigma_max/sigma_min). At t = 1 the data still weigh e^(-gamma): a run that starts at y + s eps carries this
    mismatch.

    Reference: Richter et al., Speech Enhancement and Dereverberation with Diffusion-based Generative Models, 2022, arXiv
    2208.05830.
    """

    name: ClassVar[str] = "ornstein_uhlenbeck"
    gamma: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    t_min: float = 0.03
    t_max: float = 1.0

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    @property
    def _scale(self) -> float:
        return self.sigma_min**2 * self._rate / (self.gamma + self._rate)

    def sigma_squared(self, t: Time) -> Time:
        """Return (s/a)^2 = L/(gamma + L) sigma_min^2 (e^(2 (gamma + L) t) - 1)."""
        return self._scale * library(t).expm1(2.0 * (self.gamma + self._rate) * t)

    def a(self, t: Time) -> Time:
        return library(t).exp(-self.gamma * t)

    def s(self, t: Time) -> Time:
        return self.a(t) * library(t).sqrt(self.sigma_squared(t))

    def a_dot(self, t: Time) -> Time:
        return -self.gamma * self.a(t)

    def s_dot(self, t: Time) -> Time:
        grown = library(t).exp(2.0 * self._rate * t)
        return self._scale * (self._rate * grown + self.gamma * self.a(t) ** 2) / self.s(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return library(sigma).log1p(sigma * sigma / self._scale) / (2.0 * (self.gamma + self._rate))


@dataclasses.dataclass(frozen=True)
class ResidualDenoising(Residual):
    """RDDM's path: a = (1 - t)^2, b = 1 - a, s = noise t.

    The residual enters at a linearly falling rate, the noise's variance at a linearly rising one: the limit of many
    steps of the published sums: at step k of T, 1 - a = k(2T - 1 - k)/(T(T - 1)) and s^2 = noise^2 k(k - 1)/(T(T - 1)).
    The data are gone at t = 1, so slowly that there the velocity says nothing of them: `t_max` stops before, with a =
    1e-4. A network that predicts data or residual may start at an explicit 1.

    Args:
        noise: s at t = 1: sqrt(0.01) where one restores, 1 where one generates.

    Reference: Liu et al., Residual Denoising Diffusion Models, 2023, arXiv 2308.13712.
    """

    name: ClassVar[str] = "residual_denoising"
    t_end: ClassVar[float | None] = 1.0
    noise: float = 0.1
    t_min: float = 5e-3
    t_max: float = 0.99

    def a(self, t: Time) -> Time:
        return (1.0 - t) * (1.0 - t)

    def s(self, t: Time) -> Time:
        return self.noise * t

    def a_dot(self, t: Time) -> Time:
        return -2.0 * (1.0 - t)

    def s_dot(self, t: Time) -> Time:
        return 0.0 * t + self.noise

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        # u (1 - t)^2 = t with u = sigma/noise
        u = sigma / self.noise
        return 2.0 * u / (1.0 + 2.0 * u + library(u).sqrt(1.0 + 4.0 * u))
