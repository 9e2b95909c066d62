"""Autoregressive generation with a diffusion head: token by token, each by a plan of its own, later ones by shorter ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, UnknownName
from retrograde.noise import apart
from retrograde.plan import Plan
from retrograde.sampling import sample

systems.register(
    systems.System(
        title="DiSA: Diffusion Step Annealing in Autoregressive Image Generation",
        authors=("Qinyu Zhao", "Jaskirat Singh", "Ming Xu", "Akshay Asthana", "Stephen Gould", "Liang Zheng"),
        year=2025,
        arxiv="2505.20297",
        home="accelerate",
        call="rg.accelerate.one_by_one(head, [rg.plan('ddpm', path, nfe=k) for k in rg.accelerate.annealed(50, 5, 64)])",
        test="tests/accelerate/test_annealed.py::test_steps_are_worth_most_where_least_is_known",
    )
)

Rule = Literal["linear", "cosine", "two_stage"]

Head = Callable[[int, Tensor | None], tuple[AbstractDenoiser, Any]]
"""From the position k and the tokens before it [n, k, *shape] (None at the first) to the denoiser of the next token [*shape]
and its condition, which is what an autoregressive network made of those tokens."""


def annealed(upper: int, lower: int, count: int, rule: Rule = "linear") -> list[int]:
    """Return the steps of each of `count` tokens, n(k) from `upper` at the first to `lower` at the last.

        linear     lower + floor((upper - lower) (K-1-k)/(K-1))
        cosine     lower + floor((upper - lower) (1 + cos(pi k/(K-1)))/2)
        two_stage  upper in the first half, then lower

    Raises:
        BadValue: not 1 <= lower <= upper, or no tokens.
        UnknownName: another rule.

    Reference: Zhao et al., DiSA, 2025, arXiv 2505.20297.
    """
    if not 1 <= lower <= upper or count < 1:
        raise BadValue(f"{upper} to {lower} steps for {count} tokens", "1 <= lower <= upper, tokens", "annealed(50, 5, 64)")
    if rule not in ("linear", "cosine", "two_stage"):
        raise UnknownName("rule", str(rule), ("linear", "cosine", "two_stage"))
    if rule == "two_stage":
        return [upper if k < count / 2 else lower for k in range(count)]
    last = max(1, count - 1)
    left = {"linear": lambda k: (count - 1 - k) / last, "cosine": lambda k: 0.5 * (1.0 + math.cos(math.pi * k / last))}
    return [lower + int((upper - lower) * left[rule](k)) for k in range(count)] if count > 1 else [upper]


def one_by_one(head: Head, plans: Sequence[Plan], n: int = 1, seed: int = 0, **options: Any) -> Tensor:
    """Sample tokens [n, K, *shape] one after another, each given those before it, by K plans.

    Early tokens are those of which least is known: they are drawn from wide laws, along curved paths, and late ones from
    narrow laws that a few steps follow (see `annealed`). Token k has the noise of its own seed, the same whatever plan it
    is sampled by. With one plan for all tokens it is the usual sampler of such models.

    Args:
        head: see `Head`. It may remember what it computed for the tokens before.
        plans: one for each token, on the path of its denoiser.
        **options: what `rg.sample` takes beside condition: items, dtype, device, noise.

    Raises:
        BadValue: no plans.

    Reference: Zhao et al., DiSA, 2025, arXiv 2505.20297.
    """
    if not plans:
        raise BadValue("tokens without plans", "a plan for each token", "one_by_one(head, [plan] * 16)")
    tokens: list[Tensor] = []
    for k, plan in enumerate(plans):
        denoiser, condition = head(k, torch.stack(tokens, 1) if tokens else None)
        tokens.append(sample(denoiser, plan, n, apart(seed, k), condition=condition, **options))
    return torch.stack(tokens, 1)
