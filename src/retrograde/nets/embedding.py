"""How a network reads its noise level and its label."""

import math
from typing import final

import torch
from torch import nn

from retrograde.errors import BadType, BadValue, ShapeError


@final
class LevelEmbedding(nn.Module):
    """Embed the network time (and a label, if there are classes) in one vector.

    The time passes through sin(w_k u) and cos(w_k u), u = time_scale * network_time, with frequencies w_k spaced
    geometrically from 0.5 to 64, then through a two-layer perceptron. Labels 0..classes-1 and the null class `classes`
    each add a learned vector.

    Shapes: network_time [n], label int64 [n] -> [n, width].

    Reference: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762 (the sinusoids).
    """

    frequencies: torch.Tensor

    def __init__(self, width: int, classes: int, time_scale: float = 1.0, waves: int = 32) -> None:
        super().__init__()
        self.classes = classes
        self.time_scale = time_scale
        w_k = torch.exp(torch.linspace(math.log(0.5), math.log(64.0), waves))
        self.register_buffer("frequencies", w_k, persistent=False)
        self.perceptron = nn.Sequential(nn.Linear(2 * waves, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(classes + 1, width) if classes > 0 else None

    def forward(self, network_time: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        angles = (self.time_scale * network_time.float())[:, None] * self.frequencies[None, :]
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedded = self.perceptron(waves.to(next(self.perceptron.parameters()).dtype))
        if self.labels is not None:
            embedded = embedded + self.labels(_class_indices(label, self.classes, network_time))
        elif label is not None:
            raise BadValue(
                "a label was given to a network without classes",
                "no label",
                "leave the label out, or build the network with classes=10",
            )
        return embedded


def _class_indices(label: torch.Tensor | int | None, classes: int, like: torch.Tensor) -> torch.Tensor:
    """Labels as int64 [n]; None and `classes` both mean the null class."""
    n = like.shape[0]
    if label is None:
        return torch.full((n,), classes, dtype=torch.int64, device=like.device)
    indices = torch.as_tensor(label, device=like.device)
    if indices.is_floating_point():
        raise BadType(f"labels of dtype {indices.dtype}", f"whole numbers 0..{classes}", "pass label.long()")
    if indices.dim() == 0:
        indices = indices.expand(n)
    if indices.shape != (n,):
        raise ShapeError(
            f"labels of shape {tuple(indices.shape)} for {n} items",
            f"one number, or shape ({n},)",
            f"pass label.reshape({n})",
        )
    if (
        indices.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and not 0 <= int(indices.min()) <= int(indices.max()) <= classes
    ):
        given = f"labels from {int(indices.min())} to {int(indices.max())}"
        raise BadValue(given, f"0..{classes - 1}, and {classes} for none", "condition=3, for instance")
    return indices.long()
