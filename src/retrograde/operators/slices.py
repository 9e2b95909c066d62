"""A volume measured slice by slice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, final

from torch import Tensor

from retrograde.errors import BadValue, ShapeError
from retrograde.operators.operator import Linear
from retrograde.operators.registry import make, operator


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Slicewise(Linear):
    """y_k = A(x_k) for every slice k of items [depth, *shape]: the same linear operator on each."""

    each: Linear
    depth: int
    spectrum: None = dataclasses.field(init=False, default=None)
    inverse: Callable[[Tensor], Tensor] | None = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.depth < 1 or not isinstance(self.each, Linear):
            given = f"depth={self.depth}, {type(self.each).__name__}"
            raise BadValue(given, "one slice or more, a linear operator of a slice", "Slicewise(radon(shape), 16)")
        object.__setattr__(self, "inverse", self._inverse)

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.depth, *self.each.shape)

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.depth, *self.each.measured)

    def _over(self, f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        made = f(x.flatten(0, 1))
        return made.reshape(len(x), self.depth, *made.shape[1:])

    def _apply(self, x: Tensor) -> Tensor:
        return self._over(self.each, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._over(self.each.adjoint, y)

    def _inverse(self, y: Tensor) -> Tensor:
        return self._over(self.each.pseudo_inverse, y)


@operator(
    "slices",
    "every slice of a volume [depth, channels, height, width] alike: slices:radon:views=8",
    ((3, 1, 5, 5), {"steps": "radon:views=2"}),
    ((2, 1, 4, 4), {"steps": "blur:sigma=0.7;down:factor=2"}),
)
def slices(shape: tuple[int, ...], steps: str) -> Any:
    """Return the linear operators of a text, one after the other as in `then`, on every slice of a volume.

    Raises:
        ShapeError: items without an axis of slices.
    """
    if len(shape) < 2:
        raise ShapeError(f"items of shape {list(shape)}", "[depth, *slice]", "stack the slices along a first axis")
    return Slicewise(make(f"then:{steps}", tuple(shape[1:])), shape[0])  # type: ignore[arg-type]
