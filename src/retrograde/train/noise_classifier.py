"""Training a network that reads the noise level off a state: p(s | x) for denoising MCMC."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrograde.errors import BadValue


def fit_noise_classifier(
    network: nn.Module, images: Tensor, s: Tensor, steps: int = 2000, batch: int = 128, seed: int = 0, rate: float = 2e-3
) -> float:
    """Train scores of noise levels in place, by cross-entropy on x_0 + s eps with even levels; return the last loss.

    The loss returned is the mean of the last tenth of the steps, in nats. The network sees asinh(x), which keeps what is
    small and compresses what is large; `noise_posterior` asks it the same way.

    Args:
        network: maps [n, channels, height, width] to scores [n, levels], for instance `nets.Classifier`.
        images: clean items [n, channels, height, width].
        s: rising levels, [levels]: `controllers.Levels(...).s`.

    Raises:
        BadValue: fewer than two levels, or no steps.
    """
    if len(s) < 2 or steps < 1:
        raise BadValue(f"{len(s)} levels, {steps} steps", "two levels or more, one step or more", "steps=2000")
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.5 * (1 + math.cos(math.pi * k / steps)))
    levels = s.to(images.dtype)
    network.train()
    losses = []
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        level = torch.randint(len(s), (batch,), generator=generator)
        eps = torch.randn((batch, *images.shape[1:]), generator=generator).to(images)
        x = images[chosen] + levels[level].reshape(-1, 1, 1, 1) * eps
        optimizer.zero_grad()
        value = functional.cross_entropy(network(torch.asinh(x)), level)
        value.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    network.eval()
    last = losses[-max(1, steps // 10) :]
    return math.fsum(last) / len(last)


def noise_posterior(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """Return log p(s | x) of a trained network: states [n, *shape] to [n, levels]."""

    @torch.no_grad()
    def log_posterior(x: Tensor) -> Tensor:
        dtype = next(network.parameters()).dtype
        return functional.log_softmax(network(torch.asinh(x.to(dtype))), 1)

    return log_posterior
