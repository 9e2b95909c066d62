"""Undersampled Fourier transforms, as magnetic resonance imaging measures: with one coil or several."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, final

import torch
from torch import Tensor

from retrograde.errors import BadValue, ShapeError
from retrograde.operators.operator import Linear, Spectrum
from retrograde.operators.registry import operator
from retrograde.operators.spectra import Unitary, parts, whole


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Fourier(Linear):
    """y_c = m F(S_c x), F the orthonormal Fourier transform: real and imaginary parts [2 coils, height, width].

    Items are real pictures [1, height, width], or complex ones [2, height, width]; for these, without coils, the masked
    transform has a fast decomposition.

    Args:
        sampled: m, [height, width], ones and zeros, the zero frequency at [0, 0].
        shape: of one item.
        coils: sensitivities S_c, [coils, height, width] complex; none for one coil that sees everything alike.

    Raises:
        ShapeError: items, mask or coils that do not fit.
    """

    sampled: Tensor
    shape: tuple[int, ...]
    coils: Tensor | None = None
    measured: tuple[int, ...] = dataclasses.field(init=False)
    spectrum: Spectrum | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        sampled = torch.as_tensor(self.sampled).double()
        if len(self.shape) != 3 or self.shape[0] not in (1, 2) or tuple(sampled.shape) != tuple(self.shape[1:]):
            raise ShapeError(
                f"items {list(self.shape)} and a mask {list(sampled.shape)}",
                "[1 or 2, height, width] and [height, width]",
                "hold a complex picture as its real and imaginary part",
            )
        if self.coils is not None and tuple(self.coils.shape[1:]) != tuple(self.shape[1:]):
            raise ShapeError(f"coils of shape {list(self.coils.shape)}", "[coils, height, width]", "resample them")
        values = sampled.expand(2, *sampled.shape).reshape(-1)
        fast = self.coils is None and self.shape[0] == 2
        derived: dict[str, Any] = {
            "sampled": sampled,
            "measured": (2 * (1 if self.coils is None else len(self.coils)), *self.shape[1:]),
            "spectrum": Unitary(values, tuple(self.shape)) if fast else None,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _sensitivities(self, x: Tensor) -> Tensor:
        kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
        one = torch.ones(1, *self.shape[1:]) if self.coils is None else self.coils
        return one.to(device=x.device, dtype=kind)

    def _apply(self, x: Tensor) -> Tensor:
        coils = self._sensitivities(x)
        field = whole(x) if self.shape[0] == 2 else x[:, 0].to(coils.dtype)
        seen = self.sampled.to(x) * torch.fft.fft2(coils * field[:, None], norm="ortho")
        return torch.cat([seen.real, seen.imag], 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        coils = self._sensitivities(y)
        each = torch.complex(*(self.sampled.to(y) * half for half in y.chunk(2, 1)))
        field = (coils.conj() * torch.fft.ifft2(each, norm="ortho")).sum(1)
        return parts(field) if self.shape[0] == 2 else field.real[:, None]


@operator(
    "fourier",
    "undersampled Fourier transform (magnetic resonance): random lines and the middle of k-space, one coil or several",
    ((2, 6, 5), {"share": 0.5}),
    ((1, 5, 6), {"share": 0.4}),
    ((2, 4, 6), {"share": 0.5, "coils": 3}),
)
def fourier(shape: tuple[int, ...], share: float = 0.33, middle: float = 0.08, coils: int = 1, seed: int = 0) -> Fourier:
    """Return a Fourier transform of which a share of the columns is seen: all near zero frequency, the others at random.

    Args:
        share: share of the columns, those of the middle included.
        middle: share of the columns around frequency zero that are always seen.
        coils: number of coils; several stand around the picture, with Gaussian sensitivities whose squares sum to one.

    Raises:
        BadValue: shares outside [0, 1], or no coil.
    """
    if not 0.0 < share <= 1.0 or not 0.0 <= middle <= 1.0 or coils < 1:
        given = f"share={share}, middle={middle}, coils={coils}"
        raise BadValue(given, "0 < share <= 1, 0 <= middle <= 1, coils >= 1", "share=0.33, coils=1")
    if len(shape) != 3:
        raise ShapeError(f"items of shape {list(shape)}", "[1 or 2, height, width]", "reshape your items")
    height, width = shape[-2:]
    frequency = torch.fft.fftfreq(width, dtype=torch.float64).abs()
    order = torch.randperm(width, generator=torch.Generator().manual_seed(seed))
    always = frequency <= frequency.sort().values[max(1, round(middle * width)) - 1]
    ranked = torch.cat([order[always[order]], order[~always[order]]])
    columns = torch.zeros(width, dtype=torch.float64)
    columns[ranked[: max(1, round(share * width))]] = 1.0
    return Fourier(columns.expand(height, width), tuple(shape), None if coils == 1 else _around(coils, height, width))


def _around(coils: int, height: int, width: int) -> Tensor:
    """Return sensitivities of coils around the picture, sum_c |S_c|^2 = 1."""
    row = torch.linspace(-1.0, 1.0, height, dtype=torch.float64)[:, None]
    column = torch.linspace(-1.0, 1.0, width, dtype=torch.float64)
    made = []
    for c in range(coils):
        angle = 2.0 * math.pi * c / coils
        distance = (row - math.sin(angle)) ** 2 + (column - math.cos(angle)) ** 2
        made.append(torch.polar((-0.5 * distance).exp(), angle + 0.5 * row * column))
    stacked = torch.stack(made)
    return stacked / stacked.abs().square().sum(0).sqrt()
