"""A multilayer perceptron that denoises small images and points."""

import math
from collections.abc import Sequence
from typing import final

import torch
from torch import nn
from torch.nn import functional

from retrograde.errors import BadValue, ShapeError
from retrograde.nets.embedding import LevelEmbedding


@final
class MLPDenoiser(nn.Module):
    """A residual perceptron on the flattened item, told the noise level by scale and shift.

    h <- h + W_2 silu((1 + scale) norm(W_1 h) + shift), `depth` times, at width `width`; the output layer
    starts at zero.

    Shapes: x_t [n, *shape], network_time [n], label int64 [n] (or a number, or None: the null class) -> [n, *shape].

    Raises BadValue for an empty shape, ShapeError for an input of another shape.
    """

    def __init__(
        self, shape: Sequence[int], width: int = 128, depth: int = 3, classes: int = 0, time_scale: float = 1.0
    ) -> None:
        super().__init__()
        size = math.prod(shape)
        if not shape or size < 1 or width < 1 or depth < 1:
            raise BadValue(
                f"shape={tuple(shape)}, width={width}, depth={depth}",
                "sizes of at least 1",
                "use for instance shape=(2,)",
            )
        self.shape = tuple(shape)
        self.embedding = LevelEmbedding(width, classes, time_scale)
        self.enter = nn.Linear(size, width)
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.modulate = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, size)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, x_t: torch.Tensor, network_time: torch.Tensor, label: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        if tuple(x_t.shape[1:]) != self.shape:
            raise ShapeError(
                f"an input of shape {list(x_t.shape)}",
                f"[n, {', '.join(map(str, self.shape))}]",
                f"build the network with shape={tuple(x_t.shape[1:])}",
            )
        told = functional.silu(self.embedding(network_time, label))
        h = self.enter(x_t.flatten(1))
        for first, norm, modulate, second in zip(self.first, self.norms, self.modulate, self.second, strict=True):
            scale, shift = modulate(told).chunk(2, dim=1)
            h = h + second(functional.silu(norm(first(h)) * (1 + scale) + shift))
        return self.leave(h).reshape(x_t.shape)
