"""Sub-bands of a picture whose energy stays when the picture moves, for a network to be shown."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import ShapeError

BANDS = ("low-low", "low-high", "high-low", "high-high")
"""Order of the sub-bands: frequency along the height, then along the width."""


def quaternion_wavelets(x: Tensor) -> Tensor:
    """Return magnitude and three phases of the quaternion sub-bands of pictures, one level.

        q = W x W^T + i W x H^T W^T + j W H x W^T + k W H x H^T W^T = |q| e^(i phi) e^(k psi) e^(j theta)

    with W the orthonormal wavelets of Daubechies with four taps, periodic, and H the Hilbert transform, exact in frequency.
    |q| has no carrier: the energy of a sub-band is the same for a picture and for one that is shifted around its border,
    where that of plain wavelets changes by a fifth for digits; the phases say where things are.

    A network could make them of the picture itself; to a small one, asked for digits of a quarter of their pixels, they are
    worth 0.3 dB (`benchmarks/restore_conditions.py`).

    Shapes: x [n, channels, height, width], sides even -> [n, channels, 4, 4, height/2, width/2]: by sub-band (`BANDS`)
    magnitude, phi, psi, theta in radians.

    Raises:
        ShapeError: pictures of odd sides, or of sides below four.

    References: Sigillo, Bianchi, Uncini and Comminiello, Quaternion Wavelet-Conditioned Diffusion Models for Image
    Super-Resolution, 2025, arXiv 2505.00334; the transform: Chan, Choi and Baraniuk, Coherent Multiscale Image Processing
    Using Dual-Tree Quaternion Wavelets, 2008; the phases: Bulow and Sommer, Hypercomplex Signals, 2001.
    """
    if x.ndim != 4 or x.shape[-1] % 2 or x.shape[-2] % 2 or min(x.shape[-2:]) < 4:
        raise ShapeError(f"pictures of shape {list(x.shape)}", "[n, channels, height, width], even sides", "pad them")
    down, across = (_wavelets(side).to(x) for side in x.shape[-2:])
    turned_down, turned_across = (_hilbert(side).to(x) for side in x.shape[-2:])
    a, b, c, d = (
        _bands(down @ one @ across.T) for one in (x, x @ turned_across.T, turned_down @ x, turned_down @ x @ turned_across.T)
    )
    size = (a * a + b * b + c * c + d * d).sqrt()
    a, b, c, d = (part / size.clamp(min=torch.finfo(x.dtype).tiny) for part in (a, b, c, d))
    psi = -0.5 * torch.asin((2.0 * (b * c - a * d)).clamp(-1.0, 1.0))
    phi = 0.5 * torch.atan2(2.0 * (c * d + a * b), a * a - b * b + c * c - d * d)
    theta = 0.5 * torch.atan2(2.0 * (b * d + a * c), a * a + b * b - c * c - d * d)
    # the halves leave a sign open
    opposite = sum(one * other for one, other in zip(_parts(phi, psi, theta), (a, b, c, d), strict=True)) < 0.0
    phi = torch.where(opposite, torch.where(phi > 0.0, phi - torch.pi, phi + torch.pi), phi)
    return torch.stack([size, phi, psi, theta], 3)


def from_quaternion_wavelets(bands: Tensor) -> Tensor:
    """Return the pictures of magnitudes and phases: W^T Re(q) W, exact.

    Shapes: [n, channels, 4, 4, height/2, width/2] -> [n, channels, height, width].
    """
    size, phi, psi, theta = bands.unbind(3)
    real = size * _parts(phi, psi, theta)[0]
    low, high = (torch.cat([real[:, :, k], real[:, :, k + 1]], -1) for k in (0, 2))
    down, across = (_wavelets(2 * side).to(bands) for side in bands.shape[-2:])
    return down.T @ torch.cat([low, high], -2) @ across


def _parts(phi: Tensor, psi: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the parts of e^(i phi) e^(k psi) e^(j theta)."""
    (cp, sp), (cs, ss), (ct, st) = ((one.cos(), one.sin()) for one in (phi, psi, theta))
    return (
        cp * cs * ct + sp * ss * st,
        sp * cs * ct - cp * ss * st,
        cp * cs * st - sp * ss * ct,
        cp * ss * ct + sp * cs * st,
    )


def _bands(coefficients: Tensor) -> Tensor:
    """Return [n, channels, 4, height/2, width/2] of coefficients whose first halves are low."""
    rows = coefficients.chunk(2, -2)
    return torch.stack([band for half in rows for band in half.chunk(2, -1)], 2)


@cache
def _wavelets(side: int) -> Tensor:
    """The orthogonal matrix of one level: half of the rows low, half high, by four taps, periodic."""
    root = 3.0**0.5
    low = torch.tensor([1 + root, 3 + root, 3 - root, 1 - root], dtype=torch.float64) / (4.0 * 2.0**0.5)
    high = low.flip(0) * torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    made = torch.zeros(side, side, dtype=torch.float64)
    for k in range(side // 2):
        for j in range(4):
            made[k, (2 * k + j) % side] += low[j]
            made[side // 2 + k, (2 * k + j) % side] += high[j]
    return made


@cache
def _hilbert(side: int) -> Tensor:
    """The matrix of -i sign(frequency); the mean and the greatest frequency, which have no sign, go."""
    rates = torch.fft.fftfreq(side, dtype=torch.float64)
    sign = torch.where(rates.abs() < 0.5, rates.sign(), 0.0)
    return torch.fft.ifft(-1j * sign[:, None] * torch.fft.fft(torch.eye(side, dtype=torch.complex128), dim=0), dim=0).real


systems.register(
    systems.System(
        title="Quaternion Wavelet-Conditioned Diffusion Models for Image Super-Resolution",
        authors=("Luigi Sigillo", "Christian Bianchi", "Aurelio Uncini", "Danilo Comminiello"),
        year=2025,
        arxiv="2505.00334",
        home="restore",
        call="rg.train.quaternion_wavelets(low)[:, :, :, 0]",
        test="tests/train/test_wavelets.py::test_magnitudes_move_less_than_coefficients_when_the_picture_does",
    )
)
