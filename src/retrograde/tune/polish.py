"""Descends on a plan's numbers through the whole run, for any differentiable loss.

The closed form of `tune` fits a row at a time to states of a fine solver. What a user looks at is the end: features of it,
or the law of many. A plan is a table of numbers and a run is differentiable in them, so any plan, fitted or published, can
be polished for such an end.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast, final

import torch
from torch import Tensor

from retrograde import laws
from retrograde.denoisers import prepare_condition
from retrograde.denoisers.denoiser import AbstractDenoiser, checked_denoiser
from retrograde.errors import BadValue
from retrograde.plan import Plan, Row
from retrograde.run import NonFinite
from retrograde.sampling import steps as steps_of
from retrograde.tune.teacher import Progress, teach
from retrograde.tune.tuner import ITEMS

Loss = Callable[[Tensor, Tensor], Tensor]
"""From samples and what a fine solver makes of the same noise, each [n, *shape], to a number that should be small."""

RATES: Mapping[str, float] = {"coefficients": 2e-3, "elements": 2e-4, "corrections": 1e-4}
"""Step sizes of Adam for coefficients that are numbers, for those of each element, and for weights of corrections."""


def distance(made: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance of each sample to its goal: the loss of `tune` itself."""
    return (made - goal).square().mean()


@final
@dataclasses.dataclass(frozen=True)
class Features:
    """Mean squared distance of features, and `pixels` times that of the samples themselves.

    Args:
        features: any differentiable function from samples [n, *shape] to [n, k]; a classifier's last layer, for instance.
    """

    features: Callable[[Tensor], Tensor]
    pixels: float = 0.0

    def __call__(self, made: Tensor, goal: Tensor) -> Tensor:
        """Return the loss."""
        with torch.no_grad():
            there = self.features(goal)
        loss = (self.features(made) - there).square().mean()
        return loss + self.pixels * distance(made, goal) if self.pixels else loss


@final
@dataclasses.dataclass(frozen=True)
class Sliced:
    """Squared sliced Wasserstein distance of the two sets: only the law of the samples counts, not which noise made which.

    W^2 = mean over random directions u of the mean squared distance of the sorted projections on u.

    Reference: Bonneel, Rabin, Peyre, Pfister, 2015, "Sliced and Radon Wasserstein Barycenters of Measures".
    """

    directions: int = 128
    features: Callable[[Tensor], Tensor] | None = None
    seed: int = 0

    def __call__(self, made: Tensor, goal: Tensor) -> Tensor:
        """Return the loss."""
        made, goal = (z if self.features is None else self.features(z) for z in (made, goal))
        made, goal = made.flatten(1), goal.flatten(1)
        generator = torch.Generator().manual_seed(self.seed)
        along = torch.randn(made.shape[1], self.directions, generator=generator).to(made)
        along = along / along.norm(dim=0)
        return ((made @ along).sort(0).values - (goal @ along).sort(0).values).square().mean()


