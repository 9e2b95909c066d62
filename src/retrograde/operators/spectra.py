"""Singular value decompositions that cost no more than the operator: of masks, convolutions, products of small matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from retrograde.operators.operator import Spectrum


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Diagonal(Spectrum):
    """U = V = I: each element by itself, times its own value >= 0."""

    values: Tensor
    shape: tuple[int, ...]

    def rotate(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def rotate_back(self, z: Tensor) -> Tensor:
        return z.reshape(-1, *self.shape)

    def read(self, y: Tensor) -> Tensor:
        return y.flatten(1) * self.seen.to(y)

    def write(self, z: Tensor) -> Tensor:
        return (z * self.seen.to(z)).reshape(-1, *self.shape)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Spectrum):
    """The decomposition of a matrix: U [m, d] with zero columns where the value is zero, V [d, d]."""

    values: Tensor
    left: Tensor
    right: Tensor
    shape: tuple[int, ...]
    measured: tuple[int, ...]

    @classmethod
    def of(cls, matrix: Tensor, shape: tuple[int, ...], measured: tuple[int, ...]) -> Dense:
        """Return the decomposition of A [m, d]."""
        m, d = matrix.shape
        u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=True)
        values = torch.cat([s, s.new_zeros(d)])[:d]
        left = torch.cat([u, u.new_zeros(m, d)], 1)[:, :d] * (values > 1e-9 * values.amax())
        return cls(values, left, vh.T.contiguous(), shape, measured)

    def rotate(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.right.to(x)

    def rotate_back(self, z: Tensor) -> Tensor:
        return (z @ self.right.to(z).T).reshape(-1, *self.shape)

    def read(self, y: Tensor) -> Tensor:
        return y.flatten(1) @ self.left.to(y)

    def write(self, z: Tensor) -> Tensor:
        return (z @ self.left.to(z).T).reshape(-1, *self.measured)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Convolution(Spectrum):
    """The decomposition of a periodic convolution, real throughout: V is the Hartley transform, cos + sin.

    With the kernel's transfer function h = |h| e^{i phi}, A = Phi |A|: |A| has the even transfer function |h|, which the
    Hartley transform H (orthonormal, its own inverse) diagonalizes, and Phi shifts phases, so U = Phi H.

    Attributes:
        transfer: h, [height, width] complex.
        shape: [..., height, width] of the items; all leading axes share h.
    """

    transfer: Tensor
    shape: tuple[int, ...]

    @property
    def values(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.transfer.abs().double().expand(self.shape).reshape(-1)

    def _hartley(self, x: Tensor) -> Tensor:
        transformed = torch.fft.fft2(x, norm="ortho")
        return transformed.real - transformed.imag

    def _shifted(self, x: Tensor, back: bool) -> Tensor:
        size = self.transfer.abs()
        phase = torch.where(size > 0.0, self.transfer / torch.where(size > 0.0, size, 1.0), 1.0)
        phase = phase.conj() if back else phase
        return torch.fft.ifft2(phase.to(x.device) * torch.fft.fft2(x)).real.to(x.dtype)

    def rotate(self, x: Tensor) -> Tensor:
        return self._hartley(x).flatten(1)

    def rotate_back(self, z: Tensor) -> Tensor:
        return self._hartley(z.reshape(-1, *self.shape))

    def read(self, y: Tensor) -> Tensor:
        return self._hartley(self._shifted(y, back=True)).flatten(1) * self.seen.to(y)

    def write(self, z: Tensor) -> Tensor:
        return self._shifted(self._hartley((z * self.seen.to(z)).reshape(-1, *self.shape)), back=False)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Product(Spectrum):
    """The decomposition of one small matrix along each axis, A = A_1 x A_2 x ...: the product of theirs.

    Attributes:
        factors: for each axis U [m, m], s [min(m, d)] and V [d, d].
    """

    values: Tensor
    factors: tuple[tuple[Tensor, Tensor, Tensor], ...]

    @classmethod
    def of(cls, matrices: Sequence[Tensor]) -> Product:
        """Return the decomposition of the product of matrices [m_i, d_i], one for each axis."""
        factors = []
        values = torch.ones((), dtype=torch.float64)
        for matrix in matrices:
            u, s, vh = torch.linalg.svd(matrix.double(), full_matrices=True)
            factors.append((u, s, vh.T.contiguous()))
            padded = torch.cat([s, s.new_zeros(matrix.shape[1])])[: matrix.shape[1]]
            values = values[..., None] * padded
        return cls(values.reshape(-1), tuple(factors))

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(len(v) for _, _, v in self.factors)

    def rotate(self, x: Tensor) -> Tensor:
        return along_axes(x, [v.T for _, _, v in self.factors]).flatten(1)

    def rotate_back(self, z: Tensor) -> Tensor:
        return along_axes(z.reshape(-1, *self._sizes), [v for _, _, v in self.factors])

    def read(self, y: Tensor) -> Tensor:
        cut = [torch.zeros(len(v), len(u), dtype=torch.float64) for u, _, v in self.factors]
        for place, (u, s, _) in zip(cut, self.factors, strict=True):
            place[: len(s)] = u.T[: len(s)]
        return along_axes(y, cut).flatten(1) * self.seen.to(y)

    def write(self, z: Tensor) -> Tensor:
        filled = [torch.zeros(len(u), len(v), dtype=torch.float64) for u, _, v in self.factors]
        for place, (u, s, _) in zip(filled, self.factors, strict=True):
            place[:, : len(s)] = u[:, : len(s)]
        return along_axes((z * self.seen.to(z)).reshape(-1, *self._sizes), filled)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Unitary(Spectrum):
    """The decomposition of a masked Fourier transform of complex items: V is the inverse transform.

    Items [2, height, width] hold real and imaginary part, and so do their transforms.
    """

    values: Tensor
    shape: tuple[int, ...]

    def rotate(self, x: Tensor) -> Tensor:
        return parts(torch.fft.fft2(whole(x), norm="ortho")).flatten(1)

    def rotate_back(self, z: Tensor) -> Tensor:
        return parts(torch.fft.ifft2(whole(z.reshape(-1, *self.shape)), norm="ortho"))

    def read(self, y: Tensor) -> Tensor:
        return y.flatten(1) * self.seen.to(y)

    def write(self, z: Tensor) -> Tensor:
        return (z * self.seen.to(z)).reshape(-1, *self.shape)


def whole(x: Tensor) -> Tensor:
    """Return complex numbers [n, ...] of real and imaginary parts [n, 2, ...]."""
    return torch.complex(x[:, 0], x[:, 1])


def parts(z: Tensor) -> Tensor:
    """Return real and imaginary parts [n, 2, ...] of complex numbers [n, ...]."""
    return torch.stack([z.real, z.imag], 1)


def along_axes(x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Return x [n, d_1, ..., d_k] with a matrix [m_i, d_i] applied along each of its axes."""
    for axis, matrix in enumerate(matrices, start=1):
        x = torch.movedim(torch.movedim(x, axis, -1) @ matrix.to(x).T, -1, axis)
    return x


def size(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape."""
    return math.prod(shape)
