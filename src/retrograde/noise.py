"""Where randomness comes from: keyed by (seed, item, interval), replayable, independent of the batch.

A draw is a pure function of its key: Philox, a counter-based generator (Salmon et al., Parallel Random Numbers: As Easy as
1, 2, 3, 2011), keyed by the seed and the number of the item, with the interval of the step as the counter. Item 3 of
seed 0 therefore sees the same noise alone, in a batch of a hundred, on any number of workers and on any device.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from retrograde.errors import BadType, BadValue, PlanError

_PRIOR = (-1.0, -1.0)


class Source(Protocol):
    """What a run draws from."""

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return standard normal noise of one interval of path time, [items, *shape]; -1 stands for the data's end."""
        ...


def of_one_path(source: Source | None) -> bool:
    """Whether the draws of a source are the increments of one Brownian path: it says so by `one_path = True`."""
    return bool(getattr(source, "one_path", False))


def check_one_path(source: Source | None, recipe: str) -> None:
    """Refuse noise of each interval's own where steps may be taken back: a shorter step in their place draws other noise.

    Raises:
        PlanError: the source is not of one path.
    """
    if not of_one_path(source):
        raise PlanError(
            f"the stochastic plan {recipe} under a controller that takes steps back, with noise of each interval's own",
            "the increments of one Brownian path, or taking a step back chooses the noise",
            "noise=Brownian, after `from retrograde.noise import Brownian` (in retrograde.run, noise=Brownian(seed, items))",
        )


@dataclasses.dataclass(frozen=True)
class Noise:
    """Standard normal noise for a list of items.

    Args:
        seed: any integer in [0, 2^64).
        items: the number of each item of the batch; item i of a seed is the same sample in any batch.

    Raises:
        BadValue: a seed outside its range.
    """

    seed: int
    items: Sequence[int]

    def __post_init__(self) -> None:
        if not isinstance(self.seed, numbers.Integral):
            raise BadType(f"seed={self.seed!r}", "a whole number, 0 <= seed < 2**64", "seed=0")
        if len(self.items) and min(self.items) < 0:
            raise BadValue(f"items that begin at {min(self.items)}", "numbers of items, from 0", "items=range(n)")
        if not 0 <= self.seed < 2**64:
            raise BadValue(f"seed={self.seed}", "0 <= seed < 2**64", f"seed={abs(self.seed) % 2**64}")

    @classmethod
    def first(cls, n: int, seed: int = 0) -> Noise:
        """Return the noise of items 0..n-1."""
        return cls(seed, range(n))

    def prior(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        degrees: float = math.inf,
    ) -> Tensor:
        """Return the noise of the initial state, [items, *shape]: Gaussian, or Student's with `degrees` of freedom."""
        eps = self.draw(shape, _PRIOR, 0, torch.float64)
        if math.isfinite(degrees):
            counter = np.array([0, 0, 0, 1], dtype=np.uint64)
            for row, item in zip(eps, self.items, strict=True):
                key = np.array([self.seed, item], dtype=np.uint64)
                row *= _stretch(np.random.Generator(np.random.Philox(key=key, counter=counter)), degrees)
        return eps.to(device=device, dtype=dtype, non_blocking=True)

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the noise of one interval of path time, [items, *shape].

        Args:
            occurrence: how often the plan has drawn on this interval before (restarts visit an interval again).

        The values are drawn in float64 and rounded to `dtype`, so that float32 and float64 runs see the same noise.
        """
        start, end = struct.unpack("2Q", struct.pack("2d", *interval))
        counter = np.array([0, start, end, occurrence], dtype=np.uint64)
        values = np.empty((len(self.items), *shape), dtype=np.float64)
        for row, item in zip(values, self.items, strict=True):
            philox = np.random.Philox(key=np.array([self.seed, item], dtype=np.uint64), counter=counter)
            row[...] = np.random.Generator(philox).standard_normal(tuple(shape))
        return torch.from_numpy(values).to(device=device, dtype=dtype, non_blocking=True)


@dataclasses.dataclass(frozen=True)
class Bulk:
    """Standard normal noise drawn for all items at once: quick for thousands of small items, and one draw for the batch.

    Keyed by seed, first item and interval, so that a run can be repeated. But what an item sees depends on its place in
    the batch and on how many there are; for items that keep their noise alone and in company, `Noise`.
    """

    seed: int
    items: Sequence[int]

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the noise of one interval of path time, [items, *shape]."""
        start, end = struct.unpack("2Q", struct.pack("2d", *interval))
        key = np.array([self.seed, _BULK ^ (self.items[0] if len(self.items) else 0)], dtype=np.uint64)
        philox = np.random.Philox(key=key, counter=np.array([0, start, end, occurrence], dtype=np.uint64))
        values = np.random.Generator(philox).standard_normal((len(self.items), *shape))
        return torch.from_numpy(values).to(device=device, dtype=dtype, non_blocking=True)


def apart(seed: int, part: int) -> int:
    """Return the seed of one part of a run, 0 the first: parts share no draw, and the first has the run's own."""
    return (seed + part * _GOLDEN) % 2**64


