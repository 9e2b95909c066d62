"""Fitted plans against every published solver, on held-out noise.

For each model and budget N: the error of the fitted plan (distance to the end points of a fine solver from the same noise,
per element), that of the best recipe over all recipes and grids at 1.7 N (rounded up) and at 2 N evaluations, and the
Frechet distance of both to the data. Writes benchmarks/results/tuned_plans.json and prints a table.

    python benchmarks/tuned_plans.py [MODEL ...] [--items 256] [--effort minutes]

A model's name with ":labels" asks it for the classes 0..9 in turn, without for none (its unconditional branch).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

import retrograde as rg
from retrograde import data, zoo
from retrograde.denoisers import prepare_condition
from retrograde.plan_file import write_atomically
from retrograde.quality import frechet_distance, paired_error
from retrograde.tune import Reference, race, teach

BUDGETS = (3, 4, 5)
RESULTS = Path(__file__).parent / "results" / "tuned_plans.json"


def features(model: str):
    """Classifier features for 28x28 digits, the pixels themselves for 8x8 ones."""
    return zoo.classifier().features if model.split(":")[0] == "digits" else lambda x: x.flatten(1)


def labels(model: str, n: int) -> list[int] | None:
    """Return the classes asked for, or None."""
    return [i % 10 for i in range(n)] if model.endswith(":labels") else None


def frechet(model: str, denoiser, plan, n: int) -> float:
    """Frechet distance of n samples to the training data."""
    images = (data.digits if model.split(":")[0] == "digits" else data.digits8)("train")[0]
    samples = rg.sample(denoiser, plan, n=n, seed=77, batch_size=250, condition=labels(model, n))
    return frechet_distance(samples, images, features(model)).value


def compare(model: str, items: int, effort: str, n_frechet: int, seed: int) -> Iterator[dict]:
    """Yield one row for each budget."""
    denoiser = rg.load(model.split(":")[0])
    condition = prepare_condition(denoiser, labels(model, items), items)
    end = teach(denoiser, items, 5, levels=96, condition=condition).end
    reference = Reference(denoiser, range(items), 5, end, condition)
    for nfe in BUDGETS:
        began = time.perf_counter()
        asked = None if labels(model, 1) is None else lambda n, seed: labels(model, n)
        plan = rg.tune(denoiser, nfe, seed=seed, effort=effort, condition=asked, compare=False)
        seconds = time.perf_counter() - began
        fitted = paired_error(reference.run(plan), reference.end)
        row = {
            "model": model,
            "nfe": nfe,
            "fitted": {"rms": fitted.rms.value, "interval": fitted.rms.interval, "median": fitted.median.value},
            "frechet": frechet(model, denoiser, plan, n_frechet),
            "seconds": seconds,
            "evaluations": plan.report["evaluations"],
        }
        for name, budget in (("same", nfe), ("x1.7", math.ceil(1.7 * nfe)), ("x2", 2 * nfe)):
            best = race(reference, budget, first_heat=24)[0]
            recipe = rg.plan(best.recipe, denoiser, nfe=budget, grid=best.grid)
            error = paired_error(reference.run(recipe), reference.end)
            row[name] = {
                "recipe": best.recipe,
                "grid": best.grid,
                "nfe": budget,
                "rms": error.rms.value,
                "interval": error.rms.interval,
                "median": error.median.value,
                "frechet": frechet(model, denoiser, recipe, n_frechet),
            }
        print(line(row), flush=True)
        yield row


def line(row: dict) -> str:
    """Return a row as text."""
    parts = [f"{row['model']:13s} {row['nfe']}  fitted {figures({**row['fitted'], 'frechet': row['frechet']})}"]
    for name in ("same", "x1.7", "x2"):
        best = row[name]
        parts.append(f"{name} {best['recipe']}/{best['grid']}@{best['nfe']} {figures(best)}")
    return "  ".join(parts)


def figures(entry: dict) -> str:
    """Return error, median and Frechet distance as text."""
    return f"{entry['rms']:.4f} (median {entry['median']:.4f}, FD {entry['frechet']:.3f})"


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["digits8-noise", "digits8-flow", "digits:labels", "digits"])
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--frechet", type=int, default=1000)
    parser.add_argument("--effort", default="minutes")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for model in given.models:
        for row in compare(model, given.items, given.effort, given.frechet, given.seed):
            keep(row, given)


def keep(row: dict, given: argparse.Namespace) -> None:
    """Put a row into the results, in the place of an older one."""
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    others = [one for one in kept if (one["model"], one["nfe"]) != (row["model"], row["nfe"])]
    made = {
        "command": " ".join(["python", "benchmarks/tuned_plans.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "retrograde": rg.__version__,
        "items": given.items,
        "frechet_samples": given.frechet,
        "effort": given.effort,
        "rows": sorted([*others, row], key=lambda one: (one["model"], one["nfe"])),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
