"""The forward process: how data becomes noise.

Every path of the library is linear in its three ingredients,

    x_t = a(t) x_0 + b(t) y + s(t) eps,

with data x_0, an anchor y (for instance a degraded image; b = 0 on most paths) and noise eps. A path knows these
coefficients, their derivatives and their inverses, and nothing of steps.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadType, BadValue, UnknownName, described

Time = TypeVar("Time", float, Tensor)

Targets = Mapping[str, Callable[[Any, Any], tuple[Any, Any, Any]]]

_PATHS: dict[str, type[Path]] = {}


def library(t: float | Tensor) -> ModuleType:
    """Return the module whose exp, log, sqrt, ... fit `t`: `torch` for tensors, `math` for floats.

    Coefficients of a plan are Python floats computed in float64; the same formula serves training, where t is a tensor.
    """
    return torch if isinstance(t, Tensor) else math


def bisect(excess: Callable[[Any, Any], Any], target: Time, low: float, high: float, halvings: int = 70) -> Time:
    """Return the place between low and high where the rising excess(place, target) passes zero, for floats and tensors."""
    if isinstance(target, Tensor):
        wanted = target.double()
        bottom, top = torch.full_like(wanted, low), torch.full_like(wanted, high)
        for _ in range(halvings):
            middle = 0.5 * (bottom + top)
            above = excess(middle, wanted) > 0.0
            bottom, top = torch.where(above, bottom, middle), torch.where(above, middle, top)
        return (0.5 * (bottom + top)).to(target.dtype)
    for _ in range(halvings):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if excess(middle, target) > 0.0 else (middle, high)
    return 0.0 * target + 0.5 * (low + high)


class Path(ABC):
    """A forward process x_t = a(t) x_0 + b(t) y + s(t) eps.

    Final paths are frozen dataclasses. All methods take a float and return a float (float64 arithmetic), or take a tensor
    and return a tensor of its shape. Times grow from the data (`t_min`) to the noise (`t_max`): the range on which networks
    of this path are trained.
    """

    name: ClassVar[str]
    identities: ClassVar[frozenset[str]] = frozenset({"score", "likelihood", "sde"})
    """What holds on this path: the score is -noise/s, densities follow the flow, the reversal is an SDE."""
    degrees: float = math.inf
    """Degrees of freedom of the noise: eps = z sqrt(degrees/chi^2), Student's law; infinite for Gaussian noise."""
    anchored: ClassVar[bool] = True
    """Whether the path carries an anchor y, which every run on it then needs."""
    t_end: ClassVar[float | None] = None
    """The last time that may be named explicitly, where the path goes on after `t_max`; None is `t_max`."""
    guess: ClassVar[float] = 0.0
    """What a run that begins by itself takes for the unknown data, in units of the anchor."""
    targets: ClassVar[Targets] = {}
    """Parameterizations of this path alone: from (path, t) to (p, q, r), of a prediction p x_0 + q eps + r y."""

    t_min: float
    t_max: float

    def __init_subclass__(cls) -> None:
        if "name" in cls.__dict__:
            _PATHS[cls.name] = cls

    @abstractmethod
    def a(self, t: Time) -> Time:
        """Coefficient of the data x_0."""

    @abstractmethod
    def b(self, t: Time) -> Time:
        """Coefficient of the anchor y."""

    @abstractmethod
    def s(self, t: Time) -> Time:
        """Coefficient (standard deviation) of the noise."""

    @abstractmethod
    def a_dot(self, t: Time) -> Time:
        """Derivative da/dt."""

    @abstractmethod
    def b_dot(self, t: Time) -> Time:
        """Derivative db/dt."""

    @abstractmethod
    def s_dot(self, t: Time) -> Time:
        """Derivative ds/dt."""

    @abstractmethod
    def time_of_positive_sigma(self, sigma: Time) -> Time:
        """Inverse of `sigma` for 0 < sigma < infinity."""

    def sigma(self, t: Time) -> Time:
        """Noise-to-signal ratio s(t)/a(t); infinite where the path holds no signal."""
        a, s = self.a(t), self.s(t)
        if isinstance(a, Tensor):
            return s / a
        return s / a if a > 0.0 else math.inf

    def log_snr(self, t: Time) -> Time:
        """Logarithm of the signal-to-noise ratio, log(a^2/s^2) = -2 log sigma."""
        sigma = self.sigma(t)
        if isinstance(sigma, Tensor):
            return -2.0 * torch.log(sigma)
        if sigma <= 0.0:
            return math.inf
        return -2.0 * math.log(sigma) if sigma < math.inf else -math.inf

    def time_of_sigma(self, sigma: Time) -> Time:
        """Path time at which s/a equals `sigma`; an infinite sigma is the noise end `t_max`."""
        if isinstance(sigma, Tensor):
            finite = torch.isfinite(sigma)
            return torch.where(finite, self.time_of_positive_sigma(torch.where(finite, sigma, 1.0)), self.t_max)
        if math.isinf(sigma):
            return self.t_max
        if sigma <= 0.0:
            raise BadValue(
                f"sigma={sigma} on path {self.name}", "0 < sigma <= inf", "leave the data end to the plan's last row"
            )
        return self.time_of_positive_sigma(sigma)

    def time_of_log_snr(self, log_snr: Time) -> Time:
        """Path time at which log(a^2/s^2) equals `log_snr`."""
        return self.time_of_sigma(library(log_snr).exp(-0.5 * log_snr))

    def drift(self, t: Time) -> Time:
        """Coefficient f(t) = a'/a of the forward SDE dx = (f x + (b' - f b) y) dt + g dw."""
        return self.a_dot(t) / self.a(t)

    def diffusion_squared(self, t: Time) -> Time:
        """Squared diffusion g(t)^2 = d(s^2)/dt - 2 f s^2 of the forward SDE."""
        s = self.s(t)
        return 2.0 * s * self.s_dot(t) - 2.0 * self.drift(t) * s * s

    def config(self) -> dict[str, Any]:
        """Return the name and the parameters: `from_config(path.config()) == path`."""
        parameters = {f.name: getattr(self, f.name) for f in _parameters(type(self))}
        return {"name": self.name, **{k: v.config() if isinstance(v, Path) else v for k, v in parameters.items()}}

    @functools.cached_property
    def conversions(self) -> dict[tuple[float, str, str], tuple[Any, ...]]:
        """Conversions between parameterizations worked out before, by time, source and target: a plan runs often."""
        return {}

    @property
    def fingerprint(self) -> str:
        """Short identity of the path: its name and a hash of its parameters."""
        text = json.dumps(self.config(), sort_keys=True)
        return f"{self.name}:{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _parameters(cls: type[Path]) -> tuple[dataclasses.Field[Any], ...]:
    """Return the fields a path is made from; every final path is a frozen dataclass."""
    return tuple(f for f in dataclasses.fields(cls) if f.init)  # type: ignore[arg-type]


