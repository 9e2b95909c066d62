"""Fitted plans against every published solver, on held-out noise.

For each model and budget N: the error of the fitted plan (distance to the end points of a fine solver from the same noise,
per element), that of the best recipe over all recipes and grids at 1.7 N (rounded up) and at 2 N evaluations, and of each
the Frechet distance to the data and to samples of the fine solver itself, from other noise. What corrections cost is counted
in evaluations, by multiply-accumulates. Writes benchmarks/results/tuned_plans.json, a row at a time, and prints a table.

    python benchmarks/tuned_plans.py [MODEL ...] [--items 256] [--effort minutes] [--parts fitted rivals] [--heat 24]

The names of models are those of judged.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from judged import features, images, labels, load

import retrograde as rg
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.plan_file import write_atomically
from retrograde.quality import frechet_distance, paired_error
from retrograde.tune import EFFORTS, Reference, race, teach

BUDGETS = (3, 4, 5)
RESULTS = Path(__file__).parent / "results" / "tuned_plans.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One model with the noise its plans are judged on.

    Attributes:
        reference: items with the end points of the fine solver.
        fine: samples of the fine solver from other noise.
    """

    model: str
    denoiser: AbstractDenoiser
    reference: Reference
    fine: torch.Tensor
    samples: int

    @classmethod
    def of(cls, model: str, items: int, samples: int) -> Trial:
        """Return the trial of a model."""
        denoiser = load(model)
        if isinstance(network := getattr(denoiser, "network", None), torch.nn.Module):
            network.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
        condition = prepare_condition(denoiser, labels(model, items), items)
        end = teach(denoiser, items, 5, levels=96, keep=(), condition=condition).end
        told = prepare_condition(denoiser, labels(model, samples), samples)
        fine = teach(denoiser, samples, 78, levels=40, keep=(), condition=told, batch_size=250).end
        shaped = fine.reshape(-1, *denoiser.shape)
        return cls(model, denoiser, Reference(denoiser, range(items), 5, end, condition), shaped, samples)

    def judge(self, plan: rg.Plan) -> dict[str, Any]:
        """Return error and distances of a plan."""
        error = paired_error(self.reference.run(plan), self.reference.end)
        made = rg.sample(
            self.denoiser, plan, n=self.samples, seed=77, batch_size=250, condition=labels(self.model, self.samples)
        )
        return {
            "rms": error.rms.value,
            "interval": error.rms.interval,
            "median": error.median.value,
            "frechet": self.frechet(made),
            "frechet_to_fine": frechet_distance(made, self.fine, features(self.model)).value,
        }

    def frechet(self, samples: torch.Tensor) -> float:
        """Frechet distance of samples to the training data."""
        return frechet_distance(samples, images(self.model), features(self.model)).value

    def fitted(self, nfe: int, given: argparse.Namespace) -> dict[str, Any]:
        """Fit a plan, or take the one that an earlier run left in the folder, and return its figures."""
        seed, effort, plans = given.seed, given.effort, given.plans
        asked = None if labels(self.model, 1) is None else lambda n, seed: labels(self.model, n)
        file = None if plans is None else plans / f"{self.model.replace(':', '-')}-{nfe}-{effort}-{seed}.json"
        if file is not None and file.exists():
            plan = rg.Plan.load(file)
        else:
            options = {"effort": effort, "condition": asked, "compare": False, "trajectories": given.trajectories}
            journal = None if file is None else file.with_suffix(".fit")
            plan = rg.tune(self.denoiser, nfe, seed=seed, journal=journal, progress=told, **options)
            if file is not None:
                plan.save(file)
        spent: dict[str, Any] = {name: plan.report[name] for name in ("seconds", "evaluations", "corrections")}
        preset, own = dataclasses.asdict(EFFORTS[effort]), dict(plan.provenance["effort"])
        spent["effort"] = effort if {**own, "held_out": 0} == {**preset, "held_out": 0} else f"{effort}, other numbers"
        return {"fitted": {**self.judge(plan), **spent}, "fine": {"frechet": self.frechet(self.fine)}}

    def rivals(self, nfe: int, raced: dict[int, dict[str, Any]], heat: int) -> dict[str, Any]:
        """Return the best recipe at 1.7 and at twice the budget; a race is run once for a budget."""
        found = {}
        for name, budget in (("x1.7", math.ceil(1.7 * nfe)), ("x2", 2 * nfe)):
            if budget not in raced:
                best = race(self.reference, budget, first_heat=heat)[0]
                recipe = rg.plan(best.recipe, self.denoiser, nfe=budget, grid=best.grid)
                raced[budget] = {"recipe": best.recipe, "grid": best.grid, "nfe": budget, **self.judge(recipe)}
            found[name] = raced[budget]
        return {**found, "recipes": len(rg.recipes.names())}


def told(stage: str, part: float) -> None:
    """Say on the terminal how far a fit is."""
    print(f"\r{stage} {part:4.0%}".ljust(60), end="", file=sys.stderr, flush=True)


def line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    parts = [f"{row['model']:13s} {row['nfe']}"]
    for name in ("fitted", "x1.7", "x2"):
        if one := row.get(name):
            by = f" {one['recipe']}/{one['grid']}@{one['nfe']}" if name != "fitted" else ""
            figures = f"{one['rms']:.4f} (median {one['median']:.4f}, FD {one['frechet']:.3f}, to the fine solver "
            parts.append(f"{name}{by} {figures}{one['frechet_to_fine']:.3f})")
    return "  ".join(parts)


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["digits8-noise", "digits8-flow", "digits:labels", "digits"])
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--frechet", type=int, default=1000)
    parser.add_argument("--effort", default="minutes")
    parser.add_argument("--budgets", type=int, nargs="*", default=BUDGETS)
    parser.add_argument("--parts", nargs="*", default=["fitted", "rivals"], choices=["fitted", "rivals"])
    parser.add_argument("--heat", type=int, default=24, help="items of a race's first heat, in which all recipes run")
    parser.add_argument("--plans", type=Path, help="a folder to keep the fitted plans in, and to find them again")
    parser.add_argument("--trajectories", type=Path, help="a folder for the trajectories that the budgets have in common")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for model in given.models:
        trial = Trial.of(model, given.items, given.frechet)
        raced: dict[int, dict[str, Any]] = {}
        for nfe in given.budgets:
            row: dict[str, Any] = {"model": model, "nfe": nfe}
            if "fitted" in given.parts:
                row |= trial.fitted(nfe, given)
            if "rivals" in given.parts:
                row |= trial.rivals(nfe, raced, given.heat)
            print(line(row), flush=True)
            keep(row, given)


def keep(row: dict[str, Any], given: argparse.Namespace) -> None:
    """Put a row into the results, in the place of an older one."""
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    same = [one for one in kept if (one["model"], one["nfe"]) == (row["model"], row["nfe"])]
    others = [one for one in kept if one not in same]
    command = " ".join(["python", "benchmarks/tuned_plans.py", *sys.argv[1:]])
    row = {**(same[0] if same else {}), **row, "command": command}
    made = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "retrograde": rg.__version__,
        "items": given.items,
        "frechet_samples": given.frechet,
        "rows": sorted([*others, row], key=lambda one: (one["model"], one["nfe"])),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
