"""Laws from which training draws its noise levels."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch

from retrograde.errors import BadValue, UnknownName
from retrograde.paths import Path, quantiles


class LevelLaw(ABC):
    """A distribution of path times, given by its quantile function."""

    @abstractmethod
    def quantile(self, path: Path, u: torch.Tensor) -> torch.Tensor:
        """Path times [n] (float64, within the path's range) at probabilities u [n] in (0, 1)."""

    def sample(self, path: Path, n: int, generator: torch.Generator) -> torch.Tensor:
        """Draw n path times, stratified: u_i = (i + U)/n mod 1 with one uniform U, so that a batch covers all levels.

        Shapes: -> float64 [n], each within [path.t_min, path.t_max]; every entry alone follows the law.

        Reference: Kingma, Salimans, Poole, Ho 2021, "Variational Diffusion Models", arXiv:2107.00630 (appendix I.1).
        """
        u = (torch.arange(n, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)) / n
        # The order must not tie an item's place in the batch to its level.
        u = u[torch.randperm(n, generator=generator)]
        return self.quantile(path, u.clamp(1e-9, 1 - 1e-9)).clamp(path.t_min, path.t_max)


@final
@dataclass(frozen=True)
class Uniform(LevelLaw):
    """t uniform between t_min and t_max."""

    def quantile(self, path: Path, u: torch.Tensor) -> torch.Tensor:
        return path.t_min + u * (path.t_max - path.t_min)


@final
@dataclass(frozen=True)
class LogNormalSigma(LevelLaw):
    """log(s/a) normal with the given mean and standard deviation.

    Reference: Karras, Aittala, Aila, Laine 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
    arXiv:2206.00364 (mean -1.2 and std 1.2 there).
    """

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, path: Path, u: torch.Tensor) -> torch.Tensor:
        sigma = torch.exp(self.mean + self.std * torch.special.ndtri(u))
        return path.time_of_sigma(sigma)


@final
@dataclass(frozen=True)
class LogitNormal(LevelLaw):
    """logit of (t - t_min)/(t_max - t_min) normal with the given mean and standard deviation.

    Against uniform times it buys accuracy in the middle with the ends. Large networks gain by that; models of 8x8 digits
    fitted by least squares do not, at five to ten Euler steps (tests/train/test_flow_of_digits.py): measure it on yours.

    Reference: Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
    arXiv:2403.03206.
    """

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, path: Path, u: torch.Tensor) -> torch.Tensor:
        return _within(path, quantiles.logit_normal(u, self.mean, self.std))


@final
@dataclass(frozen=True)
class Mode(LevelLaw):
    """Share (t - t_min)/(t_max - t_min) of the law "mode": a heavy middle that leaves the ends some weight (2403.03206)."""

    scale: float = 1.29

    def quantile(self, path: Path, u: torch.Tensor) -> torch.Tensor:
        return _within(path, quantiles.mode(u, self.scale))


@final
@dataclass(frozen=True)
class CosMap(LevelLaw):
    """Share (t - t_min)/(t_max - t_min) as the cosine schedule has it on the flow path (arXiv 2403.03206)."""

    def quantile(self, path: Path, u: torch.Tensor) -> torch.Tensor:
        return _within(path, quantiles.cosmap(u))


@final
@dataclass(frozen=True)
class Shifted(LevelLaw):
    """Another law with every noise level s/a times `shift`: for images of shift^2 as many pixels (arXiv 2403.03206).

    Args:
        shift: factor, `paths.resolution_shift(pixels, reference)`.
        of: configuration of the other law.
    """

    shift: float = 3.0
    of: Mapping[str, Any] = field(default_factory=lambda: {"law": "logit_normal"})

    def quantile(self, path: Path, u: torch.Tensor) -> torch.Tensor:
        sigma = path.sigma(level_law(dict(self.of)).quantile(path, u))
        return path.time_of_sigma(self.shift * sigma)


def _within(path: Path, share: torch.Tensor) -> torch.Tensor:
    return path.t_min + share * (path.t_max - path.t_min)


LAWS: dict[str, type[LevelLaw]] = {
    "uniform": Uniform,
    "lognormal_sigma": LogNormalSigma,
    "logit_normal": LogitNormal,
    "mode": Mode,
    "cosmap": CosMap,
    "shifted": Shifted,
}


def level_law(config: dict[str, Any]) -> LevelLaw:
    """Build a law from its configuration, for instance {"law": "lognormal_sigma", "mean": -1.2, "std": 1.2}.

    Raises UnknownName for an unknown law, BadValue for parameters it does not have.
    """
    parameters = dict(config)
    name = parameters.pop("law", "uniform")
    if name not in LAWS:
        raise UnknownName("level law", str(name), LAWS)
    try:
        return LAWS[name](**parameters)
    except TypeError:
        allowed = ", ".join(inspect.signature(LAWS[name]).parameters) or "no parameter"
        raise BadValue(f"level law {name!r} with {sorted(parameters)}", allowed, f"use {{'law': {name!r}}}") from None


def standard_law(predicts: str) -> LevelLaw:
    """The law usual for a parameterization: log-normal sigma for "edm", logit-normal for "velocity", else uniform."""
    if predicts == "edm":
        return LogNormalSigma()
    return LogitNormal() if predicts == "velocity" else Uniform()
