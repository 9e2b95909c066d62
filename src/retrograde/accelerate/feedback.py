"""Inner loop feedback: a small trained block says what the first blocks of a transformer would have made."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from retrograde import systems
from retrograde.accelerate.runs import Run
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadType, BadValue
from retrograde.sites import Block, Call, Places, Policy, Tap, Visit, Within, places_of, within

systems.register(
    systems.System(
        title="Accelerate High-Quality Diffusion Models with Inner Loop Feedback",
        authors=("Matthew Gwilliam", "Han Cai", "Di Wu", "Abhinav Shrivastava", "Zhiyu Cheng"),
        year=2025,
        arxiv="2501.13107",
        home="accelerate",
        call="rg.accelerate.inner_loop(denoiser, rg.train.fit_feedback(denoiser, plan, blocks=3))",
        test="tests/accelerate/test_feedback.py::test_taught_it_errs_less_than_the_cache_in_the_rows_that_reuse",
    )
)

RUN = "run"
"""Key under which the change by the first blocks is kept."""


@final
class Feedback(nn.Module):
    """What is added to features that were held over, h <- h + g (F(h, ...) - h), F a copy of one of the network's blocks.

    F is called with what the block itself would be called with, the noise level included; g begins at 0.

    Attributes:
        blocks: how many blocks, from the first on, it stands for.
        gain: g, a parameter.
    """

    def __init__(self, block: nn.Module, blocks: int) -> None:
        super().__init__()
        self.block = copy.deepcopy(block).requires_grad_(True)
        self.blocks = blocks
        self.gain = nn.Parameter(torch.zeros((), dtype=next(block.parameters()).dtype))

    def forward(self, features: Any, call: Call) -> Tensor:
        """Return the features, given the call of the block they stand in for."""
        if not isinstance(features, Tensor):
            raise BadType(
                f"{call.site}, which returns {type(features).__name__}",
                "blocks over one stream of tokens",
                "rg.accelerate.block_cache, which reuses blocks over text and image",
            )
        place = next(k for k, x in enumerate((*call.args, *call.kwargs.values())) if isinstance(x, Tensor))
        names = (*range(len(call.args)), *call.kwargs)
        given = dict(zip(names, (*call.args, *call.kwargs.values()), strict=True)) | {names[place]: features}
        args = [given[k] for k in range(len(call.args))]
        return features + self.gain * (self.block(*args, **{name: given[name] for name in call.kwargs}) - features)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class InnerLoop(Policy):
    """Rows that reuse have the first blocks' work predicted (see `inner_loop`)."""

    blocks: tuple[Block, ...]
    feedback: Feedback
    title: ClassVar[str] = "inner_loop"

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        taps = dict(Run(self.blocks, visit, lambda call: not visit.asked, RUN).taps())
        last = self.blocks[-1].name
        inside = taps[last]

        def fed(call: Call) -> Any:
            made = inside(call)
            return self.feedback(made, call) if visit.asked and visit.newest(RUN) is not None else made

        return taps | {last: fed}


def feedback(denoiser: AbstractDenoiser, blocks: int, *, places: Places | None = None) -> Feedback:
    """Return a module that stands for the first blocks of a transformer, not taught yet: a copy of the last of them.

    Raises:
        BadType: no chain of blocks was found in the denoiser.
        BadValue: not at least one block, and one that is left.
    """
    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    if not 1 <= blocks < len(chain):
        raise BadValue(f"blocks={blocks} of {len(chain)}", f"1..{len(chain) - 1}", f"blocks={len(chain) // 2}")
    return Feedback(places.network.get_submodule(chain[blocks - 1].name), blocks)


def inner_loop(denoiser: AbstractDenoiser, feedback: Feedback, *, places: Places | None = None) -> Within:
    """Return the denoiser whose rows with the knob "reuse" compute the last blocks alone, on predicted features.

        h_b = h~ + g (F(h~, t) - h~),     h~ = h_0 + d,

    h_0 what the first block is given in this row, d what blocks 1..b added at the last full evaluation, F and g the
    `Feedback` module, which `rg.train.fit_feedback` teaches. With g = 0 it is `block_cache` of these blocks; the paper
    feeds F with h_b of before, here the row's own state enters through h_0. Without the column the samples are the
    denoiser's, bit by bit.

    Raises:
        BadType: no chain of blocks was found in the denoiser, or blocks over more than one stream of tokens.

    Reference: Gwilliam et al., 2025, arXiv 2501.13107.
    """
    places = places_of(denoiser) if places is None else places
    return within(denoiser, InnerLoop(places.need("chain")[: feedback.blocks], feedback), places)
