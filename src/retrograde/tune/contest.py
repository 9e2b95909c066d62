"""The best published solver for one model and budget, found by a race over recipes and grids."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde import grids, recipes
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import RetrogradeError
from retrograde.plan import Plan
from retrograde.run import Controller, ControllerPerRun, NonFinite
from retrograde.sampling import steps
from retrograde.tune.journal import Journal
from retrograde.tune.remembering import Remembering

QUICK_RECIPES = ("ipndm_2", "dpmpp_2m", "unipc_2", "ipndm_4", "deis_tab2")
"""Those of the usual ones that a race of seconds runs. On three networks and two mixtures, with 3 to 16 evaluations, the
best of them was never more than 4 % behind the best of all usual ones. The first one judges grids best: on a network
and four mixtures, at 3, 5 and 8 evaluations, a race on the five grids that are its best ended no worse than one on all."""

USUAL_RECIPES = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "ipndm_2", "ipndm_4", "deis_tab2", "heun")
"""Recipes that win somewhere; the short list of a quick race."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A published solver with its error: root mean square, and median over items, per element of the sample.

    Attributes:
        evaluations: those that its runs took, over all items; what they shared with earlier runs is not counted.
    """

    recipe: str
    grid: str
    nfe: int
    error: float
    median: float
    items: int
    evaluations: int


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Noise items with the end points that a fine solver reaches from them."""

    denoiser: AbstractDenoiser
    items: Sequence[int]
    seed: int
    end: Tensor
    condition: Any = None

    def part(self, high: int, low: int = 0) -> Reference:
        """Return the items from `low` on that are before `high`."""
        few = slice(low, high)
        condition = {k: v[few] for k, v in self.condition.items()} if self.condition else self.condition
        return dataclasses.replace(self, items=self.items[few], end=self.end[few], condition=condition)

    def run(self, plan: Plan, batch_size: int = 128, controllers: Sequence[Controller | ControllerPerRun] = ()) -> Tensor:
        """Return the samples of a plan from the same noise, [n, d]."""
        made = []
        for low in range(0, len(self.items), batch_size):
            items = self.items[low : low + batch_size]
            condition = {k: v[low : low + batch_size] for k, v in (self.condition or {}).items()}
            last = None
            given = {"items": items, "condition": condition, "device": self.end.device, "controllers": controllers}
            for state in steps(plan, self.denoiser, len(items), self.seed, **given):
                last = state.x_t
            if last is not None:
                made.append(last.flatten(1))
        return torch.cat(made)

    def errors(self, plan: Plan) -> Tensor:
        """Return each item's mean squared distance from its reference end point, [n]."""
        return (self.run(plan) - self.end).pow(2).mean(1)


def plans(
    denoiser: AbstractDenoiser,
    nfe: int,
    names: Iterable[str] | None = None,
    on: Iterable[str] | None = None,
    only: Collection[tuple[str, str]] | None = None,
) -> Iterator[tuple[str, str, Plan]]:
    """Yield (recipe, grid, plan) for all deterministic recipes and grids that fit; equal tables once.

    Combinations that a path or a discrete network does not allow are left out, and with `only` all others than those.
    """
    seen: list[Plan] = []
    for name in recipes.names() if names is None else names:
        if recipes.get(name).stochastic:
            continue
        for grid in grids.names() if on is None else on:
            if only is not None and (name, grid) not in only:
                continue
            try:
                plan = recipes.plan(name, denoiser, nfe=nfe, grid=grid)
            except RetrogradeError:
                continue
            if plan not in seen:
                seen.append(plan)
                yield name, grid, plan


def race(
    reference: Reference,
    nfe: int,
    names: Iterable[str] | None = None,
    first_heat: int = 12,
    finalists: int = 6,
    told: Callable[[float], None] | None = None,
    journal: Journal | None = None,
    name: str = "race",
    between: Sequence[tuple[int, int]] = (),
    only: Collection[tuple[str, str]] | None = None,
    on_best: int | None = None,
) -> list[Entry]:
    """Return all entries by rising error; the best of a first heat on few items run on, on all of them.

    An item is run once: later heats add items to those of earlier ones. What runs have in common is evaluated once.

    Args:
        told: called before every run with the part done; what it raises stops the race, and the journal keeps, as `name`,
            the runs that came in.
        between: further heats between the first and the last: on so many items, for so many of the best.
        only: the recipes with their grids that take part; None for all.
        on_best: other recipes than the first run only on so many grids, on which that one is best in the first heat.
    """
    kept = Journal() if journal is None else journal
    field = list(plans(reference.denoiser, nfe, names, only=only))
    remembering = Remembering(reference.denoiser)
    reference = dataclasses.replace(reference, denoiser=remembering)
    errors: list[list[float]] = [[] for _ in field]
    evaluations = [0] * len(field)
    full, ran, order = len(reference.items), 0, list(range(len(field)))

    def rank(places: Sequence[int], items: int, most: int) -> list[int]:
        nonlocal ran
        for place in places:
            (recipe, grid, plan), low = field[place], len(errors[place])
            if low >= items:
                continue
            if told is not None:
                told(ran / max(most, ran + 1))
            run = functools.partial(_enter, plan, reference.part(items, low), remembering)
            added = kept.value(f"{name} {recipe} {grid} {low} to {items}", run)
            errors[place] += added["errors"]
            evaluations[place] += added["evaluations"]
            ran += 1
        return sorted(places, key=lambda place: sum(errors[place]) / len(errors[place]))

    first = min(first_heat, full)
    if on_best is not None and field:
        scouts = rank([place for place in order if field[place][0] == field[0][0]], first, len(field))
        best = {field[place][1] for place in scouts[:on_best]}
        order = [place for place in order if field[place][1] in best]
    heats = [(first, len(order))]
    for items, count in (*between, (full, finalists)):
        heats += [(min(items, full), min(count, heats[-1][1]))] if items > heats[-1][0] else []
    for items, count in heats:
        order[:count] = rank(order[:count], items, sum(count for _, count in heats))
    order += [place for place in range(len(field)) if errors[place] and place not in order]
    return [_entry(*field[place], errors[place], evaluations[place]) for place in order]


def _enter(plan: Plan, reference: Reference, denoiser: Remembering) -> dict[str, Any]:
    before = denoiser.asked
    try:
        errors = reference.errors(plan).double().tolist()
    except NonFinite:
        errors = [math.inf] * len(reference.items)
    return {"errors": errors, "evaluations": denoiser.asked - before}


def _entry(recipe: str, grid: str, plan: Plan, errors: Sequence[float], evaluations: int) -> Entry:
    all_errors = torch.tensor(errors, dtype=torch.float64)
    rms, median = float(all_errors.mean().sqrt()), float(all_errors.sqrt().median())
    return Entry(recipe, grid, plan.nfe, rms, median, len(errors), evaluations)
