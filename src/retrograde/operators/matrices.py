"""Operators that are a matrix, full or sparse: compressed sensing, tomography, point sensors."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, final

import torch
from torch import Tensor

from retrograde.errors import BadValue, ShapeError
from retrograde.operators.operator import Linear
from retrograde.operators.registry import operator
from retrograde.operators.separable import picture
from retrograde.operators.spectra import Dense, size


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Matrix(Linear):
    """y = A x for items flattened to d numbers.

    Args:
        entries: A, [m, d].
        shape: of one item, with d elements; [d] when left out.

    Raises:
        ShapeError: a matrix that does not fit the items.
    """

    entries: Tensor
    shape: tuple[int, ...] = ()
    measured: tuple[int, ...] = dataclasses.field(init=False)
    spectrum: Dense = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        entries = torch.as_tensor(self.entries).double()
        shape = tuple(self.shape) or (entries.shape[-1],)
        if entries.ndim != 2 or entries.shape[1] != size(shape):
            raise ShapeError(
                f"a matrix of shape {list(entries.shape)} for items of {size(shape)} numbers", f"[m, {size(shape)}]", "A.T?"
            )
        measured = (entries.shape[0],)
        for name, value in {
            "entries": entries,
            "shape": shape,
            "measured": measured,
            "spectrum": Dense.of(entries, shape, measured),
        }.items():
            object.__setattr__(self, name, value)

    def _apply(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.entries.to(x).T

    def _adjoint(self, y: Tensor) -> Tensor:
        return (y @ self.entries.to(y)).reshape(-1, *self.shape)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Sparse(Linear):
    """y = A x with a sparse A: entries A[rows, columns] = weights, repeated places added.

    Attributes:
        rows, columns, weights: [entries]; rows count elements of a measurement, columns those of an item.
    """

    rows: Tensor
    columns: Tensor
    weights: Tensor
    shape: tuple[int, ...]
    measured: tuple[int, ...]
    spectrum: None = dataclasses.field(init=False, default=None)
    entries: tuple[Tensor, Tensor] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        places, weights = torch.stack([self.rows, self.columns]), self.weights.double()
        sizes = (size(self.measured), size(self.shape))
        forth = torch.sparse_coo_tensor(places, weights, sizes, check_invariants=True).coalesce()
        object.__setattr__(self, "entries", (forth, forth.T.coalesce()))

    def _apply(self, x: Tensor) -> Tensor:
        return _times(self.entries[0], x).reshape(-1, *self.measured)

    def _adjoint(self, y: Tensor) -> Tensor:
        return _times(self.entries[1], y).reshape(-1, *self.shape)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return torch.sparse.mm(matrix.to(device=x.device, dtype=x.dtype), x.flatten(1).T).T


@operator(
    "compressed",
    "compressed sensing: a random projection to a share of the numbers",
    ((1, 4, 4), {"share": 0.5}),
    ((9,), {"share": 0.4, "orthonormal": True}),
)
def compressed(shape: tuple[int, ...], share: float = 0.25, orthonormal: bool = False, seed: int = 0) -> Matrix:
    """Return a random matrix with entries N(0, 1/m), or with orthonormal rows, that keeps `share` of the numbers.

    Raises:
        BadValue: a share outside (0, 1].
    """
    if not 0.0 < share <= 1.0:
        raise BadValue(f"share={share}", "0 < share <= 1", "share=0.25")
    d = size(shape)
    m = max(1, round(share * d))
    entries = torch.randn(m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    entries = torch.linalg.qr(entries.T)[0].T if orthonormal else entries / math.sqrt(m)
    return Matrix(entries, tuple(shape))


def _bilinear(row: Tensor, column: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return which points, which pixels and with what weight points at (row, column) read; 0 outside of the picture."""
    points, pixels, weights = [], [], []
    top, left = row.floor(), column.floor()
    numbers = torch.arange(len(row))
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weight = (1.0 - (row - top - i).abs()) * (1.0 - (column - left - j).abs())
        inside = (top + i >= 0) & (top + i < height) & (left + j >= 0) & (left + j < width) & (weight > 0.0)
        points.append(numbers[inside])
        pixels.append(((top + i) * width + left + j)[inside].long())
        weights.append(weight[inside])
    return torch.cat(points), torch.cat(pixels), torch.cat(weights)


