"""Teaching a transformer's early exits, with the network as it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from retrograde.accelerate import exits as untaught
from retrograde.accelerate.exits import Exits, waves
from retrograde.denoisers import Denoiser, prepare_condition
from retrograde.errors import BadValue, UnknownName
from retrograde.sites import Call, Places, Tap, opened, places_of
from retrograde.train.levels import LevelLaw, standard_law
from retrograde.train.objective import question

TEACHERS = ("data", "network")


def fit_exits(
    denoiser: Denoiser,
    images: Tensor,
    condition: Any = None,
    *,
    teacher: Literal["data", "network"] = "data",
    steps: int = 800,
    batch: int = 48,
    rate: float = 2e-3,
    hidden: int | None = None,
    law: LevelLaw | None = None,
    seed: int = 0,
    places: Places | None = None,
) -> Exits:
    """Teach exits what they hand on, and how far it is from the truth; the network stays as it is.

        sum_k (1 - doubt_k) mean |g_k - y|^2  +  (doubt_k - mean tanh |g_k - y|)^2,

    g_k the network's answer where all items leave after block k, y what a perfect network would answer on this draw of noise
    ("data", as published) or what the whole network does ("network": doubt is then the price of leaving, not the noise that
    no block takes away). In the first term doubt, in the second g_k is a constant. AdamW, with a rate that falls linearly to
    zero.

    Shapes: images [n, *shape], condition as `retrograde.sample` takes it for n items.

    Args:
        places: where the network's blocks cannot be found, as for `rg.accelerate.early_exit`.

    Raises:
        BadType: no chain of blocks was found in the denoiser, or blocks over more than one stream of tokens.
        BadValue: no images or steps.
        UnknownName: another teacher.

    Reference: Tang et al., 2023, arXiv 2309.17074 (the weights of the two terms taken as 1; labels there are of elements,
    here their mean, which is what is compared with the threshold).
    """
    if teacher not in TEACHERS:
        raise UnknownName("teacher", teacher, TEACHERS)
    if len(images) < 1 or steps < 1 or batch < 1:
        raise BadValue(f"{len(images)} images, steps={steps}, batch={batch}", "1 or more of each", "steps=800, batch=48")
    places = places_of(denoiser) if places is None else places
    made = untaught(denoiser, hidden, seed=seed, places=places)
    told, generator = prepare_condition(denoiser, condition, len(images)), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(made.parameters(), lr=rate, weight_decay=0.0)
    learned, drawn = list(made.parameters()), law or standard_law(denoiser.predicts)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * (1.0 - step / steps)
        chosen = torch.randint(len(images), (batch,), generator=generator)
        t = drawn.sample(denoiser.path, batch, generator)
        if denoiser.discrete is not None:
            t = torch.tensor([denoiser.snap(one) for one in t.tolist()], dtype=t.dtype)
        eps = torch.randn((batch, *images.shape[1:]), generator=generator, dtype=images.dtype)
        few = {name: value[chosen] for name, value in told.items()}
        answers, doubts, y = answered(denoiser, made, images[chosen], t, eps, few, teacher, places)
        loss = torch.zeros(())
        for g, doubt in zip(answers, doubts, strict=True):
            error = (g - y).flatten(1)
            label = error.detach().abs().tanh().mean(1)
            loss = loss + ((1.0 - doubt.detach()) * error.square().mean(1) + (doubt - label).square()).mean()
        for parameter, slope in zip(learned, torch.autograd.grad(loss, learned), strict=True):
            parameter.grad = slope
        optimizer.step()
    return made.requires_grad_(False)


def answered(
    denoiser: Denoiser,
    exits: Exits,
    x_0: Tensor,
    t: Tensor,
    eps: Tensor,
    condition: Mapping[str, Tensor],
    teacher: Literal["data", "network"] = "data",
    places: Places | None = None,
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return the answers at all exits [n, *shape], the doubts [n], and what they should be; differentiable in the exits.

    Shapes: x_0, eps [n, *shape], t [n], conditions with one entry per item.
    """
    places, n = places_of(denoiser) if places is None else places, len(x_0)
    chain, asked = places.need("chain"), question(denoiser, x_0, t, eps)
    seen: dict[str, Tensor] = {}

    def watch(call: Call) -> Any:
        seen[call.site] = call.compute()
        return seen[call.site]

    with torch.no_grad(), opened(places.network, {block.name: watch for block in chain}):
        whole = denoiser.network(asked.network_input, asked.network_time, **condition)
    level = waves(denoiser.path, t, n)
    features = [seen[block.name] for block in chain[:-1]]
    doubts = [exits.doubt(k, h, level) for k, h in enumerate(features)]
    left = torch.cat([exits.exit(k, h, level) for k, h in enumerate(features)])
    # the last layers are asked once, for all exits one after another
    taps: dict[str, Tap] = {block.name: block.bypass for block in chain[:-1]} | {chain[-1].name: lambda call: left}
    times = len(features)
    many = {name: torch.cat([value] * times) for name, value in condition.items()}
    repeated = torch.cat([asked.network_input] * times), torch.cat([asked.network_time] * times)
    with torch.enable_grad(), opened(places.network, taps):
        answers = denoiser.network(*repeated, **many)
    y = asked.target if teacher == "data" else whole.to(asked.target.dtype)
    return list(answers.chunk(times)), doubts, y
