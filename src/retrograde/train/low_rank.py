"""Low-rank changes of a network whose own weights stay as they are."""

from __future__ import annotations

import copy
from typing import final

import torch
from torch import nn

from retrograde.errors import BadType, BadValue


@final
class LowRank(nn.Module):
    """A frozen linear or convolutional layer f with a change of low rank, f(x) + (alpha/rank) B(A(x)); B begins at zero.

    A has the layer's own kernel, stride and padding and ends in `rank` channels, B is linear over channels. With `cored`
    it is B(C A(x)), C the buffer `core`, [1 or n, rank, rank], the unit matrix until a call is given another
    (`torch.func.functional_call`, see `GuidedRank`).

    Shapes: those of f.

    Reference: Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, 2021, arXiv 2106.09685.
    """

    core: torch.Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int = 16, alpha: float = 8.0, cored: bool = False) -> None:
        super().__init__()
        if rank < 1:
            raise BadValue(f"rank={rank}", "1 or more", "rank=16")
        self.layer = layer.requires_grad_(False)
        self.scale = alpha / rank
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            self.down = nn.Conv2d(layer.in_channels, rank, layer.kernel_size, bias=False, **options)  # type: ignore[arg-type]
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.zeros_(self.up.weight)  # type: ignore[arg-type]
        self.cored = cored
        if cored:
            self.register_buffer("core", torch.eye(rank)[None], persistent=False)
        self.to(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.down(x)
        if self.cored:
            axis = -1 if isinstance(self.layer, nn.Linear) else 1
            core = self.core.expand(len(h), -1, -1)
            h = torch.einsum("nij,n...j->n...i", core, h.movedim(axis, -1)).movedim(-1, axis)
        return self.layer(x) + self.scale * self.up(h)


def low_rank(network: nn.Module, rank: int = 16, alpha: float = 8.0, cored: bool = False) -> nn.Module:
    """Return a copy of a network with a low-rank change at every linear and convolutional layer; only these can learn.

    With `cored` every change has a core (see `LowRank`).

    Raises:
        BadType: the network has no such layer.
        BadValue: a rank below 1.
    """
    made = copy.deepcopy(network).requires_grad_(False)
    if isinstance(made, nn.Linear | nn.Conv2d):
        return LowRank(made, rank, alpha, cored)
    layers = [(name, one) for name, one in made.named_modules() if isinstance(one, nn.Linear | nn.Conv2d)]
    if not layers:
        raise BadType(
            f"{type(network).__name__} without linear or convolutional layers",
            "a network with layers to change",
            "train the network itself",
        )
    for name, layer in layers:
        parent, _, last = name.rpartition(".")
        setattr(made.get_submodule(parent), last, LowRank(layer, rank, alpha, cored))
    return made
