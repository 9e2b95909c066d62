"""One fit for many budgets and guidance weights: tables that need no refit when either changes."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path as File
from typing import Any

import torch

from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.plan_file import write_atomically
from retrograde.tune.blend import blend
from retrograde.tune.contest import QUICK_RECIPES
from retrograde.tune.effort import Effort
from retrograde.tune.shared_levels import Part, Published, Together
from retrograde.tune.teacher import Progress
from retrograde.tune.tuner import Job, check_fittable

SHARED = Effort(
    fit=128,
    validation=32,
    held_out=0,
    search=40,
    levels=40,
    starts=6,
    refined=1,
    candidates=16,
    moments=192,
    contest=QUICK_RECIPES,
    firsts=6,
    gate=1.5,
    heat=3,
    between=((8, 12),),
    elements=(0.3, 0.03),
)
"""What a universal fit does at each guidance weight: what `tune` does in seconds, more items and fewer trials of levels."""

LEAST = 3
"""Levels of the reference for each evaluation of the largest budget, at least."""

_INDEX = "universal.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Universal:
    """Fitted tables of one denoiser for every budget, at a few guidance weights, and in between by interpolation.

    Attributes:
        weights: the guidance weights that were fitted, rising; one that means nothing for a denoiser without guidance.
        tables: for each budget, and between each two neighbouring weights, the plans at both; the two share their levels,
            so that coefficients may be interpolated. A single plan where there is one weight.
        report: what the fit cost, and its errors on items it did not learn from, as the tables are ordered.
    """

    weights: tuple[float, ...]
    tables: Mapping[int, tuple[tuple[Plan, ...], ...]]
    report: Mapping[str, Any]

    def plan(self, nfe: int, weight: float | None = None) -> Plan:
        """Return the plan of `nfe` evaluations for a guidance weight, coefficients linear between the fitted weights.

        At a fitted weight it is the better of those made for what lies below and above.

        Raises:
            BadValue: a budget that was not fitted, a weight outside of the fitted range, or none where there are several.
        """
        if nfe not in self.tables:
            known = sorted(self.tables)
            raise BadValue(f"nfe={nfe}", f"one of the budgets {known}", f"universal(denoiser, budgets=[*{known}, {nfe}])")
        if weight is None and len(self.weights) == 1:
            weight = self.weights[0]
        if weight is None or not self.weights[0] <= weight <= self.weights[-1]:
            low, high = self.weights[0], self.weights[-1]
            raise BadValue(f"weight={weight}", f"{low:g} <= weight <= {high:g}", f"plan({nfe}, weight={high:g})")
        spans = [(j, span) for j, span in enumerate(_spans(self.weights)) if span[0] <= weight <= span[-1]]
        errors, rows = self.report["validation_error"][str(nfe)], self.tables[nfe]
        ends = [(errors[j][k], rows[j][k]) for j, span in spans for k, one in enumerate(span) if one == weight]
        if ends:
            return min(ends, key=lambda end: end[0])[1]
        ((j, (low, high)),) = spans
        made = blend(rows[j][0], rows[j][1], (weight - low) / (high - low))
        return dataclasses.replace(made, provenance={**made.provenance, "weight": weight})

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the tables as plans into a folder, and last what says which is which."""
        folder = File(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for nfe, row in self.tables.items():
            for j, span in enumerate(row):
                for k, plan in enumerate(span):
                    plan.save(folder / f"{nfe}-{j}-{k}.json")
        index = {"version": 2, "weights": self.weights, "budgets": list(self.tables), "report": self.report}
        write_atomically(folder / _INDEX, (json.dumps(index, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Universal:
        """Read what `save` wrote; also the first version, in which all weights of a budget have the same levels.

        Raises:
            BadValue: the folder holds no such tables.
        """
        file = File(folder) / _INDEX
        if not file.is_file():
            raise BadValue(f"the folder {str(folder)!r}", f"one that holds {_INDEX}", "universal(...).save(folder)")
        index = json.loads(file.read_text())
        weights, tables, report = tuple(index["weights"]), {}, dict(index["report"])
        spans, known = list(_spans(weights)), index["version"] > 1
        for nfe in index["budgets"]:
            named = [[f"{nfe}-{j}-{k}" if known else f"{nfe}-{j + k}" for k in range(len(s))] for j, s in enumerate(spans)]
            tables[nfe] = tuple(tuple(Plan.load(File(folder) / f"{name}.json") for name in names) for names in named)
        if not known:
            report["validation_error"] = {nfe: list(_spans(row)) for nfe, row in report["validation_error"].items()}
        return cls(weights, tables, report)


def _spans(row: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the pairs of neighbours in a row, or the only one there is."""
    return list(itertools.pairwise(row)) if len(row) > 1 else [tuple(row)]


def universal(
    denoiser: AbstractDenoiser,
    budgets: Iterable[int] = range(3, 17),
    *,
    guided: Callable[[AbstractDenoiser, float], AbstractDenoiser] | None = None,
    weights: Sequence[float] = (1.0, 2.0, 4.0, 8.0),
    seed: int = 0,
    effort: Effort = SHARED,
    condition: Any = None,
    compare: bool = True,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    journal: str | PathLike[str] | None = None,
) -> Universal:
    """Fit tables for every budget and guidance weight at once, from one set of reference trajectories per fitted weight.

    Between two neighbouring weights a budget's levels are searched for both together: those with the least geometric mean
    of their errors. On common levels the coefficients vary smoothly with the weight, and are interpolated. A search begins
    where the surrogate, the levels of the budget before and those of the weights below lead; the best of these is refined,
    and where budgets were left out also what the surrogate finds.

    Args:
        budgets: network evaluations per item, as `Plan.nfe` counts them.
        guided: makes the guided denoiser of a weight, `rg.guide.cfg` for instance; None for a denoiser as it is.
        weights: the weights to fit, where `guided` is given; between them tables are interpolated.
        compare: measure a published solver too, the best at the middle weight; where it is better on the validation items,
            its plan is the table.
        effort: numbers of items, levels and trials, for each weight; `corrected` and what follows it is not used.
        condition, seed, progress, device, journal: as in `tune`.

    Raises:
        BadValue: no weight or no budget, or one below 1.
        BadType: no denoiser, or one of an anchored path.

    Reference: the closed form is that of `tune`. That one fit per guidance weight and budget is a burden is said of bespoke
    solvers (Shaul et al., 2024, arXiv 2403.01329).
    """
    check_fittable(denoiser)
    wanted, tell = sorted(set(budgets)), progress or (lambda stage, part: None)
    at = tuple(sorted(set(map(float, weights)))) if guided is not None else (1.0,)
    if not at:
        raise BadValue("weights=()", "one guidance weight or more", "weights=(1.0, 2.0, 4.0, 8.0)")
    if not wanted or wanted[0] < 1:
        raise BadValue(f"budgets={wanted}", "whole numbers, 1 or more", "budgets=range(3, 17)")
    effort = dataclasses.replace(effort, levels=max(effort.levels, LEAST * wanted[-1]))
    parts = []
    for j, weight in enumerate(at):
        tell("guidance weights", j / len(at))
        one = denoiser if guided is None else guided(denoiser, weight)
        job = Job(one, wanted[-1], seed, effort, condition, tell, device)
        prepared = job.conditions()
        if journal is not None:
            job = dataclasses.replace(job, journal=job.opened(journal, prepared, wanted, at, weight, compare))
        parts.append(Part.of(job, prepared))
    spans = [Together(span, f"{j}") for j, span in enumerate(_spans(parts))]
    evaluations, fits, near = sum(part.evaluations for part in parts), {}, {span.name: [] for span in spans}
    for i, nfe in enumerate(wanted):
        tell("budgets", i / len(wanted))
        published, below, fits[nfe] = Published(parts, nfe), [], []
        for span in spans:
            rivals = functools.partial(published.of, span.parts) if compare else list
            fit, levels, spent = span.fit(nfe, [*near[span.name], *below], rivals)
            near[span.name], below, evaluations = [levels], [levels], evaluations + spent
            fits[nfe].append(fit)
        evaluations += published.measured[1] if compare else 0
    report = {
        "evaluations": evaluations,
        "seconds": round(max(part.job.journal.seconds for part in parts), 3),
        "validation_error": {str(nfe): [[error for _, error in fit] for fit in row] for nfe, row in fits.items()},
        "recipes": {str(nfe): [fit[0][0].recipe for fit in row] for nfe, row in fits.items()},
    }
    for part in parts:
        part.job.journal.done()
    tell("done", 1.0)
    tables = {nfe: tuple(tuple(plan for plan, _ in fit) for fit in row) for nfe, row in fits.items()}
    return Universal(at, tables, report)
