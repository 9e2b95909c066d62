"""Fractional noise through a Markov process: Ornstein-Uhlenbeck processes that share one Brownian motion.

Fractional Brownian motion of Riemann and Liouville, B(t) = integral of (t - u)^(H - 1/2) dW(u)/Gamma(H + 1/2), is close to
sum_k w_k Y_k(t), dY_k = -g_k Y_k dt + dW, Y_k(0) = 0: its kernel u^(H - 1/2)/Gamma(H + 1/2) becomes sum_k w_k e^(-g_k u).
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from retrograde import systems
from retrograde.errors import BadValue
from retrograde.paths.path import Time, Unanchored, bisect, library


@dataclasses.dataclass(frozen=True)
class MarkovFractional:
    """Fractional Brownian motion B(t) ~ sum_k w_k Y_k(t), with the weights of least mean square error on [0, horizon].

    Args:
        hurst: H in (0, 1): 1/2 is Brownian motion, below it rough, above it with a long memory.
        terms: K, number of processes.
        horizon: T.
        ratio: r of the speeds g_k = r^(k - (K + 1)/2)/T, k = 1..K; None for the ratio of least error among 60.

    Raises:
        BadValue: H outside (0, 1), no terms, or a horizon that is not positive.

    Reference: Daems, Opper, Crevecoeur, Birdal, Variational Inference for SDEs Driven by Fractional Noise, 2023, arXiv
    2310.12975.
    """

    hurst: float
    terms: int = 5
    horizon: float = 1.0
    ratio: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.hurst < 1.0 or self.terms < 1 or not self.horizon > 0.0:
            given = f"hurst={self.hurst}, terms={self.terms}, horizon={self.horizon}"
            raise BadValue(given, "0 < hurst < 1, terms >= 1, horizon > 0", "hurst=0.7, terms=5, horizon=1.0")
        ratios = np.geomspace(1.5, 60.0, 60) if self.ratio is None else np.array([self.ratio])
        fits = [_fit(self.hurst, float(r) ** (np.arange(self.terms) - (self.terms - 1) / 2), self.horizon) for r in ratios]
        for name, value in zip(("speeds", "weights", "error"), min(fits, key=lambda fit: fit[2]), strict=True):
            object.__setattr__(self, name, value)

    speeds: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    weights: np.ndarray = dataclasses.field(init=False, repr=False, compare=False)
    error: float = dataclasses.field(init=False, repr=False, compare=False)
    """Mean square error, the integral of E[(B - sum w Y)^2] over [0, horizon], over that of E[B^2]."""

    @cached_property
    def _products(self) -> tuple[np.ndarray, np.ndarray]:
        return np.outer(self.weights, self.weights), self.speeds[:, None] + self.speeds[None, :]

    def kernel(self, u: Time) -> Time:
        """Return sum_k w_k e^(-g_k u), the response to noise that is u old."""
        m: Any = library(u)
        total: Any = 0.0 * u
        for w, g in zip(self.weights.tolist(), self.speeds.tolist(), strict=True):
            total = total + w * m.exp(-g * u)
        return total

    def variance(self, t: Time) -> Time:
        """Return E[(sum w Y(t))^2] = sum_ij w_i w_j (1 - e^(-(g_i + g_j) t))/(g_i + g_j); its slope is kernel(t)^2."""
        weights, rates = (p.ravel().tolist() for p in self._products)
        m: Any = library(t)
        total: Any = 0.0 * t
        for w, g in zip(weights, rates, strict=True):
            total = total - w / g * m.expm1(-g * t)
        return total

    def covariance(self, times: np.ndarray) -> np.ndarray:
        """Return the covariance [n, n] of the process at times [n]."""
        weights, rates = self._products
        early, gap = np.minimum.outer(times, times), np.abs(np.subtract.outer(times, times))
        late = np.exp(-self.speeds[None, None, :] * gap[..., None])  # the process that goes on until the later time
        shared = -np.expm1(-rates * early[..., None, None]) / rates
        return np.einsum("ij,stij,stj->st", weights, shared, late)


def _fit(hurst: float, shape: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Return speeds, weights A^-1 b and relative error; A_ij and b_k are integrals over [0, T] of E[Y_i Y_j], E[B Y_k]."""
    speeds = shape / horizon
    rates = speeds[:, None] + speeds[None, :]
    a = (horizon + np.expm1(-rates * horizon) / rates) / rates
    power = hurst + 0.5
    lower, upper = (_gamma_cdf(p, speeds * horizon) for p in (power, power + 1.0))
    b = speeds**-power * (horizon * lower - power / speeds * upper)
    weights = np.linalg.solve(a, b)
    whole = horizon ** (2 * hurst + 1) / (2 * hurst * (2 * hurst + 1) * math.gamma(power) ** 2)
    return speeds, weights, max(float(1.0 - b @ weights / whole), 0.0)


def _gamma_cdf(shape: float, x: np.ndarray) -> np.ndarray:
    """The regularised lower incomplete gamma function P(shape, x)."""
    at = torch.from_numpy(np.asarray(x, dtype=np.float64))
    return torch.special.gammainc(torch.full_like(at, shape), at).numpy()


_EARLIEST = -60.0
"""Logarithm of a time before which no level is looked for."""


@dataclasses.dataclass(frozen=True)
class Fractional(Unanchored):
    """Variance-exploding path of fractional noise: x_t = x_0 + c B(t), B the Markov process of `MarkovFractional`.

    a = 1, s(t)^2 = c^2 Var B(t), near t^(2H): the marginals, and so all that a sampler needs. t runs to 1, from the time
    of the level `sigma_min`; c makes the last level `sigma_max`.

    Reference: Daems et al., 2023, arXiv 2310.12975.
    """

    name: ClassVar[str] = "fractional"
    hurst: float = 0.7
    terms: int = 5
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)
    t_max: float = dataclasses.field(init=False, repr=False, compare=False)
    process: MarkovFractional = dataclasses.field(init=False, repr=False, compare=False)
    _scale: float = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        process = MarkovFractional(self.hurst, self.terms)
        derived = {"process": process, "t_max": 1.0, "_scale": self.sigma_max / math.sqrt(process.variance(1.0))}
        for name, value in derived.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "t_min", self.time_of_positive_sigma(self.sigma_min))

    def a(self, t: Time) -> Time:
        return 0.0 * t + 1.0

    def s(self, t: Time) -> Time:
        return self._scale * library(t).sqrt(self.process.variance(t))

    def a_dot(self, t: Time) -> Time:
        return 0.0 * t

    def s_dot(self, t: Time) -> Time:
        return 0.5 * self._scale**2 * self.process.kernel(t) ** 2 / self.s(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        log_t = bisect(lambda log_t, level: self.s(library(log_t).exp(log_t)) - level, sigma, _EARLIEST, 1.0)
        return library(log_t).exp(log_t)


systems.register(
    systems.System(
        title="Variational Inference for SDEs Driven by Fractional Noise",
        authors=("Rembert Daems", "Manfred Opper", "Guillaume Crevecoeur", "Tolga Birdal"),
        year=2023,
        arxiv="2310.12975",
        home="paths",
        call="rg.paths.MarkovFractional(hurst=0.3, terms=5)",
        test="tests/paths/test_fractional.py::test_more_processes_come_closer_to_fractional_noise",
    )
)
