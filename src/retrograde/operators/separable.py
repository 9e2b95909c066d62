"""One small matrix along each axis: down-sampling, colour to grey, Gaussian blur up to the edge."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from retrograde.errors import BadValue, ShapeError
from retrograde.operators.operator import Linear
from retrograde.operators.registry import operator
from retrograde.operators.spectra import Product, along_axes


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Separable(Linear):
    """y = (A_1 x A_2 x ...) x: a matrix [m_i, d_i] along each axis of an item [d_1, d_2, ...]."""

    matrices: tuple[Tensor, ...]
    shape: tuple[int, ...] = dataclasses.field(init=False)
    measured: tuple[int, ...] = dataclasses.field(init=False)
    spectrum: Product = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        matrices = tuple(torch.as_tensor(m).double() for m in self.matrices)
        derived = {
            "matrices": matrices,
            "shape": tuple(m.shape[1] for m in matrices),
            "measured": tuple(m.shape[0] for m in matrices),
            "spectrum": Product.of(matrices),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _apply(self, x: Tensor) -> Tensor:
        return along_axes(x, self.matrices)

    def _adjoint(self, y: Tensor) -> Tensor:
        return along_axes(y, [m.T for m in self.matrices])


def picture(shape: Sequence[int], what: str) -> tuple[int, int, int]:
    """Return channels, height and width of a shape, or raise a ShapeError."""
    if len(shape) != 3:
        raise ShapeError(f"{what} of items of shape {list(shape)}", "[channels, height, width]", "reshape your items")
    return shape[0], shape[1], shape[2]


@operator(
    "down",
    "down-sampling by a whole factor: the mean of each block, every so-manieth pixel, or a cubic kernel",
    ((1, 8, 8), {"factor": 4}),
    ((3, 6, 4), {"factor": 2, "kind": "cubic"}),
    ((1, 6, 6), {"factor": 3, "kind": "every"}),
)
def down(shape: tuple[int, ...], factor: int = 4, kind: str = "mean") -> Separable:
    """Return down-sampling of pictures by a factor; super-resolution undoes it.

    Args:
        kind: "mean" of each block; "every" (the first pixel of each block); "cubic", the kernel of Keys (a = -1/2)
            stretched by the factor, as image programs do it.

    Raises:
        BadValue: a factor that does not divide the sides, or another kind.
    """
    channels, *sides = picture(shape, "down-sampling")
    if factor < 1 or any(side % factor for side in sides):
        raise BadValue(f"factor={factor} for pictures of {sides[0]} x {sides[1]}", "a divisor of both sides", "factor=2")
    if kind not in ("mean", "every", "cubic"):
        raise BadValue(f"kind={kind!r}", "'mean', 'every', 'cubic'", "kind='mean'")
    return Separable((torch.eye(channels), *(_shrunk(side, factor, kind) for side in sides)))


def _shrunk(side: int, factor: int, kind: str) -> Tensor:
    count = side // factor
    matrix = torch.zeros(count, side, dtype=torch.float64)
    for row in range(count):
        if kind == "every":
            matrix[row, row * factor] = 1.0
        elif kind == "mean":
            matrix[row, row * factor : (row + 1) * factor] = 1.0 / factor
        else:
            centre = (row + 0.5) * factor - 0.5
            for place in range(math.floor(centre - 2 * factor), math.ceil(centre + 2 * factor) + 1):
                matrix[row, _within(place, side, "reflect")] += _cubic((place - centre) / factor)
    return matrix / matrix.sum(1, keepdim=True)


def _cubic(x: float) -> float:
    """Keys' kernel: the cubic convolution with a = -1/2."""
    x = abs(x)
    if x < 1.0:
        return 1.5 * x**3 - 2.5 * x**2 + 1.0
    return -0.5 * x**3 + 2.5 * x**2 - 4.0 * x + 2.0 if x < 2.0 else 0.0


def _within(place: int, side: int, boundary: str) -> int:
    """Return where a place outside of 0..side-1 is found: mirrored at the edges, or round the corner."""
    if boundary == "periodic":
        return place % side
    place %= 2 * side
    return place if place < side else 2 * side - 1 - place


@operator("grey", "colour to grey: one weighted mean of the channels", ((3, 4, 5), {}))
def grey(shape: tuple[int, ...]) -> Separable:
    """Return the luma 0.299 R + 0.587 G + 0.114 B of colour pictures (ITU-R BT.601); other channel counts are averaged."""
    channels, height, width = picture(shape, "grey")
    weights = torch.tensor([[0.299, 0.587, 0.114]]) if channels == 3 else torch.full((1, channels), 1.0 / channels)
    return Separable((weights, torch.eye(height), torch.eye(width)))


@operator(
    "blur",
    "Gaussian blur of standard deviation sigma, in pixels",
    ((1, 7, 6), {"sigma": 0.8}),
    ((2, 5, 5), {"sigma": 0.6, "boundary": "periodic"}),
    ((1, 6, 5), {"sigma": 0.7, "boundary": "zero"}),
)
def blur(shape: tuple[int, ...], sigma: float = 1.5, boundary: str = "reflect") -> Separable:
    """Return Gaussian blur of pictures; the kernel is cut at four standard deviations and sums to one.

    Args:
        boundary: what is outside: "reflect" (the picture mirrored), "periodic", or "zero".

    Raises:
        BadValue: a width that is not positive, or another boundary.
    """
    channels, *sides = picture(shape, "blur")
    if not sigma > 0.0:
        raise BadValue(f"sigma={sigma}", "sigma > 0, in pixels", "sigma=1.5")
    if boundary not in ("reflect", "periodic", "zero"):
        raise BadValue(f"boundary={boundary!r}", "'reflect', 'periodic', 'zero'", "boundary='reflect'")
    return Separable((torch.eye(channels), *(_blurred(side, sigma, boundary) for side in sides)))


def _blurred(side: int, sigma: float, boundary: str) -> Tensor:
    reach = max(1, math.ceil(4.0 * sigma))
    taps = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-reach, reach + 1)]
    total = sum(taps)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    for row in range(side):
        for k, tap in zip(range(-reach, reach + 1), taps, strict=True):
            if boundary != "zero" or 0 <= row + k < side:
                matrix[row, _within(row + k, side, boundary)] += tap / total
    return matrix