def heavy_tailed(eps: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Return Gaussian noise eps [n, *shape] stretched to Student's law: each item by one factor sqrt(degrees/chi^2).

    The items then lie at radius R with R^2/(R^2 + degrees) of the law Beta(d/2, degrees/2), in directions that are uniform
    (Xu et al., PFGM++, 2023, arXiv 2302.04265). Infinite degrees change nothing.
    """
    if math.isinf(degrees):
        return eps
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    factors = torch.tensor([_stretch(rng, degrees) for _ in range(len(eps))], dtype=eps.dtype, device=eps.device)
    return eps * factors.reshape(-1, *(1,) * (eps.ndim - 1))


def _stretch(rng: np.random.Generator, degrees: float) -> float:
    return math.sqrt(degrees / rng.chisquare(degrees))


_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: its multiples keep far from each other, and from the seeds people choose."""
_BULK = 2**63
"""Apart from the keys of single items."""
_LOWEST = -16
"""Below the time 2^-16 the octaves end: the last interval goes down to W(0) = 0."""
_TREE = 2**62
"""Added to the occurrence of a draw that belongs to the tree of a Brownian path, apart from those of intervals."""
_HELD = 80
"""How many points of the path are remembered: those of two neighbouring times, down the tree."""


@dataclasses.dataclass(frozen=True)
class Brownian:
    """Noise whose draws are the increments of one Brownian path over path time, W(t) for t >= 0, for a list of items.

    The noise of the interval from t down to t' is (W(t) - W(t'))/sqrt(t - t'). So two plans of different steps, or a step
    and the shorter one that replaces it, see one path: their samples differ by the error of the steps alone.

    W is a function of its key and t, not of the order in which it is asked. At powers of two it is a sum of independent
    increments; between them intervals are halved, W(m) = (W(t) + W(t'))/2 + sqrt(t - t')/2 xi with xi keyed by the
    interval, down to 2^-`halvings` of an octave, below which it is a line. A rise of the level and an interval of no length
    get noise of their own, keyed as that of `Noise`.

    Args:
        seed: any integer in [0, 2^64).
        items: the number of each item of the batch.
        halvings: depth of the tree.

    References: Li et al., Scalable Gradients for Stochastic Differential Equations, 2020, arXiv 2001.01328 (the tree);
    Kidger, On Neural Differential Equations, 2022, arXiv 2202.02435, section 5.5.
    """

    one_path: ClassVar[bool] = True

    seed: int
    items: Sequence[int]
    halvings: int = 24
    _own: Noise = dataclasses.field(init=False, repr=False, compare=False)
    _held: OrderedDict[tuple, Tensor] = dataclasses.field(default_factory=OrderedDict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_own", Noise(self.seed, self.items))

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the increment over an interval of path time, in units of its standard deviation, [items, *shape].

        Args:
            occurrence: how often the plan has drawn on this interval before; each has a path of its own.
        """
        t, t_next = (max(float(at), 0.0) for at in interval)
        if interval == _PRIOR or t_next >= t:
            return self._own.draw(shape, interval, occurrence, dtype, device)
        rise = (self.at(t, shape, occurrence) - self.at(t_next, shape, occurrence)) / math.sqrt(t - t_next)
        return rise.to(device=device, dtype=dtype, non_blocking=True)

    def at(self, t: float, shape: Sequence[int], path: int = 0) -> Tensor:
        """Return W(t), [items, *shape] in float64."""
        if t == 0.0:
            return torch.zeros(len(self.items), *shape, dtype=torch.float64)
        octave = max(math.frexp(t)[1] - 1, _LOWEST - 1)
        low, high = (0.0 if octave < _LOWEST else 2.0**octave), 2.0 ** (octave + 1)
        below, above = self._power(octave, shape, path), self._power(octave + 1, shape, path)
        for _ in range(self.halvings):
            if t in (low, high):
                break
            middle = 0.5 * (low + high)
            half = self._known(("middle", low, high, tuple(shape), path), shape, (low, high), path)
            value = torch.lerp(below, above, 0.5).add_(half, alpha=0.5 * math.sqrt(high - low))
            if t < middle:
                high, above = middle, value
            else:
                low, below = middle, value
        return torch.lerp(below, above, (t - low) / (high - low))

    def _power(self, octave: int, shape: Sequence[int], path: int) -> Tensor:
        """Return W(2^octave), and W(0) = 0 below the lowest."""
        total = torch.zeros(len(self.items), *shape, dtype=torch.float64)
        for k in range(_LOWEST, octave + 1):
            variance = 2.0**k if k == _LOWEST else 2.0 ** (k - 1)
            total.add_(self._known(("power", k, tuple(shape), path), shape, (2.0**k, 0.0), path), alpha=math.sqrt(variance))
        return total

    def _known(self, key: tuple, shape: Sequence[int], interval: tuple[float, float], path: int) -> Tensor:
        if key not in self._held:
            self._held[key] = self._own.draw(shape, interval, _TREE + path, torch.float64)
            if len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]


class Remembered:
    """A source that keeps its draws, so that a run that follows finds them as tensors.

    Drawing is no part of a graph that torch.compile traces: run the plan once as it is, then compile the loop with the same
    source, for the same shape, type and device.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.one_path = of_one_path(source)
        self._kept: dict[tuple, Tensor] = {}

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the draw of the source for this interval, made once."""
        key = (tuple(shape), interval[0], interval[1], occurrence, dtype, torch.device(device))
        if key not in self._kept:
            self._kept[key] = self._source.draw(shape, interval, occurrence, dtype, device)
        return self._kept[key]