class Unanchored(Path):
    """A path without an anchor: b(t) = 0."""

    anchored: ClassVar[bool] = False

    def b(self, t: Time) -> Time:
        return 0.0 * t

    def b_dot(self, t: Time) -> Time:
        return 0.0 * t


def checked(path: Any, allowed: str = "a path") -> Path:
    """Return a path that somebody gave.

    Raises:
        BadType: anything else, for instance the class of a path.
    """
    if not isinstance(path, Path):
        right = path.__name__ if isinstance(path, type) and issubclass(path, Path) else "EDM"
        mend = f"path=retrograde.paths.{right}(...)"
        mend += f", or retrograde.load({path!r}).path if that is a model" if isinstance(path, str) else ""
        raise BadType(f"{described(path)}, as the path", allowed, mend)
    return path


def names() -> tuple[str, ...]:
    """Return the names of all paths."""
    return tuple(sorted(_PATHS))


def get(name: str) -> type[Path]:
    """Return the class of the path called `name`; an unknown name lists the nearest ones."""
    if name not in _PATHS:
        raise UnknownName("path", name, names())
    return _PATHS[name]


def _parameter(value: Any) -> Any:
    if isinstance(value, dict):
        return from_config(value)
    return tuple(value) if isinstance(value, list) else value


def from_config(config: dict[str, Any]) -> Path:
    """Rebuild a path from `Path.config()`.

    Raises:
        UnknownName: no such path.
        BadValue: a parameter that the path does not have.
    """
    parameters = {k: _parameter(v) for k, v in config.items() if k != "name"}
    cls = get(str(config.get("name")))
    allowed = {f.name for f in _parameters(cls)}
    if unknown := sorted(set(parameters) - allowed):
        raise BadValue(f"path {cls.name!r} with {unknown}", f"the parameters {sorted(allowed)}", f"remove {unknown}")
    return cls(**parameters)


systems.register(
    systems.System(
        title="The Principles of Diffusion Models",
        authors=("Chieh-Hsin Lai", "Yang Song", "Dongjun Kim", "Yuki Mitsufuji", "Stefano Ermon"),
        year=2025,
        arxiv="2510.21890",
        home="paths",
        call="rg.Denoiser(network, path, predicts='velocity', shape=shape)",
        test="tests/laws/test_three_views.py::test_densities_follow_the_flow_and_every_sde",
    )
)
