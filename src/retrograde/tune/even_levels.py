"""Levels of three numbers: a first one, and others even in depth between a second and a last; the best on policy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import final

import numpy as np

from retrograde.tune.levels import Levels, descend

BEGINNINGS = ((0.02, 0.2, 0.86), (0.22, 0.3, 0.8))
"""Where first, second and last level stand when the search begins, in parts of all levels: at the noise end, below it."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class EvenLevels:
    """Sets of n >= 3 levels that three of them decide: the first, the second and the last; others lie evenly in depth.

    A network that is nearly linear where there is much noise leaves a smooth trajectory: there the fit follows sets that
    spread all over it, beginning with an evaluation at the noise end, and the surrogate, which takes errors on the way for
    errors at the data, prefers sets that crowd where structure forms. So these are searched on policy.

    Args:
        depths: of all levels there are, rising.
        n: how many make a set.
        score: of a set, smaller is better.
    """

    depths: np.ndarray
    n: int
    score: Callable[[Levels], float]

    def best(self, strides: Sequence[int] = (8, 4, 2, 1)) -> Levels:
        """Return the best set that descents on the three from `BEGINNINGS` find."""
        size = len(self.depths)
        begun = [tuple(sorted({round(part * (size - 1)) for part in parts})) for parts in BEGINNINGS]
        found = [descend(self, ends, size, strides) for ends in begun if len(ends) == 3]
        return self.between(min(found, key=lambda pair: pair[1])[0])

    def __call__(self, ends: Levels) -> float:
        """Return the score of the set between first, second and last; infinite where there are too few levels."""
        levels = self.between(ends)
        rising = all(x < y for x, y in zip(levels, levels[1:], strict=False))
        return self.score(levels) if rising else math.inf

    def between(self, ends: Levels) -> Levels:
        """Return the set."""
        first, second, last = ends
        even = np.linspace(self.depths[second], self.depths[last], self.n - 1)
        places = np.interp(even, self.depths, np.arange(len(self.depths)))
        return first, *np.round(places).astype(int).tolist()


def depths_of(times: Sequence[float], sigma: Callable[[float], float]) -> np.ndarray:
    """Return how deep levels lie, -log sigma, noisiest first; one without signal lies a step above the next."""
    with np.errstate(divide="ignore"):
        depths = -np.log([sigma(t) for t in times])
    if len(depths) > 2 and not np.isfinite(depths[0]):
        depths[0] = 2 * depths[1] - depths[2]
    return depths
