"""Encoder and decoder of a latent model: between data and the states a denoiser of latents sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import final

import torch
from torch import Tensor

from retrograde.errors import BadType, BadValue, ShapeError

Scale = float | Tensor


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Codec:
    """An autoencoder with the scaling under which its latents are what a denoiser was trained on.

        z = pack((E(x) - shift) scale),   x = D(unpack(z)/scale + shift)

    A schedule of noise levels takes its data for unit variance; `fitted` sets the scale that makes it so.

    Args:
        encoder: from data [n, *shape] to latent images, or to their mean and standard deviation; None where there is none.
        decoder: from latent images to data [n, *shape].
        shape: shape of one data item.
        latent: shape of one latent item, as the denoiser sees it.
        scale, shift: numbers, or tensors that broadcast against one latent image.
        tile: encode and decode in tiles of at most so many latent elements a side, for images that are too large at once;
            None for the whole. Neighbours share a quarter of a tile and are blended linearly there: exact for networks that
            look no farther than their own element, close for others.
        batch_size: at most so many items at once; None for all.
        pack, unpack: between latent images and latent items, where a network takes the image as a sequence of patches.

    Raises:
        BadValue: a scale of zero, or a tile that is not positive.

    Reference: Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, 2021, arXiv 2112.10752.
    """

    encoder: Callable[[Tensor], Tensor | tuple[Tensor, Tensor]] | None
    decoder: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    latent: tuple[int, ...]
    scale: Scale = 1.0
    shift: Scale = 0.0
    tile: int | None = None
    batch_size: int | None = None
    pack: Callable[[Tensor], Tensor] | None = None
    unpack: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not bool(torch.as_tensor(self.scale).ne(0.0).all()):
            raise BadValue(f"scale={self.scale}", "a scale other than zero", "scale=1/standard deviation of the latents")
        if self.tile is not None and self.tile < 1:
            raise BadValue(f"tile={self.tile}", "a positive number of latent elements", "tile=64")
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "latent", tuple(self.latent))

    def encode(self, x: Tensor, eps: Tensor | None = None) -> Tensor:
        """Return the latents [n, *latent] of data [n, *shape].

        Args:
            eps: noise shaped as the latent images, to draw from an encoder that has a spread; None for its mean.

        Raises:
            BadType: there is no encoder.
            ShapeError: x is not shaped as the data.
        """
        encoder = self.encoder
        if encoder is None:
            raise BadType("a codec without encoder", "one with an encoder", "Codec(encoder, decoder, ...)")
        self._check(x, self.shape, "data")

        def moments(part: Tensor) -> Tensor:
            made = encoder(part)
            return torch.cat(made, 1) if isinstance(made, tuple) else made

        raw = self._applied(moments, x, self.factor, 1)
        channels = self._image_shape[0]
        mean = raw[:, :channels]
        if eps is not None and raw.shape[1] == 2 * channels:
            mean = mean + raw[:, channels:] * eps.to(raw)
        z = (mean - self._like(self.shift, mean)) * self._like(self.scale, mean)
        return z if self.pack is None else self.pack(z)

    def decode(self, z: Tensor) -> Tensor:
        """Return the data [n, *shape] of latents [n, *latent].

        Raises:
            ShapeError: z is not shaped as the latents.
        """
        self._check(z, self.latent, "latents")
        z = z if self.unpack is None else self.unpack(z)
        return self._applied(self.decoder, z / self._like(self.scale, z) + self._like(self.shift, z), 1, self.factor)

    def fitted(self, x: Tensor) -> Codec:
        """Return the codec whose latents of these data [n, *shape] have unit standard deviation, over all elements."""
        plain = dataclasses.replace(self, scale=1.0)
        return dataclasses.replace(self, scale=1.0 / float(plain.encode(x).double().std()))

    @property
    def factor(self) -> int:
        """How many data elements a side stand for one latent element."""
        return self.shape[-1] // self._image_shape[-1]

    @property
    def _image_shape(self) -> tuple[int, ...]:
        if self.unpack is None:
            return self.latent
        return tuple(self.unpack(torch.empty(1, *self.latent)).shape[1:])

    def _applied(self, function: Callable[[Tensor], Tensor], x: Tensor, ins: int, outs: int) -> Tensor:
        """Return function(x) item by item or tile by tile, at most so many at once as asked."""
        with torch.no_grad() if not x.requires_grad else torch.enable_grad():
            parts = [x] if self.batch_size is None else x.split(self.batch_size)
            made = [
                function(part) if self.tile is None else _in_tiles(function, part, self.tile, ins, outs) for part in parts
            ]
        return made[0] if len(made) == 1 else torch.cat(made)

    @staticmethod
    def _like(number: Scale, x: Tensor) -> Scale:
        return number.to(x) if isinstance(number, Tensor) else number

    def _check(self, x: Tensor, shape: Sequence[int], what: str) -> None:
        if tuple(x.shape[1:]) != tuple(shape):
            allowed = f"[n, {', '.join(map(str, shape))}]"
            raise ShapeError(
                f"{what} of shape {list(x.shape)}", allowed, "add the batch axis, or make the codec for that size"
            )


def _in_tiles(function: Callable[[Tensor], Tensor], x: Tensor, tile: int, ins: int, outs: int) -> Tensor:
    """Return the blend of function on tiles of x: `ins` and `outs` elements a side of x and of the result are one latent."""
    height, width = (side // ins for side in x.shape[-2:])
    if height <= tile and width <= tile:
        return function(x)
    total = weights = torch.empty(0)
    for row, rows in _spans(height, tile):
        for column, columns in _spans(width, tile):
            made = function(x[..., row * ins : rows * ins, column * ins : columns * ins])
            if not total.numel():
                total = made.new_zeros(*made.shape[:-2], height * outs, width * outs)
                weights = made.new_zeros(height * outs, width * outs)
            sides = (row, rows, height), (column, columns, width)
            down, across = (_ramp(low, high, whole, tile, outs).to(made) for low, high, whole in sides)
            weight = down[:, None] * across[None, :]
            place = (..., slice(row * outs, rows * outs), slice(column * outs, columns * outs))
            total[place] += made * weight
            weights[place] += weight
    return total / weights


def _spans(whole: int, tile: int) -> Iterator[tuple[int, int]]:
    """Yield where tiles begin and end: they share a quarter, and the last one is as large as the others."""
    step = max(1, tile - tile // 4)
    low = 0
    while low + tile < whole:
        yield low, low + tile
        low += step
    yield max(0, whole - tile), whole


def _ramp(low: int, high: int, whole: int, tile: int, outs: int) -> Tensor:
    """Return the weight along one side of a tile: rising over the shared quarter, except at the borders of the whole."""
    length, shared = (high - low) * outs, max(1, tile // 4) * outs
    weight = torch.ones(length)
    rise = (torch.arange(shared) + 0.5) / shared
    if low > 0:
        weight[:shared] = rise
    if high < whole:
        weight[length - shared :] = torch.minimum(weight[length - shared :], rise.flip(0))
    return weight


__all__ = ["Codec"]