@operator(
    "radon",
    "tomography by parallel beams: line integrals from so many views, over half a turn or a part of it",
    ((1, 6, 6), {"views": 3}),
    ((2, 5, 5), {"views": 4, "turn": 90.0}),
)
def radon(
    shape: tuple[int, ...], views: int = 8, turn: float = 180.0, start: float = 0.0, detectors: int | None = None
) -> Sparse:
    """Return the Radon transform of pictures: sums along parallel rays one pixel apart, with bilinear interpolation.

    A measurement is [channels, views, detectors], in units of the pixel's side. Few views are sparse-view tomography, a
    `turn` below 180 degrees is limited-angle tomography.

    Args:
        views: number of angles, evenly over [start, start + turn).
        turn, start: degrees.
        detectors: number of rays; enough to cover the diagonal when left out.

    Raises:
        BadValue: no view, or a turn outside (0, 180].
    """
    channels, height, width = picture(shape, "tomography")
    if views < 1 or not 0.0 < turn <= 180.0:
        raise BadValue(f"views={views}, turn={turn}", "views >= 1, 0 < turn <= 180 degrees", "views=8, turn=180")
    span = math.ceil(math.hypot(height, width))
    count = span if detectors is None else detectors
    angles = torch.deg2rad(start + turn * torch.arange(views, dtype=torch.float64) / views)
    u = torch.arange(count, dtype=torch.float64) - (count - 1) / 2.0
    v = torch.arange(span, dtype=torch.float64) - (span - 1) / 2.0
    cos, sin = angles.cos()[:, None, None], angles.sin()[:, None, None]
    across, along = u[None, :, None], v[None, None, :]
    column = (width - 1) / 2.0 + across * cos - along * sin
    row = (height - 1) / 2.0 + across * sin + along * cos
    points, pixels, weights = _bilinear(row.reshape(-1), column.reshape(-1), height, width)
    return _on_channels(points // span, pixels, weights, (channels, height, width), (channels, views, count))


def _on_channels(rows: Tensor, pixels: Tensor, weights: Tensor, shape: Any, measured: Any) -> Sparse:
    """Return the operator that reads every channel alike."""
    each = torch.arange(shape[0])[:, None]
    rows = (rows + each * size(measured[1:])).reshape(-1)
    return Sparse(rows, (pixels + each * size(shape[1:])).reshape(-1), weights.repeat(shape[0]), shape, measured)


@operator(
    "sensors",
    "sparse point sensors: the field read at a few places",
    ((1, 6, 5), {"count": 7}),
    ((2, 4, 4), {"places": ((0.5, 1.25), (3.0, 0.0))}),
)
def sensors(shape: tuple[int, ...], count: int = 16, seed: int = 0, places: Any = None) -> Sparse:
    """Return the values of a field at a few places between its grid points, by bilinear interpolation: [channels, count].

    Args:
        count, seed: so many places drawn evenly.
        places: instead, rows and columns [count, 2], in pixels, or a .npy file of them.

    Raises:
        BadValue: no sensor, or one outside of the picture.
    """
    channels, height, width = picture(shape, "sensors")
    if isinstance(places, str):
        import numpy as np

        places = np.load(places)
    if places is None:
        unit = torch.rand(max(count, 0), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        at = unit * torch.tensor([height - 1.0, width - 1.0], dtype=torch.float64)
    else:
        at = torch.as_tensor(places).double().reshape(-1, 2)
    most = torch.tensor([height - 1.0, width - 1.0], dtype=torch.float64)
    if len(at) == 0 or not bool(((at >= 0.0) & (at <= most)).all()):
        raise BadValue(
            f"{len(at)} sensors" + (f" up to {at.amax(0).tolist()}" if len(at) else ""),
            f"one or more, with rows in [0, {height - 1}] and columns in [0, {width - 1}]",
            "count=16",
        )
    points, pixels, weights = _bilinear(at[:, 0], at[:, 1], height, width)
    return _on_channels(points, pixels, weights, (channels, height, width), (channels, len(at)))
