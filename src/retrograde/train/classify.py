"""Training a classifier for features."""

import math

import torch
from torch import nn
from torch.nn import functional


def fit_classifier(
    network: nn.Module, images: torch.Tensor, labels: torch.Tensor, epochs: int = 10, batch: int = 64, seed: int = 0
) -> float:
    """Train a classifier in place by cross-entropy on images shifted by up to two pixels; return the last epoch's loss.

    Shapes: images [n, channels, height, width] in [-1, 1] (shifted-in pixels are background, -1), labels int64 [n].
    """
    generator = torch.Generator().manual_seed(seed)
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / max(1, steps))))
    network.train()
    mean = math.nan
    for _ in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(batch):
            if len(chosen) < batch:
                continue
            optimizer.zero_grad()
            value = functional.cross_entropy(network(shift(images[chosen], generator)), labels[chosen])
            value.backward()
            optimizer.step()
            schedule.step()
            total += float(value.detach())
        mean = total / max(1, len(images) // batch)
    network.eval()
    return mean


def shift(images: torch.Tensor, generator: torch.Generator, by: int = 2) -> torch.Tensor:
    """Move the batch by a whole number of pixels in -by..by each way, filling with background (-1)."""
    down, right = torch.randint(0, 2 * by + 1, (2,), generator=generator).tolist()
    padded = functional.pad(images, (by, by, by, by), value=-1.0)
    return padded[..., down : down + images.shape[-2], right : right + images.shape[-1]]


@torch.no_grad()
def accuracy(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of images whose highest score is that of their label."""
    found = torch.cat([network(part).argmax(1) for part in images.split(500)])
    return float((found == labels).double().mean())
