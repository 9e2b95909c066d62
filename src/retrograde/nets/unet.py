"""A small class-conditional UNet."""

from collections.abc import Sequence
from typing import final

import torch
from torch import nn
from torch.nn import functional

from retrograde.errors import BadValue, ShapeError
from retrograde.nets.embedding import LevelEmbedding


@final
class UNet(nn.Module):
    """A convolutional denoising network with two or more resolutions, told the noise level by scale and shift.

    The image is folded into patches of `patch` x `patch` pixels (28x28 becomes 14x14 of 4 values), so that most of the
    work happens at a quarter of the positions. Level k has `channels[k]` channels at resolution size / patch / 2^k and
    `blocks` residual blocks down and `blocks + 1` up; the levels named in `attention` also attend over all positions.
    The output layer starts at zero.

    Shapes: x_t [n, *shape], network_time [n], label int64 [n] (or a number, or None: the null class, `classes`)
    -> [n, *shape].

    Raises BadValue for sizes that do not divide and for channels that are not a multiple of 8, ShapeError for an
    input of another shape.

    References: Ronneberger, Fischer, Brox 2015, "U-Net", arXiv:1505.04597; Dhariwal, Nichol 2021, "Diffusion Models
    Beat GANs on Image Synthesis", arXiv:2105.05233 (scale-shift conditioning, attention).
    """

    def __init__(
        self,
        shape: Sequence[int] = (1, 28, 28),
        channels: Sequence[int] = (48, 96),
        blocks: int = 1,
        classes: int = 10,
        attention: Sequence[int] = (1,),
        patch: int = 2,
        width: int = 128,
        dropout: float = 0.0,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        _check(shape, channels, patch)
        self.shape = tuple(shape)
        self.patch = patch
        self.classes = classes
        self.embedding = LevelEmbedding(width, classes, time_scale)
        folded = shape[0] * patch * patch
        self.enter = nn.Conv2d(folded, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        kept = [channels[0]]
        for k, c in enumerate(channels):
            attends = k in attention
            if k > 0:
                self.shrink.append(nn.Conv2d(channels[k - 1], c, 3, stride=2, padding=1))
                kept.append(c)
            self.down.append(nn.ModuleList(_Block(c, c, width, attends, dropout) for _ in range(blocks)))
            kept.extend([c] * blocks)
        self.middle = _Block(channels[-1], channels[-1], width, len(channels) - 1 in attention, dropout)
        for k, c in reversed(list(enumerate(channels))):
            attends = k in attention
            self.up.append(nn.ModuleList(_Block(c + kept.pop(), c, width, attends, dropout) for _ in range(blocks + 1)))
            if k > 0:
                self.grow.append(nn.Conv2d(c, channels[k - 1], 3, padding=1))
        self.norm = nn.GroupNorm(8, channels[0])
        self.leave = nn.Conv2d(channels[0], folded, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(
        self, x_t: torch.Tensor, network_time: torch.Tensor, label: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if tuple(x_t.shape[1:]) != self.shape:
            raise ShapeError(
                f"an input of shape {list(x_t.shape)}",
                f"[n, {', '.join(map(str, self.shape))}]",
                f"build the network with shape={tuple(x_t.shape[1:])}",
            )
        told = functional.silu(self.embedding(network_time, label))  # type: ignore[arg-type]
        h = self.enter(functional.pixel_unshuffle(x_t, self.patch))
        kept = [h]
        for k, level in enumerate(self.down):
            if k > 0:
                h = self.shrink[k - 1](h)
                kept.append(h)
            for block in level:  # type: ignore[union-attr]
                h = block(h, told)
                kept.append(h)
        h = self.middle(h, told)
        for k, level in enumerate(self.up):
            for block in level:  # type: ignore[union-attr]
                h = block(torch.cat([h, kept.pop()], dim=1), told)
            if k < len(self.grow):
                h = self.grow[k](functional.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.leave(functional.silu(self.norm(h)))
        return functional.pixel_shuffle(h, self.patch)


@final
class _Block(nn.Module):
    """Norm, convolution, norm scaled and shifted by the embedding, convolution, around a shortcut; then attention."""

    def __init__(self, c_in: int, c_out: int, width: int, attends: bool, dropout: float) -> None:
        super().__init__()
        self.norm_in = nn.GroupNorm(8, c_in)
        self.conv_in = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.modulate = nn.Linear(width, 2 * c_out)
        self.norm_out = nn.GroupNorm(8, c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
        self.attention = _Attention(c_out) if attends else None
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        h = self.conv_in(functional.silu(self.norm_in(x)))
        scale, shift = self.modulate(told)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(self.norm_out(h) * (1 + scale) + shift)
        h = self.shortcut(x) + self.conv_out(self.dropout(h))
        return h if self.attention is None else self.attention(h)


@final
class _Attention(nn.Module):
    """Self-attention over all positions, heads of 32 channels, added to its input."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.heads = max(1, c // 32)
        self.norm = nn.GroupNorm(8, c)
        self.qkv = nn.Conv2d(c, 3 * c, 1)
        self.out = nn.Conv2d(c, c, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, height, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, 3, self.heads, c // self.heads, height * width)
        q, k, v = qkv.transpose(3, 4).unbind(1)
        y = functional.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(2, 3).reshape(n, c, height, width))


def _check(shape: Sequence[int], channels: Sequence[int], patch: int) -> None:
    factor = patch * 2 ** (len(channels) - 1)
    if len(shape) != 3 or shape[1] % factor or shape[2] % factor:
        raise BadValue(
            f"shape={tuple(shape)} with {len(channels)} levels of patches of {patch}",
            f"(channels, height, width) with height and width multiples of {factor}",
            "use fewer entries in channels, or patch=1",
        )
    for c in channels:
        if c % 8 or (c > 32 and c % (c // 32)):
            raise BadValue(
                f"channels={tuple(channels)}",
                "multiples of 8, divisible by the c // 32 attention heads",
                "use for instance channels=(32, 64)",
            )
