"""Blocks of a transformer that are reused in the rows that say so: as they were, or extrapolated; and left out at all."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, final

from torch.utils._pytree import tree_map

from retrograde import systems
from retrograde.accelerate.runs import Run
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.sites import Block, Call, Entry, Places, Policy, Tap, Visit, Within, places_of, within

systems.register(
    systems.System(
        title="Model Reveals What to Cache: Profiling-Based Feature Reuse for Video Diffusion Models",
        authors=(
            "Xuran Ma",
            "Yexin Liu",
            "Yaofu Liu",
            "Xianfeng Wu",
            "Mingzhe Zheng",
            "Zihao Wang",
            "Ser-Nam Lim",
            "Harry Yang",
        ),
        year=2025,
        arxiv="2504.03140",
        home="accelerate",
        call="rg.accelerate.block_cache(denoiser, rg.accelerate.steadiest(denoiser, plan, 4))",
        test="tests/accelerate/test_blocks.py::test_the_profiled_blocks_err_less_than_random_ones",
    )
)
systems.register(
    systems.System(
        title="From Reusing to Forecasting: Accelerating Diffusion Models with TaylorSeers",
        authors=("Jiacheng Liu", "Chang Zou", "Yuanhuiyi Lyu", "Junjie Chen", "Linfeng Zhang"),
        year=2025,
        arxiv="2503.06923",
        home="accelerate",
        call="rg.accelerate.block_cache(denoiser, order=1)",
        test="tests/accelerate/test_blocks.py::test_features_that_are_polynomials_in_time_are_extrapolated",
    )
)

SKIP = "skip"
"""Knob of the rows that leave blocks out: their numbers."""

Rule = Literal["taylor", "newton"]


@final
@dataclasses.dataclass(frozen=True)
class BlockCache(Policy):
    """Rows that reuse add what runs of blocks added before (see `block_cache`)."""

    runs: tuple[tuple[Block, ...], ...]
    order: int
    rule: Rule
    title: ClassVar[str] = "block_cache"

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        def predict(visit: Visit, key: str) -> Any:
            return extrapolated(visit.past(key), visit.t, self.rule)

        taps: dict[str, Tap] = {}
        for number, blocks in enumerate(self.runs):
            run = Run(blocks, visit, lambda call: not visit.asked, f"run {number}", predict, self.order + 1)
            taps |= run.taps()
        return taps


def extrapolated(past: Sequence[Entry], t: float, rule: Rule = "taylor") -> Any:
    """Return the value at time t that the divided differences of the past, newest first, predict.

        taylor   sum_i d_i (t - t_0)^i,                  newton   sum_i d_i (t - t_0) ... (t - t_{i-1}),

    with the divided differences d_i. "taylor" takes i! d_i for the i-th derivative at t_0, as published; "newton" is the
    polynomial through the past. They agree to first order.
    """
    past = [entry for k, entry in enumerate(past) if entry.clock not in [other.clock for other in past[:k]]]
    clocks = [entry.clock for entry in past]
    table = [entry.value for entry in past]
    total = table[0]
    for i in range(1, len(past)):
        table = [
            tree_map(lambda a, b, d=clocks[j] - clocks[j + i]: None if a is None else (a - b) / d, table[j], table[j + 1])
            for j in range(len(table) - 1)
        ]
        factor = (t - clocks[0]) ** i if rule == "taylor" else math.prod(t - clock for clock in clocks[:i])
        total = tree_map(lambda a, b, f=factor: None if a is None else a + f * b, total, table[0])
    return total


def block_cache(
    denoiser: AbstractDenoiser,
    blocks: Sequence[int] | None = None,
    *,
    order: int = 0,
    rule: Rule = "taylor",
    places: Places | None = None,
) -> Within:
    """Return the denoiser whose rows with the knob "reuse" add what some blocks of its transformer added before.

    Of every maximal run of neighbouring blocks among `blocks`, d = h_after - h_before is kept at full evaluations; a
    row that reuses puts h + d in place of the run and computes the other blocks. Without the column the samples are the
    denoiser's, bit by bit.

    Args:
        blocks: numbers of the blocks to reuse; all by default. `rg.accelerate.steadiest` proposes some.
        order: 0 adds d as it was; higher orders extrapolate it in path time from the last order + 1 full evaluations.
        rule: how, see `extrapolated`.

    Raises:
        BadType: no chain of blocks was found in the denoiser.
        BadValue: a block it does not have, or a negative order.

    References: Ma et al., 2025, arXiv 2504.03140 (runs of profiled blocks); Liu et al., 2025, arXiv 2503.06923
    (extrapolation; the authors do it inside every block).
    """
    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    chosen = sorted(set(range(len(chain)) if blocks is None else blocks))
    if order < 0 or not all(0 <= k < len(chain) for k in chosen):
        raise BadValue(f"blocks {chosen}, order {order}", f"numbers 0..{len(chain) - 1}, order >= 0", "blocks=[0, 1, 2]")
    runs: list[list[Block]] = []
    for k in chosen:
        if k - 1 in chosen:
            runs[-1].append(chain[k])
        else:
            runs.append([chain[k]])
    return within(denoiser, BlockCache(tuple(map(tuple, runs)), order, rule), places)


@final
@dataclasses.dataclass(frozen=True)
class SkipBlocks(Policy):
    """Rows leave out blocks (see `skip_blocks`)."""

    blocks: tuple[Block, ...]
    title: ClassVar[str] = "skip_blocks"
    knob: ClassVar[str | None] = SKIP

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        numbers = visit.asked or ()
        if wrong := [k for k in numbers if not 0 <= k < len(self.blocks)]:
            raise BadValue(f"block {wrong[0]} in the knob {SKIP!r}", f"0..{len(self.blocks) - 1}", "skip=[3, 4]")

        def tap(block: Block) -> Tap:
            def left_out(call: Call) -> Any:
                visit.skip(call.site)
                return block.bypass(call)

            return left_out

        return {self.blocks[k].name: tap(self.blocks[k]) for k in numbers}


def skip_blocks(denoiser: AbstractDenoiser, *, places: Places | None = None) -> Within:
    """Return the denoiser whose rows may name blocks to leave out, in the knob "skip": a list of numbers.

    Blocks are those of `rg.sites.find(network).blocks`, of UNets and transformers; one left out hands on its input,
    through its shortcut if it has one. The search over masks is the tuner's.

    Raises:
        BadType: no blocks were found in the denoiser.

    Reference: Li et al., AutoDiffusion, 2023, arXiv 2309.10438 (the second half of its search space).
    """
    places = places_of(denoiser) if places is None else places
    return within(denoiser, SkipBlocks(places.need("blocks")), places)
