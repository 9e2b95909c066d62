"""Caches that look: they reuse a transformer's blocks while a cheap sign says that little changed."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.accelerate.runs import Run, added
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.sites import Block, Call, Places, Policy, Tap, Visit, Within, places_of, within

systems.register(
    systems.System(
        title="Timestep Embedding Tells: It's Time to Cache for Video Diffusion Model",
        authors=(
            "Feng Liu",
            "Shiwei Zhang",
            "Xiaofeng Wang",
            "Yujie Wei",
            "Haonan Qiu",
            "Yuzhong Zhao",
            "Yingya Zhang",
            "Qixiang Ye",
            "Fang Wan",
        ),
        year=2024,
        arxiv="2411.19108",
        home="accelerate",
        call="rg.accelerate.teacache(denoiser, 0.3)",
        test="tests/accelerate/test_thresholds.py::test_teacache_s_signal_is_the_modulated_input",
    )
)

EXACT = "exact"
"""Knob of the rows that compute everything, whatever the sign says."""


@final
@dataclasses.dataclass(frozen=True)
class FirstBlock(Policy):
    """The other blocks are reused while the first one adds the same (see `first_block`)."""

    chain: tuple[Block, ...]
    threshold: float
    title: ClassVar[str] = "first_block"
    knob: ClassVar[str | None] = EXACT

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        first: list[Tensor] = []

        def look(call: Call) -> Any:
            before, after = self.chain[0].bypass(call), call.compute()
            first.append(image(added(after, before)))
            visit.keep("first", first[0])
            return after

        def decide(call: Call) -> Tensor | bool:
            before = visit.newest("first")
            if visit.asked or before is None:
                return True
            changed = ~(relative_change(first[0], before) < self.threshold)
            visit.keep("first", torch.where(changed.reshape(-1, *(1,) * (before.ndim - 1)), first[0], before))
            return changed

        rest = Run(self.chain[1:], visit, decide, "rest")
        return {self.chain[0].name: look, **rest.taps()}


def image(parts: Any) -> Tensor:
    """Return of the streams the image's: the longer one where there are text and image."""
    if not isinstance(parts, tuple):
        return parts
    return max((x for x in parts if x is not None), key=lambda x: x.shape[1])


def relative_change(now: Tensor, before: Tensor) -> Tensor:
    """Return mean |now - before| / mean |before| of each item [n]."""
    axes = tuple(range(1, now.ndim))
    size = before.float().abs().mean(axes)
    change = (now.float() - before.float()).abs().mean(axes)
    return torch.where(size > 0, change / size, torch.inf)


def first_block(denoiser: AbstractDenoiser, threshold: float, *, places: Places | None = None) -> Within:
    """Return the denoiser that computes its first block, and the others only where that one adds something new.

        reuse where  mean |r - r'| < threshold mean |r'|,      r = h_1 - h_0 (the first block's addition),

    r' that of the last evaluation in which the others were computed; then h_1 + d takes their place, d what they added.
    Decided item by item and branch by branch, so a sample does not depend on its batch. threshold 0 is the denoiser,
    bit by bit. Rows with the knob "exact" compute everything. The decision reads a number: on a GPU every evaluation
    waits for it, and a network compiled as a whole breaks there.

    Raises:
        BadType: no chain of blocks was found in the denoiser.
        BadValue: a negative threshold.

    Reference: Cheng, ParaAttention, First Block Cache, 2024 (software).
    """
    return _over_chain(denoiser, threshold, places, lambda chain: FirstBlock(chain, float(threshold)))


def _over_chain(
    denoiser: AbstractDenoiser, threshold: float, places: Places | None, make: Callable[[tuple[Block, ...]], Policy]
) -> Within:
    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    if not threshold >= 0.0 or len(chain) < 2:
        raise BadValue(f"threshold={threshold} over {len(chain)} blocks", "a threshold >= 0, two blocks", "threshold=0.1")
    return within(denoiser, make(chain), places)


@final
@dataclasses.dataclass(frozen=True)
class TeaCache(Policy):
    """All blocks are reused while the modulated input has changed little (see `teacache`)."""

    chain: tuple[Block, ...]
    threshold: float
    coefficients: tuple[float, ...]
    signal: Callable[[Call], Tensor]
    title: ClassVar[str] = "teacache"
    knob: ClassVar[str | None] = EXACT

    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        taps = dict(Run(self.chain, visit, lambda call: self._decide(visit), "all").taps())
        inside = taps[self.chain[0].name]

        def look(call: Call) -> Any:
            now = self.signal(call)
            visit.keep("signal", (now, torch.zeros(visit.n, dtype=torch.float64, device=now.device)))
            return inside(call)

        return taps | {self.chain[0].name: look}

    def _decide(self, visit: Visit) -> Tensor | bool:
        if visit.asked or visit.newest("signal") is None:
            return True
        (now, _), (before, total) = visit.kept("signal"), visit.newest("signal")
        change = relative_change(now, before).double()
        rescaled = torch.zeros_like(change)
        for coefficient in self.coefficients:
            rescaled = rescaled * change + coefficient
        total = total + rescaled
        computed = ~(total < self.threshold)
        visit.keep("signal", (now, torch.where(computed, 0.0, total)))
        return computed


def modulated(call: Call) -> Tensor:
    """Return the input of a transformer's block after its first norm, which holds the noise level; or the input itself."""
    module, norm = call.module, getattr(call.module, "norm1", None)
    parameters = tuple(inspect.signature(type(module).forward).parameters)[1:]
    given = dict(zip(parameters, call.args, strict=False)) | call.kwargs
    hidden = given.get("hidden_states", next(iter(given.values())))
    if norm is None:
        return hidden
    names = inspect.signature(type(norm).forward).parameters
    passed = {name: given[name] for name in names if name in given}
    passed |= {"emb": given["temb"]} if "emb" in names and "temb" in given else {}
    made = norm(hidden, **passed)
    return made[0] if isinstance(made, tuple) else made


def teacache(
    denoiser: AbstractDenoiser,
    threshold: float,
    coefficients: tuple[float, ...] = (1.0, 0.0),
    *,
    signal: Callable[[Call], Tensor] = modulated,
    places: Places | None = None,
) -> Within:
    """Return the denoiser that leaves out all its blocks while its modulated input has changed little in sum.

        total <- total + p(mean |s - s'| / mean |s'|);   reuse while total < threshold, else compute and total <- 0,

    s the first block's input after its norm, which the noise level modulates, s' that of the evaluation before, and p the
    polynomial of `coefficients` (highest power first) that makes of a change of the input one of the output: fit it to
    the model at hand, published ones do not travel. Decided item by item; threshold 0 is the denoiser, bit by bit. Rows
    with the knob "exact" compute everything; the authors ask so for the last one. On a GPU it waits for the decision.

    Args:
        signal: what to look at, from the first block's call.

    Raises:
        BadType: no chain of blocks was found in the denoiser.
        BadValue: a negative threshold.

    Reference: Liu et al., 2024, arXiv 2411.19108.
    """
    settings = tuple(map(float, coefficients))
    return _over_chain(denoiser, threshold, places, lambda chain: TeaCache(chain, float(threshold), settings, signal))
