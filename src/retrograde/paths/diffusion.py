"""Diffusion paths: variance preserving, sub-variance-preserving, variance exploding, EDM."""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadValue
from retrograde.paths.path import Time, Unanchored, library


def _sqrt_one_minus_square(log_a: Time) -> Time:
    """sqrt(1 - a^2) from log a, exact also where a is close to one."""
    return library(log_a).sqrt(-library(log_a).expm1(2.0 * log_a))


@dataclasses.dataclass(frozen=True)
class VP(Unanchored):
    """Variance-preserving path with a linear rate beta(t) = beta_min + t (beta_max - beta_min).

    a = exp(-t^2 (beta_max - beta_min)/4 - t beta_min/2), s = sqrt(1 - a^2), t in [0, 1].

    Reference: Song et al., Score-Based Generative Modeling through Stochastic Differential Equations, 2021,
    arXiv 2011.13456; the limit of Ho et al., DDPM, 2020, arXiv 2006.11239.
    """

    name: ClassVar[str] = "vp"
    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def _log_a(self, t: Time) -> Time:
        return -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def _beta(self, t: Time) -> Time:
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def a(self, t: Time) -> Time:
        return library(t).exp(self._log_a(t))

    def s(self, t: Time) -> Time:
        return _sqrt_one_minus_square(self._log_a(t))

    def a_dot(self, t: Time) -> Time:
        return -0.5 * self._beta(t) * self.a(t)

    def s_dot(self, t: Time) -> Time:
        a = self.a(t)
        return 0.5 * self._beta(t) * a * a / self.s(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return _linear_rate_time(0.5 * library(sigma).log1p(sigma * sigma), self.beta_min, self.beta_max)


def _linear_rate_time(minus_log_a: Time, beta_min: float, beta_max: float) -> Time:
    """Solve t beta_min/2 + t^2 (beta_max - beta_min)/4 = -log a without cancellation."""
    root = library(minus_log_a).sqrt(beta_min**2 + 4.0 * (beta_max - beta_min) * minus_log_a)
    return 4.0 * minus_log_a / (beta_min + root)


@dataclasses.dataclass(frozen=True)
class SubVP(Unanchored):
    """Sub-variance-preserving path: the mean of VP with s = 1 - a^2.

    Reference: Song et al., 2021, arXiv 2011.13456.
    """

    name: ClassVar[str] = "subvp"
    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def _log_a(self, t: Time) -> Time:
        return -0.25 * t * t * (self.beta_max - self.beta_min) - 0.5 * t * self.beta_min

    def a(self, t: Time) -> Time:
        return library(t).exp(self._log_a(t))

    def s(self, t: Time) -> Time:
        return -library(t).expm1(2.0 * self._log_a(t))

    def a_dot(self, t: Time) -> Time:
        return -0.5 * (self.beta_min + t * (self.beta_max - self.beta_min)) * self.a(t)

    def s_dot(self, t: Time) -> Time:
        return -2.0 * self.a(t) * self.a_dot(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        # (1 - a^2)/a = sigma means -log a = asinh(sigma/2).
        return _linear_rate_time(library(sigma).asinh(0.5 * sigma), self.beta_min, self.beta_max)


@dataclasses.dataclass(frozen=True)
class VPCosine(Unanchored):
    """Variance-preserving path with a(t) proportional to cos(pi/2 (t + c)/(1 + c)), c = `offset`.

    `t_max` stops before the zero of the cosine, as networks of this schedule are trained (the discrete rates are clipped).

    Reference: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, 2021, arXiv 2102.09672.
    """

    name: ClassVar[str] = "vp_cosine"
    offset: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.9946

    @property
    def _angle_0(self) -> float:
        return 0.5 * math.pi * self.offset / (1.0 + self.offset)

    def _angle(self, t: Time) -> Time:
        return 0.5 * math.pi * (t + self.offset) / (1.0 + self.offset)

    def a(self, t: Time) -> Time:
        return library(t).cos(self._angle(t)) / math.cos(self._angle_0)

    def s(self, t: Time) -> Time:
        # cos^2 u_0 - cos^2 u = sin(u - u_0) sin(u + u_0)
        m, u, u_0 = library(t), self._angle(t), self._angle_0
        return m.sqrt(m.sin(u - u_0) * m.sin(u + u_0)) / math.cos(u_0)

    def a_dot(self, t: Time) -> Time:
        rate = 0.5 * math.pi / (1.0 + self.offset)
        return -rate * library(t).sin(self._angle(t)) / math.cos(self._angle_0)

    def s_dot(self, t: Time) -> Time:
        return -self.a(t) * self.a_dot(t) / self.s(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        m = library(sigma)
        angle = m.acos(math.cos(self._angle_0) / m.sqrt(1.0 + sigma * sigma))
        return angle * (1.0 + self.offset) / (0.5 * math.pi) - self.offset


systems.register(
    systems.System(
        title="Improved Denoising Diffusion Probabilistic Models",
        authors=("Alex Nichol", "Prafulla Dhariwal"),
        year=2021,
        arxiv="2102.09672",
        home="paths",
        call="rg.plan('ddpm', rg.paths.VPCosine(), nfe=50)",
        test="tests/paths/test_families.py::test_the_cosine_path_is_the_published_schedule",
    )
)


@dataclasses.dataclass(frozen=True)
class VE(Unanchored):
    """Variance-exploding path: a = 1, s = sigma_min (sigma_max/sigma_min)^t, t in [0, 1].

    Reference: Song et al., 2021, arXiv 2011.13456.
    """

    name: ClassVar[str] = "ve"
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 0.0
    t_max: float = 1.0

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def a(self, t: Time) -> Time:
        return 0.0 * t + 1.0

    def s(self, t: Time) -> Time:
        return self.sigma_min * library(t).exp(self._rate * t)

    def a_dot(self, t: Time) -> Time:
        return 0.0 * t

    def s_dot(self, t: Time) -> Time:
        return self._rate * self.s(t)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return library(sigma).log(sigma / self.sigma_min) / self._rate


class NoiseLevel(Unanchored):
    """A path whose time is the noise level: a = 1, s = t, between its own sigma_min and sigma_max."""

    sigma_min: float
    sigma_max: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "t_min", self.sigma_min)
        object.__setattr__(self, "t_max", self.sigma_max)

    def a(self, t: Time) -> Time:
        return 0.0 * t + 1.0

    def s(self, t: Time) -> Time:
        return 1.0 * t

    def a_dot(self, t: Time) -> Time:
        return 0.0 * t

    def s_dot(self, t: Time) -> Time:
        return 0.0 * t + 1.0

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        return 1.0 * sigma


@dataclasses.dataclass(frozen=True)
class EDM(NoiseLevel):
    """Variance-exploding path whose time is the noise level: a = 1, s = t.

    Reference: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, 2022, arXiv 2206.00364.
    """

    name: ClassVar[str] = "edm"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)
    t_max: float = dataclasses.field(init=False, repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class PFGMpp(NoiseLevel):
    """The path of PFGM++: EDM's, with noise that is projected from `degrees` = D extra dimensions of the data.

    The data's field in N + D dimensions depends on the extra ones through their norm r = sigma sqrt(D) alone, and p(x_t |
    x_0) is proportional to (|x_t - x_0|^2 + r^2)^(-(N + D)/2): Student's law, eps = z sqrt(D/chi^2_D). D = 1 is the Poisson
    flow, infinite D the diffusion path. The flow is dx/dsigma = (x - E[x_0|x])/sigma as on EDM, so every deterministic
    recipe and grid serves as it is; but the score is not -noise/sigma, and no SDE with Gaussian noise has these marginals:
    a plan that draws noise is refused.

    Reference: Xu et al., PFGM++: Unlocking the Potential of Physics-Inspired Generative Models, 2023, arXiv 2302.04265.
    """

    name: ClassVar[str] = "pfgmpp"
    identities: ClassVar[frozenset[str]] = frozenset({"likelihood"})
    degrees: float = 128.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)
    t_max: float = dataclasses.field(init=False, repr=False, compare=False)


systems.register(
    systems.System(
        title="PFGM++: Unlocking the Potential of Physics-Inspired Generative Models",
        authors=("Yilun Xu", "Ziming Liu", "Yonglong Tian", "Shangyuan Tong", "Max Tegmark", "Tommi Jaakkola"),
        year=2023,
        arxiv="2302.04265",
        home="paths",
        call="rg.sample(denoiser, rg.plan('heun', rg.paths.PFGMpp(degrees=128.0), nfe=35), n=4)",
        test="tests/paths/test_pfgmpp.py::test_the_flow_from_the_prior_reaches_the_data",
    )
)


READABLE_SIGMA = 160.0
"""Noise-to-signal ratio up to which a noise prediction tells the data; the linear schedule of DDPM ends at 157."""


@dataclasses.dataclass(frozen=True)
class VPDiscrete(Unanchored):
    """Variance-preserving path through a trained list of `alphas_cumprod` (diffusers, DDPM).

    Step i of N lies at t = (i + 1)/N; t = 0 is the data. In between log(alphas_cumprod) is linear in t, so that every
    level has one time and one inverse. a = sqrt(alphas_cumprod), s = sqrt(1 - alphas_cumprod).

    Args:
        alphas_cumprod: noisiest last.
        t_max: where sampling starts; left out, the last level with s/a <= 160. Beyond it (the clipped end of a cosine
            schedule) a noise prediction times s/a is no longer a data mean; networks that predict v may start at 1.

    Reference: Ho et al., Denoising Diffusion Probabilistic Models, 2020, arXiv 2006.11239; interpolation as in Lu et al.,
    DPM-Solver, 2022, arXiv 2206.00927.
    """

    name: ClassVar[str] = "vp_discrete"
    alphas_cumprod: tuple[float, ...]
    t_max: float = 0.0
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        values = tuple(float(v) for v in self.alphas_cumprod)
        falling = all(x > y for x, y in zip(values, values[1:], strict=False))
        if not values or not falling or values[0] >= 1.0 or values[-1] <= 0.0:
            raise BadValue(
                f"alphas_cumprod with {len(values)} values {list(values[:3])}...{list(values[-1:])}",
                "values that fall strictly from below 1 to above 0",
                "for a zero-terminal-SNR schedule pass alphas_cumprod[:-1]",
            )
        readable = sum(v >= 1.0 / (1.0 + READABLE_SIGMA**2) for v in values) or 1
        object.__setattr__(self, "alphas_cumprod", values)
        object.__setattr__(self, "t_min", 1.0 / len(values))
        object.__setattr__(self, "t_max", self.t_max or readable / len(values))
        object.__setattr__(self, "_log_a", (0.0, *(0.5 * math.log(v) for v in values)))

    _log_a: tuple[float, ...] = dataclasses.field(init=False, repr=False, compare=False, default=())

    def _segment(self, t: Time) -> tuple[Time, Time]:
        """Return log a(t) and its slope."""
        n = len(self.alphas_cumprod)
        if isinstance(t, Tensor):
            table = torch.tensor(self._log_a, dtype=torch.float64, device=t.device)
            position = (t.double() * n).clamp(0.0, float(n))
            i = position.floor().clamp(max=n - 1).long()
            slope = (table[i + 1] - table[i]) * n
            return (table[i] + (position - i) * slope / n).to(t.dtype), slope.to(t.dtype)
        position = min(max(t * n, 0.0), float(n))
        i = min(int(position), n - 1)
        slope = (self._log_a[i + 1] - self._log_a[i]) * n
        return self._log_a[i] + (position - i) * slope / n, slope

    def a(self, t: Time) -> Time:
        return library(t).exp(self._segment(t)[0])

    def s(self, t: Time) -> Time:
        return _sqrt_one_minus_square(self._segment(t)[0])

    def a_dot(self, t: Time) -> Time:
        log_a, slope = self._segment(t)
        return slope * library(t).exp(log_a)

    def s_dot(self, t: Time) -> Time:
        log_a, slope = self._segment(t)
        return -slope * library(t).exp(2.0 * log_a) / _sqrt_one_minus_square(log_a)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        n = len(self.alphas_cumprod)
        if not isinstance(sigma, Tensor):
            log_a = -0.5 * math.log1p(sigma * sigma)
            i = min(max(bisect.bisect_right(self._log_a, -log_a, key=float.__neg__) - 1, 0), n - 1)
            return (i + (log_a - self._log_a[i]) / (self._log_a[i + 1] - self._log_a[i])) / n
        minus_log_a = 0.5 * torch.log1p(sigma.double() ** 2)
        table = -torch.tensor(self._log_a, dtype=torch.float64, device=sigma.device)
        i = (torch.searchsorted(table, minus_log_a, right=True) - 1).clamp(0, n - 1)
        t = (i + (minus_log_a - table[i]) / (table[i + 1] - table[i])) / n
        return t.to(sigma.dtype)


def from_alphas_cumprod(alphas_cumprod: object) -> VPDiscrete:
    """Make the variance-preserving path of a list, array or tensor of `alphas_cumprod` (noisiest last).

    Raises:
        BadValue: values of half precision, in which neighbouring steps have one level.
    """
    given = torch.as_tensor(alphas_cumprod)
    if given.dtype in (torch.float16, torch.bfloat16):
        kind = str(given.dtype).removeprefix("torch.")
        mend = "take scheduler.alphas_cumprod before the pipeline is cast, or cumulate its betas in float64"
        raise BadValue(f"alphas_cumprod in {kind}, which has too few digits", "float32 or float64", mend)
    values = torch.as_tensor(alphas_cumprod, dtype=torch.float64).flatten().tolist()
    return VPDiscrete(tuple(values))
