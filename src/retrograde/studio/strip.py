"""Batches as pictures for the page: strips of items, one under the other, as PNG."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from retrograde.cli.pictures import is_picture
from retrograde.paths import Path

_LARGEST, _PLANE = 256, 96
"""Items are made smaller to this many pixels; points of the plane are drawn into so many."""

_MORE, _LESS = (224, 96, 32), (38, 120, 216)
"""Colours of a difference: where A is brighter, and where B is."""


def size(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return width and height of one item in a strip."""
    height, width = _pixels(torch.zeros(1, *shape)).shape[-2:]
    return width, height


def mean(samples: Tensor) -> str:
    """Return data [n, *shape] in [-1, 1] as a strip; values outside are clipped."""
    return _png(_bytes(_pixels(samples)))


def state(x_t: Tensor, path: Path, t: float | None) -> str:
    """Return a state as a strip, scaled by sqrt(a^2 + 4 s^2): the data's range at the end, two deviations of pure noise."""
    scale = 1.0 if t is None else math.sqrt(path.a(t) ** 2 + 4.0 * path.s(t) ** 2)
    return _png(_bytes(_pixels(x_t / scale)))


def difference(a: Tensor, b: Tensor) -> tuple[str, float]:
    """Return a - b as a strip on transparent ground, and the value that has the full colour."""
    apart = _pixels(a, spread=False) - _pixels(b, spread=False)
    values = apart.mean(1)
    scale = max(float(values.abs().max()), 1e-6)
    part = (values / scale).clamp(-1.0, 1.0)
    colours = torch.tensor([_LESS, _MORE], dtype=torch.uint8)[(part > 0).long()]
    alpha = part.abs().pow(0.8).mul(255).round().to(torch.uint8)  # a little more than the value, so that faint ones show
    return _png(torch.cat([colours, alpha[..., None]], dim=-1).flatten(0, 1), "RGBA"), scale


def _pixels(samples: Tensor, spread: bool = True) -> Tensor:
    """Return items as [n, 1 or 3, height, width]: pictures as they are, points drawn, anything else as a map of numbers."""
    x = samples.detach().float().cpu()
    shape = tuple(x.shape[1:])
    if shape == (2,):
        return _points(x) if spread else _points(x).sub(_points(x).amin())
    if len(shape) != 3 or not is_picture(shape):
        # latents and videos: the mean over what stands before the last two axes; vectors: one line of numbers
        x = (
            x.reshape(len(x), -1, *shape[-2:]).mean(1, keepdim=True)
            if len(shape) > 2
            else x.reshape(len(x), 1, -1, x.shape[-1])
        )
    height, width = x.shape[-2], x.shape[-1]
    if max(height, width) > _LARGEST:
        part = _LARGEST / max(height, width)
        x = interpolate(x, size=(max(1, round(height * part)), max(1, round(width * part))), mode="area")
    return x


def _points(x: Tensor) -> Tensor:
    """Draw every point of the plane into a square of its own, over the others in grey; the square is [-2, 2]."""
    places = ((x.clamp(-2, 2) + 2) / 4 * (_PLANE - 1)).round().tolist()
    drawn = []
    for u, v in places:
        image = Image.new("L", (_PLANE, _PLANE), 0)
        pen = ImageDraw.Draw(image)
        for p, q in places:
            pen.point((p, _PLANE - 1 - q), 110)
        pen.ellipse((u - 3, _PLANE - 4 - v, u + 3, _PLANE + 2 - v), 255)
        drawn.append(torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).reshape(1, _PLANE, _PLANE))
    return torch.stack(drawn).float() / 127.5 - 1.0


def _bytes(pixels: Tensor) -> Tensor:
    values = pixels.nan_to_num().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return values.permute(0, 2, 3, 1).flatten(0, 1)


def _png(pixels: Tensor, mode: Any = None) -> str:
    """Return [height, width, channels] as a PNG in base64."""
    array = pixels.contiguous().numpy()
    stream = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array, mode).save(stream, "PNG", compress_level=3)
    return base64.b64encode(stream.getvalue()).decode("ascii")
