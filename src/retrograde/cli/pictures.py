"""Samples as pictures: latents decoded, a video's frames side by side."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrograde.errors import BadValue

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from retrograde.denoisers import AbstractDenoiser

_GAP = 2
_CELL = 56
"""Smaller images are enlarged by a whole factor to about this many pixels."""
_DECODED = 4
"""At most so many latents are decoded at once: pixels take far more memory than latents."""


def data_shape(denoiser: AbstractDenoiser) -> tuple[int, ...]:
    """Return the shape of one item of data: that of the decoded ones, where states are latents."""
    return denoiser.shape if denoiser.codec is None else denoiser.codec.shape


def decoded(denoiser: AbstractDenoiser, samples: Tensor) -> Tensor:
    """Return the data [n, *shape] of samples; those of a latent model are decoded, a few at once."""
    import dataclasses

    codec = denoiser.codec
    if codec is None:
        return samples
    return dataclasses.replace(codec, batch_size=codec.batch_size or _DECODED).decode(samples)


def is_picture(shape: Sequence[int]) -> bool:
    """Whether items of this shape are pictures, [1 or 3, height, width], or videos, [1 or 3, frames, height, width]."""
    return len(shape) in (3, 4) and shape[0] in (1, 3)


def check(shape: Sequence[int], what: str) -> None:
    """Raise BadValue for items that are no pictures."""
    if not is_picture(shape):
        raise BadValue(
            f"{what} for items of shape {list(shape)}",
            "pictures [1 or 3, height, width] or videos [1 or 3, frames, height, width], in [-1, 1]",
            "-o samples.npz or -o samples.safetensors",
        )


def mosaic(samples: Tensor, columns: int | None = None) -> Image:
    """Return items [n, 1 or 3, height, width] in [-1, 1] as one picture, row by row; values outside are clipped.

    Of videos [n, 1 or 3, frames, height, width] each has a row, with its frames.
    """
    import torch
    from PIL import Image

    check(samples.shape[1:], "a picture")
    if samples.ndim == 5:
        columns = samples.shape[2] * (columns or 1)
        samples = samples.transpose(1, 2).flatten(0, 1)
    n, channels, height, width = samples.shape
    columns = columns or min(n, math.ceil(math.sqrt(n * height / width)))
    rows = math.ceil(n / columns)
    scale = max(1, round(_CELL / max(height, width)))
    pixels = samples.detach().float().cpu().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels.repeat_interleave(scale, 2).repeat_interleave(scale, 3).permute(0, 2, 3, 1)
    step_y, step_x = height * scale + _GAP, width * scale + _GAP
    canvas = torch.full((rows * step_y - _GAP, columns * step_x - _GAP, channels), 128, dtype=torch.uint8)
    for i, item in enumerate(pixels):
        y, x = (i // columns) * step_y, (i % columns) * step_x
        canvas[y : y + height * scale, x : x + width * scale] = item
    array = canvas.numpy()
    return Image.fromarray(array[..., 0] if channels == 1 else array)


def labelled(strips: Sequence[tuple[str, Tensor]]) -> Image:
    """Return strips of samples under each other, each with its label above."""
    from PIL import Image, ImageDraw, ImageFont

    made = [(label, mosaic(samples, len(samples))) for label, samples in strips]
    font, above, margin = ImageFont.load_default(15), 24, 8
    width = max(max(image.width for _, image in made), *(int(font.getlength(label)) for label, _ in made))
    height = sum(image.height + above for _, image in made)
    page = Image.new("RGB", (width + 2 * margin, height + margin), "white")
    draw, y = ImageDraw.Draw(page), 0
    for label, image in made:
        draw.text((margin, y + 5), label, fill="black", font=font)
        page.paste(image.convert("RGB"), (margin, y + above))
        y += image.height + above
    return page


def png(image: Image, record: str | None = None) -> bytes:
    """Return a picture as the content of a PNG file, with a record under "retrograde"."""
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if record is not None:
        info.add_itxt("retrograde", record)
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True, pnginfo=info)
    return stream.getvalue()
