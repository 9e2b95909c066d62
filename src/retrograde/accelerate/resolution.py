"""Sampling at another resolution than trained: attention keeps the sharpness it was trained with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadType, BadValue
from retrograde.sites import Call, Places, Policy, Tap, Visit, Within, places_of, within

systems.register(
    systems.System(
        title="Training-free Diffusion Model Adaptation for Variable-Sized Text-to-Image Synthesis",
        authors=("Zhiyu Jin", "Xuli Shen", "Bin Li", "Xiangyang Xue"),
        year=2023,
        arxiv="2306.08645",
        home="accelerate",
        call="rg.accelerate.steady_entropy(denoiser, trained=(28, 28))",
        test="tests/accelerate/test_resolution.py::test_the_entropy_of_gaussian_logits_stays_in_proportion",
    )
)


def entropy_scale(tokens: float, trained: float) -> float:
    """Return sqrt(ln N / ln T), by which the logits of attention are multiplied for N tokens where T were trained.

    Raises:
        BadValue: one token or less.
    """
    if tokens <= 1 or trained <= 1:
        raise BadValue(f"{tokens} tokens, {trained} trained", "more than one of both", "leave attention over one token out")
    return math.sqrt(math.log(tokens) / math.log(trained))


@final
@dataclasses.dataclass(frozen=True)
class SteadyEntropy(Policy):
    """Self-attention whose logits are scaled with the number of tokens (see `steady_entropy`)."""

    queries: tuple[tuple[str, str, bool], ...]
    trained: tuple[int, ...]
    title: ClassVar[str] = "steady_entropy"
    knob: ClassVar[str | None] = None

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        ratio = math.prod(visit.x_t.shape[2:]) / math.prod(self.trained)
        if ratio == 1.0:
            return {}
        taps: dict[str, Tap] = {}
        for attention, query, joined in self.queries:
            seen: list[float] = []

            def count(call: Call, seen: list[float] = seen) -> Any:
                hidden = next(x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Tensor))
                tokens = hidden.shape[1] if hidden.ndim == 3 else math.prod(hidden.shape[2:])
                seen[:] = [entropy_scale(tokens, tokens / ratio)]
                return call.compute()

            def scale(call: Call, seen: list[float] = seen, joined: bool = joined) -> Any:
                made = call.compute()
                if not joined:
                    return made * seen[0]
                query, rest = made.split([made.shape[1] // 3, made.shape[1] - made.shape[1] // 3], 1)
                return torch.cat([query * seen[0], rest], 1)

            taps |= {attention: count, query: scale}
        return taps


def _query(network: nn.Module, attention: str) -> tuple[str, str, bool]:
    """Return where an attention makes its queries, and whether keys and values come with them."""
    module = network.get_submodule(attention)
    for name, joined in (("norm_q", False), ("to_q", False), ("qkv", True)):
        if isinstance(getattr(module, name, None), nn.Module):
            return attention, f"{attention}.{name}", joined
    raise BadType(
        f"{type(module).__name__} at {attention!r}, whose queries are made at no known place",
        "attention with a part norm_q, to_q or qkv",
        "leave it out: places=rg.sites.Places(network, attention=(...))",
    )


def steady_entropy(denoiser: AbstractDenoiser, trained: Sequence[int], *, places: Places | None = None) -> Within:
    """Return the denoiser whose self-attention is as sharp at any resolution as it was at the trained one.

        softmax(lambda Q K^T / sqrt(d)) V,   lambda = sqrt(ln N / ln T),

    N the tokens of a feature map, T those it had in training: the entropy of attention grows with ln N, and with lambda it
    keeps its proportion to it. Cross-attention is left alone. At the trained resolution it is the denoiser, bit by bit. It
    corrects attention alone; flows at high resolution want a shift of time beside it.

    On the embedded `digits`, whose attention is small beside its convolutions, it made no difference that could be told from
    chance: at 36 and 44 pixels a classifier's mean log-probability of the class fell by 0.01 (40 items, paired). Expect
    something of it where attention carries the layout.

    Args:
        trained: height and width (or more axes) of the states in training, as they come to the network.

    Raises:
        BadType: no self-attention was found in the denoiser.
        BadValue: sizes that are not positive.

    Reference: Jin et al., 2023, arXiv 2306.08645.
    """
    if not trained or any(size < 1 for size in trained):
        raise BadValue(f"trained={tuple(trained)}", "sizes of at least 1", "trained=(64, 64)")
    places = places_of(denoiser) if places is None else places
    queries = tuple(_query(places.network, name) for name in places.need("attention"))
    return within(denoiser, SteadyEntropy(queries, tuple(trained)), places)
