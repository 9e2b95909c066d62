"""Blur by a kernel of any form: of motion along a line, or measured."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from retrograde.errors import BadValue, ShapeError
from retrograde.operators.operator import Linear, Spectrum, by_autograd
from retrograde.operators.registry import operator
from retrograde.operators.separable import picture
from retrograde.operators.spectra import Convolution

_PADS = {"zero": "constant", "reflect": "reflect", "replicate": "replicate"}


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Kernel(Linear):
    """y(p) = sum_q k(q) x(p - q), the same on every channel; k has its origin in the middle, at [size // 2].

    Args:
        kernel: k, [height, width].
        shape: [channels, height, width].
        boundary: "periodic" (then it has a fast decomposition), "zero", "reflect" or "replicate".

    Raises:
        ShapeError: a kernel that is no matrix, or larger than the pictures.
        BadValue: another boundary.
    """

    kernel: Tensor
    shape: tuple[int, ...]
    boundary: str = "periodic"
    measured: tuple[int, ...] = dataclasses.field(init=False)
    spectrum: Spectrum | None = dataclasses.field(init=False, repr=False)
    transfer: Tensor | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        _, height, width = picture(self.shape, "a convolution")
        kernel = torch.as_tensor(self.kernel).double()
        if kernel.ndim != 2 or kernel.shape[0] > height or kernel.shape[1] > width:
            raise ShapeError(
                f"a kernel of shape {list(kernel.shape)}", f"[at most {height}, at most {width}]", "crop it to its middle"
            )
        if self.boundary not in ("periodic", *_PADS):
            raise BadValue(f"boundary={self.boundary!r}", f"'periodic', {', '.join(map(repr, _PADS))}", "boundary='reflect'")
        transfer = None
        if self.boundary == "periodic":
            laid = torch.zeros(height, width, dtype=torch.float64)
            laid[: kernel.shape[0], : kernel.shape[1]] = kernel
            transfer = torch.fft.fft2(laid.roll((-(kernel.shape[0] // 2), -(kernel.shape[1] // 2)), (0, 1)))
        derived: dict[str, Any] = {
            "kernel": kernel,
            "measured": tuple(self.shape),
            "transfer": transfer,
            "spectrum": None if transfer is None else Convolution(transfer, tuple(self.shape)),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _apply(self, x: Tensor) -> Tensor:
        if self.transfer is not None:
            return torch.fft.ifft2(self.transfer.to(x.device) * torch.fft.fft2(x)).real.to(x.dtype)
        rows, columns = self.kernel.shape
        # conv2d correlates: the kernel is turned, and its origin with it
        pads = (columns - 1 - columns // 2, columns // 2, rows - 1 - rows // 2, rows // 2)
        channels = self.shape[0]
        turned = self.kernel.flip((0, 1)).to(x).expand(channels, 1, rows, columns)
        return functional.conv2d(functional.pad(x, pads, _PADS[self.boundary]), turned, groups=channels)

    def _adjoint(self, y: Tensor) -> Tensor:
        if self.transfer is not None:
            return torch.fft.ifft2(self.transfer.conj().to(y.device) * torch.fft.fft2(y)).real.to(y.dtype)
        return by_autograd(self._apply, self.shape, y)


@operator(
    "motion_blur",
    "blur by a motion along a line of so many pixels, at an angle in degrees",
    ((1, 8, 7), {"length": 4.0, "angle": 30.0}),
    ((2, 7, 8), {"length": 3.0, "boundary": "reflect"}),
)
def motion_blur(shape: tuple[int, ...], length: float = 9.0, angle: float = 45.0, boundary: str = "periodic") -> Kernel:
    """Return blur along a line of `length` pixels at `angle` degrees to the rows.

    Raises:
        BadValue: a length below 1.
    """
    if not length >= 1.0:
        raise BadValue(f"length={length}", "length >= 1, in pixels", "length=9")
    reach = math.ceil(length / 2.0)
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    points = max(2, 8 * math.ceil(length))
    for u in torch.linspace(-(length - 1.0) / 2.0, (length - 1.0) / 2.0, points).tolist():
        row, column = reach - u * math.sin(math.radians(angle)), reach + u * math.cos(math.radians(angle))
        top, left = math.floor(row), math.floor(column)
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            weight = (1.0 - abs(row - top - i)) * (1.0 - abs(column - left - j))
            if weight > 0.0 and top + i < len(kernel) and left + j < len(kernel):
                kernel[top + i, left + j] += weight
    return Kernel(kernel / kernel.sum(), tuple(shape), boundary)


@operator(
    "kernel_blur",
    "blur by a measured kernel: a matrix, or a .npy file that holds one",
    ((1, 6, 7), {"kernel": ((0.1, 0.2, 0.0), (0.3, 0.1, 0.3))}),
    ((1, 6, 7), {"kernel": ((0.1, 0.2, 0.0), (0.3, 0.1, 0.3)), "boundary": "zero"}),
    ((1, 6, 7), {"kernel": ((0.1, 0.2, 0.0), (0.3, 0.1, 0.3)), "boundary": "replicate"}),
)
def kernel_blur(shape: tuple[int, ...], kernel: Any, boundary: str = "periodic") -> Kernel:
    """Return blur by a measured kernel [height, width], used as it is given (it need not sum to one)."""
    given = np.load(kernel) if isinstance(kernel, str) else kernel
    return Kernel(torch.as_tensor(given).double(), tuple(shape), boundary)
