"""Experts for ranges of noise levels, taught by a network that only knows clean data."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from retrograde.errors import BadValue, UnknownName
from retrograde.guide.experts import unit_variance
from retrograde.paths import Path
from retrograde.train.low_rank import low_rank

MATCHES = ("classes", "values")


def fit_experts(
    network: nn.Module,
    samples: Tensor,
    path: Path,
    count: int = 5,
    *,
    match: Literal["classes", "values"] = "classes",
    temperature: float = 0.25,
    rank: int = 16,
    alpha: float = 8.0,
    steps: int = 2000,
    batch: int = 128,
    rate: float = 1e-4,
    seed: int = 0,
) -> tuple[nn.Module, ...]:
    """Teach copies of a network what it says of clean data to say of noisy ones, each for one of `count` ranges of t.

        KL(softmax(f(x_0)/temperature) || softmax(f_k(x_t))),   t uniform in (k t_max/count, (k + 1) t_max/count)

    for "classes", the mean squared difference of outputs for "values" (depth, a segmentation). No labels are taken: x_0 are
    samples of the diffusion model that is to be guided. The best f_k at temperature 1 is E[softmax f(x_0) | x_t], which is
    p(c | x_t) where f knows p(c | x_0); the published temperature makes the teacher surer than it is.

    What learns are changes of low rank at every layer (`low_rank`), with AdamW and a rate that falls linearly to zero;
    every expert has `steps` steps. Experts see x_t at unit variance, without the time.

    Shapes: samples [n, *shape]; the network maps [m, *shape] to [m, classes] or to values.

    Raises:
        BadValue: no experts, steps or samples, or a temperature that is not positive.
        UnknownName: another match.

    Reference: Go et al., Towards Practical Plug-and-Play Diffusion Models, 2022, arXiv 2212.05973.
    """
    if match not in MATCHES:
        raise UnknownName("match", match, MATCHES)
    if count < 1 or steps < 1 or len(samples) < 1 or not temperature > 0.0:
        given = f"count={count}, steps={steps}, {len(samples)} samples, temperature={temperature}"
        raise BadValue(given, "1 or more of each, a positive temperature", "count=5, steps=2000, temperature=0.25")
    was_training = network.training
    network.eval()
    with torch.no_grad():
        said = torch.cat([network(part) for part in samples.split(512)])
    network.train(was_training)
    if match == "classes":
        said = functional.softmax(said / temperature, 1)
    made: list[nn.Module] = []
    for k in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + k)
            expert = low_rank(network, rank, alpha)
        generator = torch.Generator().manual_seed(2 * seed + 1 + 1_000_003 * k)
        learned = [weight for weight in expert.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learned, lr=rate, weight_decay=0.05)
        low, high = (path.t_max * edge / count for edge in (k, k + 1))
        expert.train()
        for step in range(steps):
            chosen = torch.randint(len(samples), (batch,), generator=generator)
            u = (torch.arange(batch, dtype=torch.float64) + torch.rand((), generator=generator, dtype=torch.float64)) / batch
            t = (low + (high - low) * u).clamp(min=path.t_min)
            eps = torch.randn((batch, *samples.shape[1:]), generator=generator, dtype=samples.dtype)
            place = t.reshape(-1, *(1,) * (samples.ndim - 1))
            x_t = (path.a(place) * samples[chosen] + path.s(place) * eps).to(samples.dtype)
            answer = expert(unit_variance(path, x_t, t))
            if match == "classes":
                value = functional.kl_div(functional.log_softmax(answer, 1), said[chosen], reduction="batchmean")
            else:
                value = functional.mse_loss(answer, said[chosen])
            optimizer.param_groups[0]["lr"] = rate * (1.0 - step / steps)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
        made.append(expert.eval().requires_grad_(False))
    return tuple(made)
