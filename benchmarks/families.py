"""What each family of tables is worth: the same levels and trajectories, rows with ever more freedom.

The levels are those that the search of effort "minutes" finds for scalar coefficients; every family is fitted on them to the
same 512 trajectories, and measured on 512 others by distance to the end points of the fine solver. Writes
benchmarks/results/families.json, a row at a time.

    python benchmarks/families.py [MODEL ...] [--budgets 3 5]

The names of models are those of judged.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from judged import labels, load
from tuned_plans import told

import retrograde as rg
from retrograde.plan import Row
from retrograde.plan_file import write_atomically
from retrograde.quality import paired_error
from retrograde.tune import EFFORTS
from retrograde.tune.fit import Fitter
from retrograde.tune.levels import Levels
from retrograde.tune.tuner import Job

RESULTS = Path(__file__).parent / "results" / "families.json"
FIT, VALIDATION, HELD_OUT = 512, 128, 512
SHIFTS = (-0.4, -0.2, 0.0, 0.2, 0.4)

Fit = Callable[[Fitter, Levels], tuple[Row, ...]]


def free(**family: Any) -> Fit:
    """Return the fit of a family that is named by fields of the fitter."""
    return lambda fitter, levels: dataclasses.replace(fitter, **family).run(levels)[1].rows


def freer_last(fitter: Fitter, levels: Levels) -> tuple[Row, ...]:
    """Return a fit whose last row alone has a coefficient for each element."""
    asked, _ = fitter.run(levels)
    ending = dataclasses.replace(fitter, element=0.003)
    return ending.step(asked[-1], levels[-1], None, fitter.theory(levels)[-1]).rows


FAMILIES: dict[str, Fit] = {
    "levels alone, coefficients of theory": free(ridge=1e12),
    "newest prediction": free(memory=1),
    "two predictions": free(memory=2),
    "four predictions": free(),
    "eight predictions": free(memory=8),
    "and an earlier state": free(past=1),
    "and three earlier states": free(past=3),
    "in two bands of frequency": free(bands=2),
    "in three bands of frequency": free(bands=3),
    "in every element, held": free(element=0.3),
    "in every element, freer": free(element=0.003),
    "in every element of the last row": freer_last,
    "told times": lambda fitter, levels: fitter.run_told(levels, SHIFTS).rows,
    "eight predictions, an earlier state, every element": free(memory=8, past=1, element=0.003),
}
"""By what a row has; "and" and "in" are beside four predictions."""


def measured(model: str, nfe: int) -> dict[str, Any]:
    """Return the errors of all families for a model and budget."""
    denoiser, asked = load(model), None
    if labels(model, 1) is not None:
        asked = lambda n, seed: labels(model, n)  # noqa: E731
    effort = dataclasses.replace(EFFORTS["minutes"], fit=FIT, validation=VALIDATION, held_out=HELD_OUT)
    job = Job(denoiser, nfe, 0, effort, asked, told, "cpu")
    prepared = job.conditions()
    teacher = job.trajectories(prepared)
    few = {name: value[:FIT] for name, value in prepared.items()}
    fitter = Fitter(denoiser, teacher.part(slice(0, FIT)), few, samples=job.samples(prepared))
    held_out = job.reference(teacher, prepared, FIT + VALIDATION, teacher.n)
    learned = job.reference(teacher, prepared, 0, FIT)
    levels = job.levels(fitter)[0][0]
    row: dict[str, Any] = {"model": model, "nfe": nfe, "levels": [denoiser.path.sigma(teacher.times[k]) for k in levels]}
    row["families"] = {}
    for name, fit in FAMILIES.items():
        if "bands" in name and len(denoiser.shape) < 2:
            continue
        plan = fitter.plan(fit(fitter, levels), {})
        error = paired_error(held_out.run(plan), held_out.end)
        row["families"][name] = {
            "rms": error.rms.value,
            "interval": error.rms.interval,
            "median": error.median.value,
            "learned_rms": float(learned.errors(plan).mean(dtype=torch.float64).sqrt()),
        }
        print(f"\r{model} {nfe} {name}: {error.rms.value:.4f} (median {error.median.value:.4f})".ljust(100), flush=True)
    return row


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["digits8-flow", "digits8-noise", "digits14", "mixture64"])
    parser.add_argument("--budgets", type=int, nargs="*", default=(3, 5))
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = " ".join(["python", "benchmarks/families.py", *sys.argv[1:]])
    for model in given.models:
        for nfe in given.budgets:
            row = {**measured(model, nfe), "command": command}
            kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
            others = [one for one in kept if (one["model"], one["nfe"]) != (model, nfe)]
            made = {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "retrograde": rg.__version__,
                "items": HELD_OUT,
                "learned": FIT,
                "rows": sorted([*others, row], key=lambda one: (one["model"], one["nfe"])),
            }
            write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
