"""The registry of inverse methods, and `solve`, which runs one in the loop.

A method turns a denoiser and a measurement into what a run takes: a denoiser that knows of the measurement (a transform), a
plan, and where it needs them controllers, particles and a start. It has no loop of its own.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName
from retrograde.noise import Noise, Source
from retrograde.operators import Measurement
from retrograde.plan import Plan
from retrograde.run import Controller, ControllerPerRun, Ledger, Particles
from retrograde.sampling import steps
from retrograde.state import State


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Posed:
    """What a run of an inverse method takes.

    Attributes:
        denoiser: one that knows of the measurement.
        plan: its table.
        controllers, particles: where the method needs them.
        start: the initial state [n, *shape]; drawn from the path's noise end when left out.
        answer: from the finished run's samples to those of the method, where these are not the last state.
        log_evidence: from the finished run's state to what is known of log p(y), in nats.
    """

    denoiser: AbstractDenoiser
    plan: Plan
    controllers: tuple[Controller | ControllerPerRun, ...] = ()
    particles: Particles | None = None
    start: Tensor | None = None
    answer: Callable[[Tensor], Tensor] | None = None
    log_evidence: Callable[[State], float] | None = None


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """What a method is asked: the items it is to draw, and in which type.

    Attributes:
        nfe: evaluations of the network for each item, forward; a gradient through it comes on top and is in the ledger.
        items: their numbers.
        noise: of the run's items; a method that draws uses streams of its own. The start is not drawn from it (`prior`).
        grid: name or times of the grid, or None for the method's own.
    """

    nfe: int
    seed: int
    items: Sequence[int]
    noise: Source
    grid: str | Sequence[float] | None = None
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.items)

    def prior(self, shape: Sequence[int]) -> Tensor:
        """Return the noise of the initial state, [n, *shape] in float64: that of every run of these items."""
        return Noise(self.seed, self.items).prior(shape, torch.float64)


Writer = Callable[..., Posed]


@final
@dataclasses.dataclass(frozen=True)
class Method:
    """An inverse method.

    Attributes:
        write: (denoiser, measurement, task, **settings) to what a run takes.
        summary: one line: what it is.
        exact: for which priors its law is the posterior, in the limit of its settings: "" (none), "gaussian" or "all".
        together: whether its items depend on each other, so that they are one batch.
    """

    name: str
    write: Writer
    summary: str
    exact: str = ""
    together: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with their defaults."""
        return {p.name: p.default for p in list(inspect.signature(self.write).parameters.values())[3:]}


_METHODS: dict[str, Method] = {}


def method(name: str, summary: str, *, exact: str = "", together: bool = False) -> Callable[[Writer], Writer]:
    """Register a method under a name."""

    def register(write: Writer) -> Writer:
        _METHODS[name] = Method(name, write, summary, exact, together)
        return write

    return register


def names() -> tuple[str, ...]:
    """Return the names of all inverse methods."""
    return tuple(sorted(_METHODS))


