"""How many times more evaluations the best of all recipes on all grids needs to come as near as a fitted plan.

For each model and budget N: the error of the fitted plan on held-out noise (root mean square, with its interval, and median
over items), its error on items that it learned from, and its Frechet distances; and the races: at 1, 1.5, 1.7, 2, 2.5, 3
and 3.5 N evaluations all recipes run on all grids from the same noise, from 2 N upwards until one is better, or downwards
until none is. A race is run once for a model and budget and kept, so that better plans cost only their fits. At the budgets
SCREENED all recipes run its first heat; at others those that came within three times the best at a neighbouring one. Writes
benchmarks/results/tuned_twice.json, a row at a time.

    python benchmarks/tuned_twice.py [MODEL ...] [--budgets 3 4 5 6 8] [--effort minutes] [--plans runs/twice] [--refit]

The names of models are those of judged.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch
from judged import labels
from tuned_plans import Trial, told

import retrograde as rg
from retrograde.denoisers import prepare_condition
from retrograde.plan_file import write_atomically
from retrograde.quality import paired_error
from retrograde.run import NonFinite
from retrograde.tune import Reference, teach
from retrograde.tune.contest import plans

RESULTS = Path(__file__).parent / "results" / "tuned_twice.json"
MODELS = ("mixture64", "digits8-noise", "digits8-flow", "digits14", "digits14:guided3")
FACTORS = (1.0, 1.5, 1.7, 2.0, 2.5, 3.0, 3.5)
SCREENED = (6, 10, 16)
CLOSE = 3.0
HEATS = ((8, 60), (48, 3))
"""Items of a heat, and how many of its best go on."""

LEARNED = {True: 3 << 40, False: 1 << 40}
"""Number of the first item that `tune` learns from, with corrections and without."""


@dataclasses.dataclass(eq=False)
class Field:
    """The recipes that race on one model, with what is known of their races so far."""

    trial: Trial
    races: dict[int, dict[str, Any]]
    heats: dict[int, dict[tuple[str, str], float]] = dataclasses.field(default_factory=dict)

    def best(self, budget: int) -> dict[str, Any]:
        """Return the best entry at a budget with its figures, raced once."""
        if budget not in self.races:
            began, first = time.perf_counter(), self.heat(budget)
            entrants = sorted(first, key=lambda one: first[one])[: HEATS[0][1]]
            for items, kept in HEATS[1:]:
                errors = {one: self.error(one, budget, items) for one in entrants}
                entrants = sorted(entrants, key=lambda one: errors[one])[:kept]
            whole = len(self.trial.reference.items)
            recipe, grid = min(entrants, key=lambda one: self.error(one, budget, whole))
            figures = self.trial.judge(rg.plan(recipe, self.trial.denoiser, nfe=budget, grid=grid))
            seconds = round(time.perf_counter() - began, 1)
            self.races[budget] = {"recipe": recipe, "grid": grid, **figures, "entrants": len(first), "seconds": seconds}
        return self.races[budget]

    def heat(self, budget: int) -> dict[tuple[str, str], float]:
        """Return the errors of the first heat: of all, or of those that were near the best at a neighbouring budget."""
        if budget not in self.heats:
            allowed = None
            if budget not in SCREENED:
                below = max((one for one in SCREENED if one < budget), default=SCREENED[0])
                above = min((one for one in SCREENED if one > budget), default=SCREENED[-1])
                near = [self.heat(one) for one in dict.fromkeys((below, above))]
                allowed = {one for heat in near for one, e in heat.items() if e <= CLOSE * min(heat.values())}
            reference = self.trial.reference.part(HEATS[0][0])
            names = None if allowed is None else {recipe for recipe, _ in allowed}
            found = {}
            for recipe, grid, plan in plans(self.trial.denoiser, budget, names):
                if allowed is None or (recipe, grid) in allowed:
                    found[recipe, grid] = error(reference, plan)
            self.heats[budget] = found
        return self.heats[budget]

    def error(self, one: tuple[str, str], budget: int, items: int) -> float:
        """Return the error of an entry on the first items."""
        plan = rg.plan(one[0], self.trial.denoiser, nfe=budget, grid=one[1])
        return error(self.trial.reference.part(items), plan)


def error(reference: Reference, plan: rg.Plan) -> float:
    """Return the root mean square error of a plan, infinite where it leaves the numbers."""
    try:
        return float(reference.errors(plan).mean(dtype=torch.float64).sqrt())
    except NonFinite:
        return math.inf


def fitted(trial: Trial, nfe: int, given: argparse.Namespace) -> dict[str, Any]:
    """Fit a plan, or take the one that an earlier run left, and return its figures."""
    asked = None if labels(trial.model, 1) is None else lambda n, seed: labels(trial.model, n)
    file = given.plans / f"{trial.model.replace(':', '-')}-{nfe}-{given.effort}-{given.seed}.json"
    if file.exists() and not given.refit:
        plan = rg.Plan.load(file)
    else:
        kept = given.plans / "trajectories"
        settings = {"seed": given.seed, "effort": given.effort, "trajectories": kept, "progress": told}
        plan = rg.tune(trial.denoiser, nfe, condition=asked, compare=False, **settings)
        plan.save(file)
    spent = {name: plan.report[name] for name in ("seconds", "evaluations", "corrections", "reference_error")}
    learned = learned_items(trial, given.seed, bool(spent["corrections"]))
    own = paired_error(learned.run(plan), learned.end)
    levels = [trial.denoiser.path.sigma(row.time) for row in plan.rows if row.time is not None]
    on_learned = {"learned_rms": own.rms.value, "learned_median": own.median.value}
    return {**trial.judge(plan), **on_learned, **spent, "levels": levels, "effort": given.effort}


def learned_items(trial: Trial, seed: int, corrected: bool, n: int = 256) -> Reference:
    """Return the first items that `tune` learned from, with the end points of the fine solver."""
    condition = prepare_condition(trial.denoiser, labels(trial.model, n), n)
    first = LEARNED[corrected]
    end = teach(trial.denoiser, n, seed, levels=96, keep=(), first_item=first, condition=condition).end
    return Reference(trial.denoiser, range(first, first + n), seed, end, condition)


def ladder(field: Field, nfe: int, error: float) -> float:
    """Return the largest factor of FACTORS at which the best recipe is no nearer than an error; 0 where none is."""
    reached = 0.0
    middle = FACTORS.index(2.0)
    if field.best(2 * nfe)["rms"] >= error:
        for factor in FACTORS[middle:]:
            if field.best(math.ceil(factor * nfe))["rms"] < error:
                break
            reached = factor
    else:
        for factor in reversed(FACTORS[:middle]):
            if field.best(math.ceil(factor * nfe))["rms"] >= error:
                return factor
    return reached


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--budgets", type=int, nargs="*", default=[3, 4, 5, 6, 8])
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--frechet", type=int, default=1000)
    parser.add_argument("--effort", default="minutes")
    parser.add_argument("--plans", type=Path, default=Path("runs/twice"), help="where fitted plans are kept and found again")
    parser.add_argument("--refit", action="store_true", help="fit again where a plan is there")
    parser.add_argument("--races", type=int, nargs="*", default=[], help="only run the races at these budgets")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.plans.mkdir(parents=True, exist_ok=True)
    for model in given.models:
        trial = Trial.of(model, given.items, given.frechet)
        field = Field(trial, {int(budget): one for budget, one in stored()["races"].get(model, {}).items()})
        for budget in given.races:
            print(model, budget, field.best(budget), flush=True)
            keep(field, [], given)
        for nfe in [] if given.races else given.budgets:
            fit = fitted(trial, nfe, given)
            row = {"model": model, "nfe": nfe, **fit, "fine_frechet": trial.frechet(trial.fine)}
            keep(field, [row], given)
            reached = ladder(field, nfe, fit["rms"])
            keep(field, [row], given)
            print(f"{model} {nfe}: {reached:g} times", {k: v for k, v in row.items() if k not in ("levels",)}, flush=True)


def stored() -> dict[str, Any]:
    """Return what earlier runs left."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"races": {}, "rows": []}


def keep(field: Field, rows: list[dict[str, Any]], given: argparse.Namespace) -> None:
    """Put races and rows into the results, in the place of older ones."""
    kept, command = stored(), " ".join(["python", "benchmarks/tuned_twice.py", *sys.argv[1:]])
    keys = [(row["model"], row["nfe"]) for row in rows]
    others = [one for one in kept["rows"] if (one["model"], one["nfe"]) not in keys]
    rows = sorted([*others, *({**row, "command": command} for row in rows)], key=lambda one: (one["model"], one["nfe"]))
    races = {**kept["races"], field.trial.model: {str(budget): field.races[budget] for budget in sorted(field.races)}}
    made = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "retrograde": rg.__version__,
        "items": given.items,
        "frechet_samples": given.frechet,
        "recipes": len(rg.recipes.names()),
        "races": dict(sorted(races.items())),
        "rows": rows,
    }
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
