"""A small convolutional classifier, whose features serve to compare sets of images."""

from typing import final

import torch
from torch import nn
from torch.nn import functional

from retrograde.errors import ShapeError


@final
class Classifier(nn.Module):
    """Five convolutions, an average over positions, a feature layer, and a linear layer of class scores.

    Shapes: x [n, channels, height, width] in [-1, 1] -> scores [n, classes]; `features(x)` -> [n, 64], not negative.

    Raises ShapeError for an input that is not a batch of images with `channels` channels.
    """

    def __init__(self, channels: int = 1, classes: int = 10, features: int = 64) -> None:
        super().__init__()
        self.channels = channels
        widths = (channels, 16, 32, 32, 64, 64)
        strides = (1, 2, 1, 2, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride=strides[i], padding=1) for i in range(5)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, c) for c in widths[1:])
        self.describe = nn.Linear(widths[-1], features)
        self.score = nn.Linear(features, classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the penultimate layer, [n, 64]."""
        if x.dim() != 4 or x.shape[1] != self.channels:
            raise ShapeError(
                f"images of shape {list(x.shape)}",
                f"[n, {self.channels}, height, width]",
                "add the missing axis, for instance x[None]",
            )
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = functional.relu(norm(convolution(x)))
        return functional.relu(self.describe(x.mean((2, 3))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(self.features(x))
