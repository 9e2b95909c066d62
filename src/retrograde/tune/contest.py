"""The best published solver for one model and budget, found by a race over recipes and grids."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
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

USUAL_RECIPES = ("ddim", "dpmpp_2m", "dpmpp_3m", "unipc_2", "unipc_3", "ipndm_2", "ipndm_4", "deis_tab2", "heun")
"""Recipes that win somewhere; the short list of a quick race."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A published solver with its error: root mean square, and median over items, per element of the sample."""

    recipe: str
    grid: str
    nfe: int
    error: float
    median: float
    items: int


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Noise items with the end points that a fine solver reaches from them."""

    denoiser: AbstractDenoiser
    items: Sequence[int]
    seed: int
    end: Tensor
    condition: Any = None

    def part(self, n: int) -> Reference:
        """Return the first n items."""
        condition = {k: v[:n] for k, v in self.condition.items()} if self.condition else self.condition
        return dataclasses.replace(self, items=self.items[:n], end=self.end[:n], condition=condition)

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
    denoiser: AbstractDenoiser, nfe: int, names: Iterable[str] | None = None, on: Iterable[str] | None = None
) -> Iterator[tuple[str, str, Plan]]:
    """Yield (recipe, grid, plan) for all deterministic recipes and grids that fit; equal tables once.

    Combinations that a path or a discrete network does not allow are left out.
    """
    seen: list[Plan] = []
    for name in recipes.names() if names is None else names:
        if recipes.get(name).stochastic:
            continue
        for grid in grids.names() if on is None else on:
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
) -> list[Entry]:
    """Return all entries by rising error; the best of a first heat on few items run again on all of them.

    `told` is called before every run with the part done; what it raises stops the race, and the journal keeps, as `name`,
    the entries that came in.
    """
    kept = Journal() if journal is None else journal

    def enter(recipe: str, grid: str, plan: Plan, reference: Reference) -> Entry:
        key = f"{name} {recipe} {grid} {len(reference.items)}"
        return Entry(**kept.value(key, lambda: dataclasses.asdict(_enter(recipe, grid, plan, reference))))

    heat, full = reference.part(first_heat), len(reference.items)
    entrants = list(plans(reference.denoiser, nfe, names))
    final = min(finalists, len(entrants)) if full > first_heat else 0
    entries: list[tuple[Entry, Plan]] = []
    best: list[Entry] = []

    def tell() -> None:
        if told is not None:
            told((len(entries) + len(best)) / (len(entrants) + final))

    for recipe, grid, plan in entrants:
        tell()
        entries.append((enter(recipe, grid, plan, heat), plan))
    entries.sort(key=lambda pair: pair[0].error)
    for entry, plan in entries[:final]:
        tell()
        best.append(enter(entry.recipe, entry.grid, plan, reference))
    rest = [e for e, _ in entries[len(best) :]]
    return [*sorted(best, key=lambda e: e.error), *rest]


def _enter(name: str, grid: str, plan: Plan, reference: Reference) -> Entry:
    try:
        errors = reference.errors(plan).double()
    except NonFinite:
        errors = torch.full((1,), torch.inf, dtype=torch.float64)
    return Entry(name, grid, plan.nfe, float(errors.mean().sqrt()), float(errors.sqrt().median()), len(reference.items))
