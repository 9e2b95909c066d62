"""What a job does: samples plans row by row, compares them, judges them by a reference; or fits a plan."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import torch
from torch import Tensor

import retrograde as rg
from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan
from retrograde.quality import paired_error
from retrograde.run import State
from retrograde.studio import shown, strip
from retrograde.studio.desk import Job
from retrograde.studio.request import Batch, Run, Tune
from retrograde.studio.shelf import Shelf, fine


@dataclasses.dataclass(frozen=True, eq=False)
class Drawn:
    """The samples of one plan, and the data means on the way."""

    batch: Batch
    plan: Plan
    samples: Tensor
    means: tuple[Tensor, ...]


Kept = dict[int, Drawn]
"""What a page shows at the moment, by side: a side whose plan did not change is not drawn again."""


def run(job: Job, shelf: Shelf, asks: Run, kept: Kept) -> None:
    """Sample the plans of a request, one after the other on the same noise, and tell every row; then judge them.

    Raises:
        RetrogradeError: a request that cannot be met; before any sampling where it can be known.
    """
    batch = asks.batch
    denoiser, condition = shelf.denoiser(batch), shelf.condition(batch)
    plans = [shelf.plan(sampler, denoiser) for sampler in asks.samplers]
    for side in [side for side in kept if side >= len(plans)]:
        del kept[side]
    for side, plan in enumerate(plans):
        old = kept.get(side)
        again = old is not None and old.batch == batch and old.plan == plan
        job.tell({"event": "plan", "side": side, "again": again, "plan": shown.plan(plan, denoiser)})
    for side, plan in enumerate(plans):
        old = kept.get(side)
        if old is None or old.batch != batch or old.plan != plan:
            kept.pop(side, None)  # what was shown is gone from the page already
            kept[side] = _draw(job, side, batch, plan, denoiser, condition)
    if len(plans) == 2:
        job.tell({"event": "difference", **_apart(kept[0].samples, kept[1].samples)})
    judged = [side for side, plan in enumerate(plans) if not plan.stochastic]
    if asks.reference and judged:
        truth = shelf.reference(batch, lambda: _fine(job, batch, denoiser, condition))
        for side in judged:
            job.tell({"event": "judged", "side": side, **_errors(kept[side], truth)})


def _draw(job: Job, side: int, batch: Batch, plan: Plan, denoiser: AbstractDenoiser, condition: Any) -> Drawn:
    began = time.perf_counter()
    means: list[Tensor] = []
    state: State | None = None
    for state in rg.steps(plan, denoiser, batch.n, batch.seed, condition=condition):
        means.append(state.mean if state.t is not None else state.x_t)  # a fitted plan's end is more than its data mean
        job.tell(
            {
                "event": "row",
                "side": side,
                "row": state.index,
                "of": len(plan),
                "evaluations": state.ledger.nfe,
                "mean": strip.mean(means[-1]),
                "state": strip.state(state.x_t, plan.path, state.t),
            }
        )
    if state is None:
        raise RuntimeError("a plan without rows was made")
    seconds = time.perf_counter() - began
    job.tell({"event": "sampled", "side": side, "seconds": seconds, "evaluations": state.ledger.nfe})
    return Drawn(batch, plan, state.x_t, tuple(means))


def _fine(job: Job, batch: Batch, denoiser: AbstractDenoiser, condition: Any) -> Tensor:
    plan = fine(denoiser)
    last: State | None = None
    for last in rg.steps(plan, denoiser, batch.n, batch.seed, condition=condition):
        job.progress("reference", (last.index + 1) / len(plan))
    if last is None:
        raise RuntimeError("a plan without rows was made")
    return last.x_t


def _apart(a: Tensor, b: Tensor) -> dict[str, Any]:
    picture, scale = strip.difference(a, b)
    return {"picture": picture, "scale": scale, **_figures(a, b)}


def _figures(a: Tensor, b: Tensor) -> dict[str, Any]:
    found = paired_error(a, b)
    return {"rms": found.rms.value, "median": found.median.value, "items": found.per_item.tolist()}


def _errors(drawn: Drawn, truth: Tensor) -> dict[str, Any]:
    means = [float((mean.double() - truth.double()).square().mean().sqrt()) for mean in drawn.means]
    return {**_figures(drawn.samples, truth), "rows": means}


def tune(job: Job, shelf: Shelf, asks: Tune) -> None:
    """Fit a plan, keep it on the shelf and tell its key and its held-out figures.

    Raises:
        RetrogradeError: what `rg.tune` raises, and an effort it does not know.
    """
    batch = asks.batch
    denoiser = shelf.denoiser(batch)
    shelf.condition(batch)  # raises for a class the network does not have, before minutes are spent

    def given(n: int, seed: int) -> Any:
        return shelf.condition(batch, n)

    plan = rg.tune(
        denoiser, nfe=asks.nfe, seed=batch.seed, effort=asks.effort, condition=given, compare=True, progress=job.progress
    )
    job.check()
    key = shelf.keep(f"{batch.model}, fitted at {plan.nfe}", plan)
    job.tell({"event": "fitted", "key": key, "nfe": plan.nfe, "report": shown.report(plan)})


def warm(shelf: Shelf) -> None:
    """Load the first model and ask it once, so that the first batch of a page does not wait for it."""
    denoiser = shelf.model(shelf.models[0])
    with torch.no_grad():
        denoiser(torch.zeros(1, *denoiser.shape), denoiser.path.t_max)
