"""Where randomness comes from: keyed by (seed, item, interval), replayable, independent of the batch.

A draw is a pure function of its key: Philox, a counter-based generator (Salmon et al., Parallel Random Numbers: As Easy as
1, 2, 3, 2011), keyed by the seed and the number of the item, with the interval of the step as the counter. Item 3 of
seed 0 therefore sees the same noise alone, in a batch of a hundred, on any number of workers and on any device.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from retrograde.errors import BadValue

_PRIOR = (-1.0, -1.0)


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
        if not 0 <= self.seed < 2**64:
            raise BadValue(f"seed={self.seed}", "0 <= seed < 2**64", f"seed={abs(self.seed) % 2**64}")

    @classmethod
    def first(cls, n: int, seed: int = 0) -> Noise:
        """Return the noise of items 0..n-1."""
        return cls(seed, range(n))

    def prior(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
        """Return the noise of the initial state, [items, *shape]."""
        return self.draw(shape, _PRIOR, 0, dtype, device)

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
