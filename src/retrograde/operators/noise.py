"""Noise of measurements: Gaussian, Poisson, impulses. Each draws, and knows its likelihood."""

from __future__ import annotations

import dataclasses
import inspect
import math
from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor

from retrograde.errors import BadValue, UnknownName
from retrograde.operators.registry import read


class NoiseModel(ABC):
    """What stands between A(x) and y."""

    @abstractmethod
    def corrupt(self, clean: Tensor, seed: int = 0) -> Tensor:
        """Return a draw of y given A(x)."""

    @abstractmethod
    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        """Return log p(y | A(x)) in nats, [n], of y [n or 1, *measured] and A(x) [n, *measured]; differentiable."""


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@final
@dataclasses.dataclass(frozen=True)
class GaussianNoise(NoiseModel):
    """y = A(x) + std n, n standard normal; std >= 0, in units of the measurement."""

    std: float

    def __post_init__(self) -> None:
        if not (self.std >= 0.0 and math.isfinite(self.std)):
            raise BadValue(f"std={self.std}", "std >= 0, in units of the measurement", "GaussianNoise(0.05)")

    def corrupt(self, clean: Tensor, seed: int = 0) -> Tensor:
        drawn = torch.randn(clean.shape, dtype=torch.float64, generator=_generator(seed))
        return clean + self.std * drawn.to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        if self.std == 0.0:
            raise BadValue("the likelihood of a measurement without noise", "std > 0", "give it a small std, such as 1e-3")
        square = ((y - clean) ** 2).flatten(1).sum(1)
        return -0.5 * square / self.std**2 - clean[0].numel() * (math.log(self.std) + 0.5 * math.log(2.0 * math.pi))


@final
@dataclasses.dataclass(frozen=True)
class PoissonNoise(NoiseModel):
    """y = dark + gain k with counts k of Poisson's law of mean (A(x) - dark)/gain: variance gain (A(x) - dark).

    Attributes:
        gain: what one count is worth, in units of the measurement.
        dark: the measurement without light, -1 for pictures in [-1, 1].
    """

    gain: float
    dark: float = -1.0

    def __post_init__(self) -> None:
        if not self.gain > 0.0:
            raise BadValue(f"gain={self.gain}", "gain > 0", "PoissonNoise(0.02): about 100 counts in white")

    def corrupt(self, clean: Tensor, seed: int = 0) -> Tensor:
        rate = ((clean.double() - self.dark) / self.gain).clamp(min=0.0).cpu()
        return (self.dark + self.gain * torch.poisson(rate, generator=_generator(seed))).to(clean)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        rate = ((clean - self.dark) / self.gain).clamp(min=1e-6)
        counts = ((y - self.dark) / self.gain).clamp(min=0.0)
        return (counts * rate.log() - rate - torch.lgamma(counts + 1.0)).flatten(1).sum(1)


@final
@dataclasses.dataclass(frozen=True)
class ImpulseNoise(NoiseModel):
    """A share of the measurements is replaced by a value drawn evenly from [low, high]; the others get std n.

    Its likelihood, (1 - share) N(y; A(x), std^2) + share/(high - low), lets outliers go.
    """

    share: float
    std: float
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.share < 1.0 or not self.std > 0.0 or not self.low < self.high:
            given = f"share={self.share}, std={self.std}, low={self.low}, high={self.high}"
            raise BadValue(given, "0 <= share < 1, std > 0, low < high", "ImpulseNoise(0.02, 0.05)")

    def corrupt(self, clean: Tensor, seed: int = 0) -> Tensor:
        generator = _generator(seed)
        kept = clean + self.std * torch.randn(clean.shape, dtype=torch.float64, generator=generator).to(clean)
        hit = torch.rand(clean.shape, dtype=torch.float64, generator=generator) < self.share
        value = self.low + (self.high - self.low) * torch.rand(clean.shape, dtype=torch.float64, generator=generator)
        return torch.where(hit.to(clean.device), value.to(clean), kept)

    def log_likelihood(self, y: Tensor, clean: Tensor) -> Tensor:
        normal = -0.5 * ((y - clean) / self.std) ** 2 - math.log(self.std * math.sqrt(2.0 * math.pi))
        kept = math.log1p(-self.share) + normal
        if self.share == 0.0:
            return kept.flatten(1).sum(1)
        hit = torch.full_like(kept, math.log(self.share / (self.high - self.low)))
        return torch.logaddexp(kept, hit).flatten(1).sum(1)


NOISES: dict[str, type[NoiseModel]] = {"gaussian": GaussianNoise, "poisson": PoissonNoise, "impulse": ImpulseNoise}
"""Noise models by the name they are typed by."""


def noise_of(text: str | float) -> NoiseModel:
    """Return the noise that is written as "0.05" (Gaussian), "poisson:0.02", or "impulse:share=0.02,std=0.05".

    Raises:
        UnknownName: no such noise or setting.
        BadValue: settings that are missing, twice there, no numbers, or refused by the noise.
    """
    name, _, rest = str(text).partition(":")
    if name not in NOISES:
        try:
            return GaussianNoise(float(text))
        except ValueError as error:
            if isinstance(error, BadValue):
                raise
            raise UnknownName("noise", name, NOISES) from None
    model = NOISES[name]
    settings = {p.name: p.default for p in inspect.signature(model).parameters.values()}
    found = read(name, rest, settings, {})
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValue(f"{key}={value!r} of {name} noise", "a number", f"{name}:{key}=0.05")
    return model(**found)
