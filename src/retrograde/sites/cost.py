"""What a plan costs on a denoiser, measured: multiply-accumulates and seconds."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, final

from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan
from retrograde.sampling import record
from retrograde.sites.ledger import counted
from retrograde.sites.within import Within, network_of


@final
@dataclasses.dataclass(frozen=True)
class Cost:
    """What one run cost.

    Attributes:
        macs: multiply-accumulates per item.
        spared: multiply-accumulates per item that policies did not compute.
        seconds: seconds of a run of all items, the best of the repeats.
        evaluations: network evaluations per item, by label.
    """

    macs: float
    spared: float
    seconds: float
    evaluations: dict[str, float]


def cost(denoiser: AbstractDenoiser, plan: Plan, n: int = 1, *, repeats: int = 1, **options: Any) -> Cost:
    """Return what sampling n items by a plan costs; it is sampled once counted, and `repeats` times by the clock.

    Args:
        **options: what `retrograde.record` takes.

    Raises:
        BadType: there is no module inside the denoiser to count.
    """
    with counted(_network(denoiser)) as book:
        recorded = record(denoiser, plan, n, **options)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        record(denoiser, plan, n, **options)
        seconds.append(time.perf_counter() - began)
    return Cost(book.total / n, book.saved / n, min(seconds, default=0.0), dict(recorded.ledger.evaluations))


def _network(denoiser: Any) -> Any:
    """Return the module inside a denoiser, seen through guidance too."""
    while hasattr(denoiser, "inner") and not isinstance(denoiser, Within):
        denoiser = denoiser.inner
    return network_of(denoiser)
