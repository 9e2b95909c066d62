"""Inpainting as pipelines do it around networks that are not told a mask: what is known is put back after every row."""

from __future__ import annotations

import dataclasses
from typing import final

from torch import Tensor

from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.run import State


@final
@dataclasses.dataclass(frozen=True, eq=False)
class PutBack:
    """A controller after which the state outside a mask is the known data at the row's level.

        x <- m x + (1 - m) (a x_0 + s eps)

    It draws a picture into a hole whose borders do not know of each other's past; a network that is told the mask, or a
    method that is told the measurement, does better. This is what `StableDiffusionInpaintPipeline` does.

    Args:
        path: the path of the run.
        known: the data x_0 [n, *shape].
        mask: 1 where data are to be made, 0 where they are known; broadcasts against `known`.
        eps: the one noise with which the known data are taken to every level [n, *shape].
    """

    path: Path
    known: Tensor
    mask: Tensor
    eps: Tensor
    consumes: frozenset[str] = frozenset()

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        """Leave the rows as they are."""
        return remaining

    def correct(self, state: State) -> Tensor:
        """Return the state with the known data put back."""
        t, level = state.t, self.known
        if t is not None and t > self.path.t_min:  # a run that ends at the least level gives that for the data
            level = self.path.a(t) * self.known + self.path.s(t) * self.eps
        mask = self.mask.to(state.x_t)
        return mask * state.x_t + (1.0 - mask) * level.to(state.x_t)


__all__ = ["PutBack"]