def get(name: str) -> Method:
    """Return the method called `name`; an unknown name lists the nearest ones."""
    if name not in _METHODS:
        raise UnknownName("method", name, names())
    return _METHODS[name]


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """Samples of x given y, and what they cost.

    Attributes:
        samples: [n, *shape].
        ledger: evaluations and gradients of one item.
        plan: the table that ran.
        method: the method's name.
        log_evidence: log p(y) in nats, where the method gives it.
    """

    samples: Tensor
    ledger: Ledger
    plan: Plan
    method: str
    log_evidence: float | None = None

    @property
    def mean(self) -> Tensor:
        """Mean of the samples, [*shape]: the estimate of least squared error."""
        return self.samples.mean(0)

    @property
    def std(self) -> Tensor:
        """Standard deviation of the samples, element by element, [*shape]."""
        if len(self.samples) < 2:
            raise BadValue("the spread of one sample", "two samples or more", "solve(..., n=16)")
        return self.samples.std(0)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return the ends of the central interval that holds a share `level` of the samples, each [*shape].

        The quantiles are those of the samples; with few of them such an interval holds the truth less often than its
        level says: with n samples of the exact posterior the widest, from the least to the greatest, does so in
        (n - 1)/(n + 1) of cases.
        """
        if not 0.0 < level < 1.0:
            raise BadValue(f"level={level}", "0 < level < 1", "level=0.9")
        ends = torch.tensor([0.5 * (1.0 - level), 0.5 * (1.0 + level)], dtype=torch.float64)
        low, high = torch.quantile(self.samples.double(), ends.to(self.samples.device), 0)
        return low, high


def solve(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    method: str | Method = "mmps",
    n: int = 16,
    nfe: int = 100,
    seed: int = 0,
    *,
    grid: str | Sequence[float] | None = None,
    batch_size: int | None = None,
    condition: Any = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    noise: Callable[[int, Sequence[int]], Source] = Noise,
    progress: Callable[[float], None] | None = None,
    **settings: Any,
) -> Solution:
    """Return n samples of x given y = A(x) + noise, with the denoiser as prior.

    Args:
        measurement: the operator, y, and the noise: `operators.Measurement(A, y, 0.05)`.
        method: one of `inverse.names()`, or a `Method` of your own, such as one that was fitted (`extrapolate`).
        nfe: evaluations of the network for each sample. Gradients through it come on top; the ledger counts them as
            "NAME:backward".
        grid: name or times of the grid; each method has its own.
        batch_size: run at most so many samples at once. They do not depend on it, except where a method's samples depend
            on each other, which run at once.
        condition: one value for all samples (see `prepare_condition`).
        noise: `Noise`, or `noise.Bulk`, which is much quicker for thousands of small samples.
        progress: called with the share that is done.
        **settings: of the method, `inverse.get(method).settings`.

    Raises:
        UnknownName: no such method, or a setting it does not have.
        ShapeError: an operator for items of another shape than the denoiser's.
        BadValue: a method that cannot use this operator or noise.
        NonFinite: the run diverged: see the method's weight, or ask for more evaluations.
    """
    chosen = method if isinstance(method, Method) else get(method)
    for name in settings:
        if name not in chosen.settings:
            raise UnknownName(f"setting of {chosen.name}", name, chosen.settings)
    if not isinstance(measurement, Measurement) or not isinstance(denoiser, AbstractDenoiser):
        raise BadType(
            f"{type(denoiser).__name__} and {type(measurement).__name__}",
            "a denoiser and a measurement",
            "solve(denoiser, operators.Measurement(A, y, 0.05))",
        )
    if tuple(measurement.operator.shape) != tuple(denoiser.shape):
        raise ShapeError(
            f"an operator for items of shape {list(measurement.operator.shape)}",
            f"{list(denoiser.shape)}, the denoiser's",
            "operators.make(name, denoiser.shape, ...)",
        )
    if n < 1:
        raise BadValue(f"n={n}", "n >= 1", "n=16")
    size = n if batch_size is None or chosen.together else max(1, batch_size)
    made: list[Tensor] = []
    for begin in range(0, n, size):
        items = range(begin, min(begin + size, n))
        task = Task(nfe, seed, items, noise(seed, items), grid, dtype, device)
        posed = chosen.write(denoiser, measurement, task, **settings)
        state = None
        for state in steps(
            posed.plan,
            posed.denoiser,
            len(items),
            seed,
            x=posed.start,
            items=items,
            condition=condition,
            controllers=posed.controllers,
            particles=posed.particles,
            dtype=dtype,
            device=device,
            noise=noise,
        ):
            if progress is not None:
                progress((begin + len(items) * (state.index + 1) / len(posed.plan)) / n)
        if state is None:
            raise BadValue("a run that ended before its first row", "at least one row", "ask for nfe >= 1")
        made.append(state.x_t if posed.answer is None else posed.answer(state.x_t))
    evidence = None if posed.log_evidence is None else posed.log_evidence(state)
    return Solution(torch.cat(made), state.ledger, posed.plan, chosen.name, evidence)
