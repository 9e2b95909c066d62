"""Attention that the branches of guidance share: computed for the first one, taken by all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from retrograde import systems
from retrograde.accelerate.runs import some
from retrograde.denoisers import AbstractDenoiser
from retrograde.sites import Call, Places, Policy, Tap, Visit, Within, places_of, within

systems.register(
    systems.System(
        title="DiTFastAttn: Attention Compression for Diffusion Transformer Models",
        authors=(
            "Zhihang Yuan",
            "Hanling Zhang",
            "Pu Lu",
            "Xuefei Ning",
            "Linfeng Zhang",
            "Tianchen Zhao",
            "Shengen Yan",
            "Guohao Dai",
            "Yu Wang",
        ),
        year=2024,
        arxiv="2406.08552",
        home="accelerate",
        call="rg.guide.cfg(rg.accelerate.share_attention(denoiser), 2.0)",
        test="tests/accelerate/test_shared.py::test_the_second_branch_takes_the_attention_of_the_first",
    )
)

SHARE = "share"
"""Knob of the rows in which branches share their attention."""


@final
@dataclasses.dataclass(frozen=True)
class SharedAttention(Policy):
    """Rows with the knob "share" compute attention for the first branch alone (see `share_attention`)."""

    attention: tuple[str, ...]
    adding: frozenset[str]
    title: ClassVar[str] = "share_attention"
    knob: ClassVar[str | None] = SHARE

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        if not visit.asked or visit.branches == 1:
            return {}
        n, branches = visit.n, visit.branches
        first = torch.arange(n // branches, device=visit.x_t.device)

        def tap(call: Call) -> Any:
            made = call.compute_with(*some(call.args, first, n), **some(call.kwargs, first, n))
            visit.skip(call.site, items=n - n // branches)
            if call.site not in self.adding:
                return tree_map(lambda y: y.repeat(branches, *(1,) * (y.ndim - 1)) if isinstance(y, Tensor) else y, made)
            x = next(x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Tensor))
            return x + (made - x[first]).repeat(branches, *(1,) * (x.ndim - 1))

        return dict.fromkeys(self.attention, tap)


def adding(places: Places) -> frozenset[str]:
    """Return which sites of self-attention add what they make to their input: those of the UNet here do."""
    return frozenset(name for name in places.attention if type(places.network.get_submodule(name)).__name__ == "_Attention")


def share_attention(denoiser: AbstractDenoiser, *, places: Places | None = None) -> Within:
    """Return the denoiser whose rows with the knob "share" compute self-attention once for all branches of guidance.

    What attention adds for the first branch (the conditional one) all branches add; everything else is computed for each.
    Of an evaluation with two branches that spares half the self-attention. Rows without the knob, and evaluations without
    branches, are the denoiser's, bit by bit. Rows are chosen as for reuse: `rg.accelerate.every(plan, 2, knob="share")`.

    To leave out the whole second branch where it matters little, see `rg.guide.interval`, and for its closed form
    `rg.guide.residual`.

    Raises:
        BadType: no self-attention was found in the denoiser.

    Reference: Yuan et al., 2024, arXiv 2406.08552 (attention sharing across the branches).
    """
    places = places_of(denoiser) if places is None else places
    return within(denoiser, SharedAttention(tuple(places.need("attention")), adding(places)), places)
