"""DeepCache: the deep part of a UNet is computed now and then, and its output reused between."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, final

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.sites import Call, Ladder, Places, Policy, Tap, Visit, Within, filled, outline, within
from retrograde.sites import places_of as found

systems.register(
    systems.System(
        title="DeepCache: Accelerating Diffusion Models for Free",
        authors=("Xinyin Ma", "Gongfan Fang", "Xinchao Wang"),
        year=2023,
        arxiv="2312.00858",
        home="accelerate",
        call="rg.accelerate.deepcache(denoiser, branch=0)",
        test="tests/accelerate/test_deepcache.py::test_unchanged_inputs_give_the_full_output_and_cost_the_shallow_share",
    )
)


@final
@dataclasses.dataclass(frozen=True)
class DeepCache(Policy):
    """Rows that reuse compute what lies above a rung of the ladder alone (see `deepcache`)."""

    ladder: Ladder
    branches: tuple[int, ...]
    title: ClassVar[str] = "deepcache"

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        if visit.asked is None or visit.asked is False:
            return self._keeping(visit)
        branch = self.branches[0] if visit.asked is True else int(visit.asked)
        if branch not in self.branches:
            raise BadValue(f"a row that reuses at branch {branch}", f"{self.branches}", f"branches=(..., {branch})")
        below = self.ladder.gathered(self.ladder.below(branch))
        if any(visit.newest(site) is None for site in below):
            return self._keeping(visit)
        visit.skip(*below)

        def kept(call: Call) -> object:
            return filled(visit.newest(call.site), visit.n)

        return dict.fromkeys(below, kept)

    def _keeping(self, visit: Visit) -> dict[str, Tap]:
        """Taps of a full evaluation: they keep what comes up to each rung, and the outlines of what else is left out."""
        parts = [self.ladder.gathered(self.ladder.below(branch)) for branch in self.branches]
        values = {part[-1] for part in parts}

        def keep(call: Call) -> object:
            made = call.compute()
            visit.keep(call.site, made if call.site in values else outline(made))
            return made

        return {site: keep for part in parts for site in part}


def deepcache(
    denoiser: AbstractDenoiser, branch: int = 0, *, branches: tuple[int, ...] = (), places: Places | None = None
) -> Within:
    """Return the denoiser whose rows with the knob "reuse" compute the shallow part of its UNet alone.

    Skip connections are numbered from 0, the highest. A row with reuse=True computes skips 0..branch and what takes
    them; what comes up from below is that of the last full evaluation. The column is a plan's:
    `rg.accelerate.every(plan, 3)`, `rg.accelerate.centred(plan, 10)`, or written by hand; a row may name its own branch
    (reuse=2) among `branches`. Without the column the samples are the denoiser's, bit by bit.

    What is kept is the run's: each branch of guidance and each item has its own.

    Published it beats fewer steps at equal cost on large networks. In the embedded `digits` (of three levels, the shallow
    part a seventh of the work) as many DDIM steps as its cost pays for come closer to the uncached run, at every interval
    and branch that was tried, and full rows dense around one step do no better than evenly spread ones.

    Args:
        branch: 0 is the cheapest; larger ones compute more and err less.
        branches: further branches that rows may name; each keeps one more tensor.

    Raises:
        BadType: no UNet was found in the denoiser.
        BadValue: a branch that the UNet does not have.

    Reference: Ma, Fang, Wang, 2023, arXiv 2312.00858; `branch` as in the authors' code.
    """
    places = found(denoiser) if places is None else places
    ladder: Ladder = places.need("ladder")
    chosen = tuple(dict.fromkeys((branch, *branches)))
    if wrong := [b for b in chosen if not 0 <= b < ladder.rungs - 1]:
        raise BadValue(f"branch {wrong[0]}", f"0..{ladder.rungs - 2}", "branch=0")
    return within(denoiser, DeepCache(ladder, chosen), places)
