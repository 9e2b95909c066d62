"""Choosing what to reuse, and where, by profiling one run in which everything is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde import systems
from retrograde.accelerate.runs import added
from retrograde.accelerate.schedule import reuse
from retrograde.accelerate.thresholds import image, relative_change
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.sampling import sample
from retrograde.sites import Block, Call, Places, opened, places_of

systems.register(
    systems.System(
        title="MagCache: Fast Video Generation with Magnitude-Aware Cache",
        authors=("Zehong Ma", "Longhui Wei", "Feng Wang", "Shiliang Zhang", "Qi Tian"),
        year=2025,
        arxiv="2506.09045",
        home="accelerate",
        call="rg.accelerate.magcache(plan, rg.accelerate.magnitudes(denoiser, plan))",
        test="tests/accelerate/test_profiled.py::test_magnitudes_that_do_not_change_are_reused_as_often_as_allowed",
    )
)


@contextlib.contextmanager
def _additions(places: Places, firsts: Sequence[Block], lasts: Sequence[Block]) -> Iterator[list[list[Tensor]]]:
    """Watch what runs of blocks add to the features, evaluation by evaluation: one list for each run."""
    seen: list[list[Tensor]] = [[] for _ in firsts]
    begun: dict[int, Any] = {}

    def tap(call: Call) -> Any:
        for k, block in enumerate(firsts):
            if block.name == call.site:
                begun[k] = block.bypass(call)
        made = call.compute()
        for k, block in enumerate(lasts):
            if block.name == call.site:
                seen[k].append(image(added(made, begun.pop(k))))
        return made

    with opened(places.network, dict.fromkeys([block.name for block in (*firsts, *lasts)], tap)):
        yield seen


def steadiest(
    denoiser: AbstractDenoiser, plan: Plan, count: int, n: int = 4, *, places: Places | None = None, **options: Any
) -> tuple[int, ...]:
    """Return the numbers of the `count` blocks whose addition, held over from the evaluation before, errs least.

    Measured in one run of the plan: the error of block k is mean |d - d'|, of the difference between what it adds now and
    what it added before, summed over the run. The authors rank video blocks by attention to foreground and background,
    with lists per model; what they want of the ranking is this error, and it can be measured.

    Args:
        n: items to profile on.
        options: what `retrograde.sample` takes.

    Raises:
        BadType: no chain of blocks was found in the denoiser.
        BadValue: more blocks than there are.

    Reference: Ma et al., 2025, arXiv 2504.03140.
    """
    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    if not 0 <= count <= len(chain):
        raise BadValue(f"{count} of {len(chain)} blocks", f"0..{len(chain)}", f"{len(chain) // 2}")
    with _additions(places, chain, chain) as seen:
        sample(denoiser, plan, n, **options)
    errors = [sum(float((b - a).abs().mean()) for a, b in zip(d, d[1:], strict=False)) for d in seen]
    return tuple(sorted(sorted(range(len(chain)), key=lambda k: errors[k])[:count]))


def magnitudes(
    denoiser: AbstractDenoiser, plan: Plan, n: int = 4, *, places: Places | None = None, **options: Any
) -> tuple[float, ...]:
    """Return for each evaluation of a plan the mean over tokens of |d| / |d'|, d what all blocks together add.

    d' is that of the evaluation before, |d| the norm of a token's features. The first ratio is 1. See `magcache`.

    Raises:
        BadType: no chain of blocks was found in the denoiser.
    """
    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    with _additions(places, chain[:1], chain[-1:]) as seen:
        sample(denoiser, plan, n, **options)
    sizes = [d.norm(dim=-1) for d in seen[0]]
    return (1.0, *(float((b / a).mean()) for a, b in zip(sizes, sizes[1:], strict=False)))


def magcache(plan: Plan, ratios: Sequence[float], threshold: float = 0.06, most: int = 3, retention: float = 0.2) -> Plan:
    """Return the plan that reuses while the magnitude of what the blocks add has drifted little, for `block_cache`.

        product <- product ratio,   error <- error + |1 - product|;   reuse while error < threshold

    and at most `most` evaluations in a row; the first `retention` of them are full. The ratios are the model's, not the
    sample's, so the decision is made before the run and stands in the plan: nothing waits for it. threshold 0 reuses
    nowhere.

    Raises:
        BadValue: another number of ratios than evaluations, or a setting outside its range.

    Reference: Ma et al., 2025, arXiv 2506.09045.
    """
    if len(ratios) != plan.nfe or threshold < 0 or most < 0 or not 0 <= retention <= 1:
        given = f"{len(ratios)} ratios for {plan.nfe} evaluations, threshold={threshold}, most={most}, retention={retention}"
        raise BadValue(given, "a ratio for each, threshold and most >= 0, retention in [0, 1]", "magnitudes(denoiser, plan)")
    full, product, error, streak = [], 1.0, 0.0, 0
    for k, ratio in enumerate(ratios):
        product, streak = product * ratio, streak + 1
        error += abs(1.0 - product)
        if k >= max(1, int(retention * plan.nfe)) and error < threshold and streak <= most:
            continue
        full.append(k)
        product, error, streak = 1.0, 0.0, 0
    return reuse(plan, full)


def fitted_change(
    denoiser: AbstractDenoiser, plan: Plan, degree: int = 1, n: int = 4, *, places: Places | None = None, **options: Any
) -> tuple[float, ...]:
    """Return the polynomial from the change of `teacache`'s signal to that of what the blocks add, highest power first.

    Least squares over the evaluations of one run. Raises BadType where no chain of blocks is found.
    """
    from retrograde.accelerate.thresholds import modulated

    places = places_of(denoiser) if places is None else places
    chain: tuple[Block, ...] = places.need("chain")
    signals: list[Tensor] = []

    def look(call: Call) -> Any:
        signals.append(modulated(call))
        return call.compute()

    with opened(places.network, {chain[0].name: look}), _additions(places, chain[:1], chain[-1:]) as seen:
        sample(denoiser, plan, n, **options)
    x = torch.cat([relative_change(b, a) for a, b in zip(signals, signals[1:], strict=False)]).double()
    y = torch.cat([relative_change(b, a) for a, b in zip(seen[0], seen[0][1:], strict=False)]).double()
    powers = torch.stack([x**k for k in range(degree, -1, -1)], -1)
    return tuple(torch.linalg.lstsq(powers, y[:, None]).solution[:, 0].tolist())
