"""Several operators as one: measured side by side, or one after the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde.errors import BadValue, ShapeError
from retrograde.operators.operator import Linear, Operator
from retrograde.operators.registry import make, operator
from retrograde.operators.spectra import size


def _beside(operators: Sequence[Operator], scales: Sequence[float], x: Tensor) -> Tensor:
    return torch.cat([one(x).flatten(1) / c for one, c in zip(operators, scales, strict=True)], 1)


def _through(operators: Sequence[Operator], x: Tensor) -> Tensor:
    for one in operators:
        x = one(x)
    return x


def _split(operators: Sequence[Operator], y: Tensor) -> list[Tensor]:
    pieces = y.split([size(one.measured) for one in operators], 1)
    return [piece.reshape(-1, *one.measured) for piece, one in zip(pieces, operators, strict=True)]


@final
@dataclasses.dataclass(frozen=True, eq=False)
class LinearStack(Linear):
    """Linear measurements of the same item, side by side: y = (A_1 x / c_1, A_2 x / c_2, ...), flat.

    Attributes:
        operators: A_i.
        scales: c_i; with the standard deviations of different sensors, the noise of all is of one size.
    """

    operators: tuple[Linear, ...]
    scales: tuple[float, ...]
    spectrum: None = dataclasses.field(init=False, default=None)

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.operators[0].shape

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (sum(size(one.measured) for one in self.operators),)

    def _apply(self, x: Tensor) -> Tensor:
        return _beside(self.operators, self.scales, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        pieces = zip(self.operators, self.scales, _split(self.operators, y), strict=True)
        return sum((one.adjoint(piece) / c for one, c, piece in pieces), y.new_zeros(len(y), *self.shape))


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Stack(Operator):
    """Measurements of the same item, side by side, where one of them is not linear: y = (A_1(x)/c_1, ...), flat."""

    operators: tuple[Operator, ...]
    scales: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.operators[0].shape

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (sum(size(one.measured) for one in self.operators),)

    def _apply(self, x: Tensor) -> Tensor:
        return _beside(self.operators, self.scales, x)


def stack(*operators: Operator, scales: Sequence[float] | None = None) -> Stack | LinearStack:
    """Return several measurements of the same item as one, flat and in this order.

    Measurements that were made with noise of different sizes are joined by dividing each by its own (`scales`); the noise
    of the whole then has standard deviation one: `stack_measurements` does it.

    Raises:
        ShapeError: operators for items of different shapes.
        BadValue: nothing to stack, or scales that do not fit.
    """
    given = (1.0,) * len(operators) if scales is None else tuple(float(c) for c in scales)
    if not operators or len(given) != len(operators) or not all(c > 0.0 for c in given):
        raise BadValue(f"{len(operators)} operators, scales {given}", "one or more, a scale > 0 for each", "stack(A, B)")
    if len({tuple(one.shape) for one in operators}) > 1:
        raise ShapeError(f"items of shapes {[list(one.shape) for one in operators]}", "one shape", "make them for one shape")
    if all(isinstance(one, Linear) for one in operators):
        return LinearStack(tuple(one for one in operators if isinstance(one, Linear)), given)
    return Stack(tuple(operators), given)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class LinearChain(Linear):
    """y = A_k ... A_2 A_1 x: linear operators one after the other, the first first."""

    operators: tuple[Linear, ...]
    spectrum: None = dataclasses.field(init=False, default=None)

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.operators[0].shape

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.operators[-1].measured

    def _apply(self, x: Tensor) -> Tensor:
        return _through(self.operators, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        for one in reversed(self.operators):
            y = one.adjoint(y)
        return y


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Chain(Operator):
    """y = A_k(... A_2(A_1(x))), one of them not linear."""

    operators: tuple[Operator, ...]

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.operators[0].shape

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.operators[-1].measured

    def _apply(self, x: Tensor) -> Tensor:
        return _through(self.operators, x)


def compose(*operators: Operator) -> Chain | LinearChain:
    """Return operators one after the other, the first first: `compose(blur, down)` blurs, then down-samples.

    Raises:
        BadValue: nothing to compose.
        ShapeError: one that does not measure what the one before it makes.
    """
    if not operators:
        raise BadValue("nothing to compose", "one or more operators", "compose(blur, down)")
    for one, following in zip(operators, operators[1:], strict=False):
        if tuple(one.measured) != tuple(following.shape):
            raise ShapeError(
                f"an operator for {list(following.shape)} after one that makes {list(one.measured)}",
                f"one for {list(one.measured)}",
                f"make it with the shape {tuple(one.measured)}",
            )
    if all(isinstance(one, Linear) for one in operators):
        return LinearChain(tuple(one for one in operators if isinstance(one, Linear)))
    return Chain(tuple(operators))


@operator(
    "then",
    "operators one after the other: then:blur;down:factor=2",
    ((1, 8, 8), {"steps": "blur:sigma=0.7;down:factor=2"}),
    ((1, 8, 8), {"steps": "blur:sigma=0.7;hdr"}),
)
def then(shape: tuple[int, ...], steps: str) -> Any:
    """Return the operators of a text, separated by semicolons, one after the other; settings within by spaces or commas."""
    made: list[Operator] = []
    for step in steps.split(";"):
        made.append(make(step.strip(), tuple(shape) if not made else made[-1].measured))
    return compose(*made)
