"""Operators that are not linear: phase retrieval, clipping, quantization, blur of light behind a camera's curve."""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from retrograde.errors import BadValue
from retrograde.operators.operator import Operator
from retrograde.operators.registry import operator
from retrograde.operators.separable import blur, picture


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Magnitude(Operator):
    """y = |F(pad((x + offset)/2))|, F the orthonormal Fourier transform of the picture with zeros around it.

    Without phases, a shifted or turned picture measures alike, and with offset 0 its negative.
    """

    shape: tuple[int, ...]
    pad: int
    offset: float
    measured: tuple[int, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        channels, height, width = picture(self.shape, "phase retrieval")
        object.__setattr__(self, "measured", (channels, height + 2 * self.pad, width + 2 * self.pad))

    def _apply(self, x: Tensor) -> Tensor:
        field = functional.pad(0.5 * (x + self.offset), (self.pad,) * 4)
        transformed = torch.fft.fft2(field, norm="ortho")
        # a root that can be differentiated where the transform is zero
        return (transformed.real**2 + transformed.imag**2 + 1e-16).sqrt()


@operator(
    "phase",
    "phase retrieval: magnitudes of the Fourier transform of the oversampled picture",
    ((1, 6, 6), {"oversample": 2.0}),
)
def phase(shape: tuple[int, ...], oversample: float = 2.0, offset: float = 1.0) -> Magnitude:
    """Return the magnitudes of the Fourier transform of a picture padded with zeros to `oversample` times its sides.

    Args:
        offset: added to pictures in [-1, 1], so that they are light, which is not negative; with 0 the sign is lost too.

    Raises:
        BadValue: oversampling below 1.
    """
    if not oversample >= 1.0:
        raise BadValue(f"oversample={oversample}", "oversample >= 1; uniqueness wants about 2", "oversample=2")
    _, height, width = picture(shape, "phase retrieval")
    return Magnitude(tuple(shape), round(0.5 * (oversample - 1.0) * max(height, width)), offset)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Clipped(Operator):
    """y = clip(gain x, low, high)."""

    shape: tuple[int, ...]
    gain: float
    low: float
    high: float

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.shape

    def _apply(self, x: Tensor) -> Tensor:
        return (self.gain * x).clamp(self.low, self.high)


@operator("hdr", "high dynamic range: brightness times a gain, clipped", ((1, 4, 4), {"gain": 2.0}))
def hdr(shape: tuple[int, ...], gain: float = 2.0, low: float = -1.0, high: float = 1.0) -> Clipped:
    """Return the clipped picture of a camera that exposes `gain` times too long."""
    if not gain > 0.0 or not low < high:
        raise BadValue(f"gain={gain}, low={low}, high={high}", "gain > 0, low < high", "gain=2")
    return Clipped(tuple(shape), gain, low, high)


_LUMINANCE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99
"""
"""The luminance table of ITU-T T.81, annex K."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Quantized(Operator):
    """y = C^T q round(C x/q): every block's cosine transform in whole steps of a table, as JPEG keeps it.

    Rounding has no slope; its derivative is taken for that of the identity (straight through).

    Attributes:
        steps: q, [8, 8], in units of the data.
        shape: [channels, height, width]; sides that are no multiple of eight are continued by their edge.
    """

    steps: Tensor
    shape: tuple[int, ...]

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.shape

    def _apply(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        below, right = -height % 8, -width % 8
        whole = functional.pad(x, (0, right, 0, below), "replicate") if below or right else x
        rows, columns = whole.shape[2] // 8, whole.shape[3] // 8
        blocks = whole.reshape(n, channels, rows, 8, columns, 8).permute(0, 1, 2, 4, 3, 5)
        C, q = _cosines().to(x), self.steps.to(x)
        levels = (C @ blocks @ C.T) / q
        levels = levels + (levels.round() - levels).detach()
        back = (C.T @ (levels * q) @ C).permute(0, 1, 2, 4, 3, 5)
        return back.reshape(n, channels, rows * 8, columns * 8)[:, :, :height, :width]


def _cosines() -> Tensor:
    """Return the orthonormal cosine transform of eight points."""
    k = torch.arange(8, dtype=torch.float64)
    C = torch.cos(math.pi * (2.0 * k + 1.0) * k[:, None] / 16.0) * 0.5
    C[0] /= math.sqrt(2.0)
    return C


@operator("jpeg", "quantization of cosine transforms of blocks, as JPEG does it", ((1, 8, 10), {"quality": 20}))
def jpeg(shape: tuple[int, ...], quality: int = 20) -> Quantized:
    """Return JPEG's quantization at a quality of 1 to 100, of pictures in [-1, 1]; every channel with the luminance table.

    Raises:
        BadValue: a quality outside of 1 to 100.
    """
    picture(shape, "quantization")
    if not 1 <= quality <= 100:
        raise BadValue(f"quality={quality}", "1 to 100", "quality=20")
    percent = 5000.0 / quality if quality < 50 else 200.0 - 2.0 * quality
    table = torch.tensor([float(v) for v in _LUMINANCE.split()], dtype=torch.float64).reshape(8, 8)
    # pictures of 256 levels are [-1, 1] here: one level is 2/255
    return Quantized(((table * percent + 50.0) / 100.0).floor().clamp(1.0, 255.0) * 2.0 / 255.0, tuple(shape))


@final
@dataclasses.dataclass(frozen=True, eq=False)
class CurvedBlur(Operator):
    """y = g(B g^-1(x)): light is blurred, what is kept is its curve g(light) = light^(1/gamma), in [-1, 1]."""

    inner: Operator
    gamma: float

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.shape

    @property
    def measured(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.inner.measured

    def _apply(self, x: Tensor) -> Tensor:
        light = (0.5 * (x + 1.0)).clamp(min=1e-4) ** self.gamma
        return 2.0 * self.inner(light).clamp(min=1e-8) ** (1.0 / self.gamma) - 1.0


@operator("curved_blur", "nonlinear blur: light is blurred before the camera's curve", ((1, 6, 6), {"sigma": 0.8}))
def curved_blur(shape: tuple[int, ...], sigma: float = 1.5, gamma: float = 2.2) -> CurvedBlur:
    """Return Gaussian blur of light, seen through a camera's response curve of exponent 1/gamma.

    Bright points spread further than a blur of the picture would have them.

    Raises:
        BadValue: a gamma that is not positive.
    """
    if not gamma > 0.0:
        raise BadValue(f"gamma={gamma}", "gamma > 0", "gamma=2.2")
    return CurvedBlur(blur(shape, sigma), gamma)
