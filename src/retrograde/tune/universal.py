"""One fit for many budgets and guidance weights: tables that need no refit when either changes."""

from __future__ import annotations

import dataclasses
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
from retrograde.tune.contest import USUAL_RECIPES
from retrograde.tune.effort import Effort
from retrograde.tune.shared_levels import Part, Together
from retrograde.tune.teacher import Progress
from retrograde.tune.tuner import Job, check_fittable

SHARED = Effort(160, 32, 0, 64, 40, 24, 2, 20, 256, USUAL_RECIPES)
"""What a universal fit does at each guidance weight: as much as `tune` does in seconds, but for fewer trials of levels."""

_INDEX = "universal.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Universal:
    """Fitted tables of one denoiser for every budget, at a few guidance weights, and in between by interpolation.

    Attributes:
        weights: the guidance weights that were fitted, rising; one that means nothing for a denoiser without guidance.
        tables: for each budget one plan per weight; those of a budget share their levels, so that coefficients may be
            interpolated.
        report: what the fit cost, and its errors on items it did not learn from.
    """

    weights: tuple[float, ...]
    tables: Mapping[int, tuple[Plan, ...]]
    report: Mapping[str, Any]

    def plan(self, nfe: int, weight: float | None = None) -> Plan:
        """Return the plan of `nfe` evaluations for a guidance weight, coefficients linear between the fitted weights.

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
        above = next(j for j, w in enumerate(self.weights) if weight <= w)
        if self.weights[above] == weight:
            return self.tables[nfe][above]
        low, high = self.weights[above - 1], self.weights[above]
        made = blend(self.tables[nfe][above - 1], self.tables[nfe][above], (weight - low) / (high - low))
        return dataclasses.replace(made, provenance={**made.provenance, "weight": weight})

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the tables as plans into a folder, and last what says which is which."""
        folder = File(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for nfe, row in self.tables.items():
            for j, plan in enumerate(row):
                plan.save(folder / f"{nfe}-{j}.json")
        index = {"version": 1, "weights": self.weights, "budgets": list(self.tables), "report": self.report}
        write_atomically(folder / _INDEX, (json.dumps(index, indent=1) + "\n").encode())

    @classmethod
    def load(cls, folder: str | PathLike[str]) -> Universal:
        """Read what `save` wrote.

        Raises:
            BadValue: the folder holds no such tables.
        """
        file = File(folder) / _INDEX
        if not file.is_file():
            raise BadValue(f"the folder {str(folder)!r}", f"one that holds {_INDEX}", "universal(...).save(folder)")
        index = json.loads(file.read_text())
        count = range(len(index["weights"]))
        tables = {nfe: tuple(Plan.load(File(folder) / f"{nfe}-{j}.json") for j in count) for nfe in index["budgets"]}
        return cls(tuple(index["weights"]), tables, index["report"])


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

    A budget's levels are searched for all weights together: those with the least geometric mean of their errors. On common
    levels the coefficients vary smoothly with the weight, and are interpolated.

    Args:
        budgets: network evaluations per item, as `Plan.nfe` counts them.
        guided: makes the guided denoiser of a weight, `rg.guide.cfg` for instance; None for a denoiser as it is.
        weights: the weights to fit, where `guided` is given; between them tables are interpolated.
        compare: measure published solvers too; where one is better on the validation items, its plan is the table.
        effort: numbers of items, levels and trials, for each weight; `corrected` and what follows it is not used.
        condition, seed, progress, device, journal: as in `tune`.

    Raises:
        BadValue: no weight or no budget, one below 1 or above the levels of the reference.
        BadType: no denoiser, or one of an anchored path.

    Reference: the closed form is that of `tune`. That one fit per guidance weight and budget is a burden is said of bespoke
    solvers (Shaul et al., 2024, arXiv 2403.01329).
    """
    check_fittable(denoiser)
    wanted, tell = sorted(set(budgets)), progress or (lambda stage, part: None)
    at = tuple(sorted(set(map(float, weights)))) if guided is not None else (1.0,)
    if not at:
        raise BadValue("weights=()", "one guidance weight or more", "weights=(1.0, 2.0, 4.0, 8.0)")
    if not wanted or wanted[0] < 1 or wanted[-1] > effort.levels:
        raise BadValue(f"budgets={wanted}", f"whole numbers from 1 to {effort.levels}", "budgets=range(3, 17)")
    parts = []
    for j, weight in enumerate(at):
        tell("guidance weights", j / len(at))
        one = denoiser if guided is None else guided(denoiser, weight)
        job = Job(one, wanted[-1], seed, effort, condition, tell, device)
        prepared = job.conditions()
        if journal is not None:
            job = dataclasses.replace(job, journal=job.opened(journal, prepared, wanted, at, weight, compare))
        parts.append(Part.of(job, prepared))
    together, fits, evaluations = Together(parts), {}, sum(part.evaluations for part in parts)
    for i, nfe in enumerate(wanted):
        tell("budgets", i / len(wanted))
        fits[nfe], spent = together.fit(nfe, compare)
        evaluations += spent
    report = {
        "evaluations": evaluations,
        "seconds": round(max(part.job.journal.seconds for part in parts), 3),
        "validation_error": {str(nfe): [error for _, error in fit] for nfe, fit in fits.items()},
        "recipes": {str(nfe): fit[0][0].recipe for nfe, fit in fits.items()},
    }
    for part in parts:
        part.job.journal.done()
    tell("done", 1.0)
    return Universal(at, {nfe: tuple(plan for plan, _ in fit) for nfe, fit in fits.items()}, report)
