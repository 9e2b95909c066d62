"""What policies would save on a network, before any of them is run."""

from __future__ import annotations

import dataclasses
from typing import Any, final

from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan
from retrograde.sampling import sample
from retrograde.sites import ROOT, counted, find, network_of, timed


@final
@dataclasses.dataclass(frozen=True)
class Saving:
    """What a row that reuses costs under a policy, as part of a full row.

    Attributes:
        policy: how it is made.
        macs: part of the multiply-accumulates that is left.
        seconds: part of the seconds that is left.
    """

    policy: str
    macs: float
    seconds: float

    def run(self, interval: int) -> float:
        """Return the part of a run's multiply-accumulates that is left where every `interval`-th row is full."""
        return (1.0 + (interval - 1) * self.macs) / interval


def savings(denoiser: AbstractDenoiser, plan: Plan, n: int = 1, **options: Any) -> tuple[Saving, ...]:
    """Return for each policy that fits the network what its rows that reuse would cost, cheapest first.

    One evaluation is counted and one is timed, site by site; the parts left out by a policy follow. What this says nothing
    of is the error: measure it against the same recipe in fewer steps.

    Args:
        plan: its first row is run.
        **options: what `retrograde.sample` takes.

    Raises:
        BadType: a network in which no places are found.
    """
    inner: Any = denoiser
    while hasattr(inner, "inner"):
        inner = inner.inner
    places = find(network_of(inner))
    parts: dict[str, tuple[str, ...]] = {}
    if (ladder := places.ladder) is not None:
        parts |= {f"deepcache(branch={b})": ladder.gathered(ladder.below(b)) for b in range(ladder.rungs - 1)}
        parts["encoder_cache()"] = ladder.gathered(ladder.encoder)
    if chain := tuple(block.name for block in places.chain):
        parts |= {"block_cache()": chain, "first_block(threshold)": chain[1:], "teacache(threshold)": chain}
    sites = sorted({site for part in parts.values() for site in part})
    first = next(k for k, row in enumerate(plan.rows) if row.time is not None)
    short = plan[: first + 1]
    with counted(places.network, sites) as counts:
        sample(denoiser, short, n, **options)
    with timed(places.network, sites) as watch:
        sample(denoiser, short, n, **options)
    left = [
        Saving(
            name,
            1.0 - sum(counts.macs[site] for site in part) / counts.total,
            1.0 - sum(watch.seconds[site] for site in part) / watch.seconds[ROOT],
        )
        for name, part in parts.items()
    ]
    return tuple(sorted(left, key=lambda saving: saving.macs))