def polish(
    denoiser: AbstractDenoiser,
    plan: Plan,
    loss: Loss = distance,
    *,
    steps: int = 100,
    batch: int = 32,
    items: int = 512,
    validation: int = 128,
    look: int = 10,
    rates: Mapping[str, float] = RATES,
    levels: int = 64,
    seed: int = 0,
    condition: Any = None,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """Return the plan with its numbers moved to lessen a loss at the end of its run; never worse on validation.

    Adam on all coefficients, shifts and corrections together, the gradient through every evaluation of the network, which is
    recomputed in the backward pass: memory of one evaluation. Noise levels and what the network is told of them stay.

    Args:
        loss: `distance`, `Features(f)`, `Sliced()`, or any differentiable function of samples and goals.
        steps, batch: how many steps of descent, on how many items each; a loss of laws wants a large batch.
        items, validation: goals to learn from, and to choose on.
        look: validate after so many steps; the best is kept.
        rates: step sizes; a part that is left out stays as it is.
        levels: of the fine solver that makes the goals.
        condition: as in `tune`.

    Returns:
        A plan whose report holds "loss" before and after on validation, "evaluations" over all items (one of the backward
        pass, which recomputes, counts as three) and "seconds".

    Raises:
        BadValue: nothing to descend on, or numbers of items or steps below one.
        UnknownName: see `prepare_condition`.

    Reference: descents on tables by back-propagation are LD3 (arXiv 2405.15506), S4S (2502.17423) and bespoke solvers
    (2403.01329); that losses of features tell more than distances at few evaluations is said of S4S and GS (2510.17699).
    """
    checked_denoiser(denoiser)
    for name, value in (("steps", steps), ("batch", batch), ("items", items), ("validation", validation), ("look", look)):
        if value < 1:
            raise BadValue(f"{name}={value}", f"{name} >= 1", f"{name}=32")
    if unknown := set(rates) - set(RATES):
        raise BadValue(f"rates for {sorted(unknown)}", f"rates for some of {sorted(RATES)}", f"rates={dict(RATES)}")
    began, tell = time.perf_counter(), progress or (lambda stage, part: None)
    given = condition(items + validation, seed) if callable(condition) else condition
    prepared = prepare_condition(denoiser, given, items + validation, device)
    told = {"condition": prepared, "first_item": 5 * ITEMS, "progress": tell, "device": device}
    teacher = teach(denoiser, items + validation, seed, levels=levels, keep=(), **told)
    goals = teacher.end.reshape(-1, *denoiser.shape)
    loose, leaves = loosened(plan, rates)
    if not leaves:
        raise BadValue(f"rates={dict(rates)} for {plan.recipe}", "a plan with numbers of those kinds", "rates=RATES")

    def made(places: Sequence[int], gradient: Any) -> Tensor:
        part = torch.as_tensor(places, device=goals.device)
        told = {name: value[part] for name, value in prepared.items()}
        numbers = [5 * ITEMS + k for k in places]
        run = steps_of(loose, denoiser, len(places), seed, condition=told, items=numbers, gradient=gradient, device=device)
        *_, last = run
        return last.x_t

    def judged() -> float:
        with torch.no_grad():
            held = range(items, items + validation)
            parts = torch.cat([made(held[low : low + 128], "none") for low in range(0, validation, 128)])
            return float(loss(parts, goals[items:]))

    optimizer = torch.optim.Adam([{"params": kept, "lr": rates[kind]} for kind, kept in leaves.items()])
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    every = [leaf for kept in leaves.values() for leaf in kept]
    first = least = judged()
    best = [leaf.detach().clone() for leaf in every]
    done = 0
    for k, places in zip(range(steps), _batches(items, min(batch, items), seed), strict=False):
        tell("polish", k / steps)
        try:
            value = loss(made(places, "checkpoint"), goals[places])
        except NonFinite:
            break  # it went too far: the best so far stays
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        decay.step()
        done += 1
        if done % look == 0 or done == steps:
            error = _safely(judged)
            if error < least:
                least, best = error, [leaf.detach().clone() for leaf in every]
    with torch.no_grad():
        for leaf, value in zip(every, best, strict=True):
            leaf.copy_(value)
    tell("polish", 1.0)
    looks = 1 + done // look
    spent = teacher.evaluations * teacher.n + plan.nfe * (3 * done * min(batch, items) + looks * validation)
    report = {"loss": {"before": first, "after": least}, "evaluations": spent}
    report |= {"seconds": round(time.perf_counter() - began, 3)}
    provenance = {**plan.provenance, "polished": {"steps": done, "batch": batch, "items": items, "seed": seed}}
    return dataclasses.replace(tightened(loose, plan), report=report, provenance=provenance)


def loosened(plan: Plan, rates: Mapping[str, float]) -> tuple[Plan, dict[str, list[Tensor]]]:
    """Return the plan with tensors to descend on in the place of its numbers, and those tensors by kind."""
    leaves: dict[str, list[Tensor]] = {}

    def leaf(kind: str, value: Tensor) -> Tensor:
        if kind not in rates:
            return value
        made = value.detach().clone().requires_grad_()
        leaves.setdefault(kind, []).append(made)
        return made

    def coefficient(value: Any) -> Any:
        if isinstance(value, Tensor):
            return leaf("elements" if value.ndim else "coefficients", value)
        # a coefficient of zero is one that the solver does not use
        used = isinstance(value, float) and value != 0.0
        return leaf("coefficients", torch.tensor(value, dtype=torch.float64)) if used else value

    def row_of(row: Row) -> Row:
        parts: dict[str, Any] = {name: tuple(map(coefficient, getattr(row, name))) for name in ("states", "outputs")}
        if row.shift is not None and row.time is not None:
            parts["shift"] = leaf("elements", row.shift)
        if row.correction is not None:
            weights = {name: leaf("corrections", value) for name, value in row.correction.weights.items()}
            parts["correction"] = dataclasses.replace(row.correction, weights=weights)
        return dataclasses.replace(row, **parts)

    misses = tuple(dict.fromkeys((*plan.misses, laws.POINT_MASS)))
    return dataclasses.replace(plan, rows=tuple(map(row_of, plan.rows)), misses=misses), leaves


def tightened(loose: Plan, like: Plan) -> Plan:
    """Return a loosened plan with numbers where there were numbers."""

    def settled(value: Any, before: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.item() if isinstance(before, float) else value.detach()

    rows = []
    for row, before in zip(loose.rows, like.rows, strict=True):
        parts: dict[str, Any] = {
            name: tuple(map(settled, getattr(row, name), getattr(before, name))) for name in ("states", "outputs")
        }
        if row.shift is not None:
            parts["shift"] = row.shift.detach()
        if row.correction is not None:
            weights = {name: value.detach() for name, value in row.correction.weights.items()}
            parts["correction"] = dataclasses.replace(row.correction, weights=weights)
        rows.append(dataclasses.replace(row, **parts))
    return dataclasses.replace(loose, rows=tuple(rows))


def _batches(n: int, size: int, seed: int) -> Iterator[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for part in torch.randperm(n, generator=generator).split(size):
            if len(part) == size:
                yield cast(list[int], part.tolist())


def _safely(judged: Callable[[], float]) -> float:
    try:
        return judged()
    except NonFinite:
        return math.inf
