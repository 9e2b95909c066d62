"""The tuner against other people's, on held-out noise: error at equal evaluations, and what each fit cost.

For each model and budget: root mean square and median distance of a plan's samples to the end points of a fine solver from
the same noise, per element; the network evaluations the fit asked for, over all items, teacher included; and its seconds.
The descents (AMED, LD3, S4S, BNS) get `--steps` steps, more evaluations than the tuner; the others what their papers ask.
Writes benchmarks/results/baselines.json, a row at a time, and prints a table.

    python benchmarks/baselines.py [MODEL ...] [--budgets 3 4 5 6 8] [--items 256] [--steps 100] [--only ld3 tune]

"mixture64" is a Gaussian mixture over 500 of the 8x8 digits, on the EDM path.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import torch

import retrograde as rg
from retrograde import data
from retrograde.denoisers import AbstractDenoiser
from retrograde.plan_file import write_atomically
from retrograde.quality import paired_error
from retrograde.tune import Reference, teach

RESULTS = Path(__file__).parent / "results" / "baselines.json"
DESCENTS = ("amed", "ld3", "s4s", "bns")
TUNERS = ("tune", "amed", "auto_diffusion", "bns", "dc_solver", "dmn", "gits", "ld3", "olss", "pas", "s3", "s4s")


def load(model: str) -> AbstractDenoiser:
    """Return an embedded model, or the mixture."""
    if model != "mixture64":
        return rg.load(model)
    return rg.oracles.GaussianMixture(rg.paths.EDM(), data.digits8("train")[0][:500].flatten(1), 0.02)


def fitted(name: str, denoiser: AbstractDenoiser, nfe: int, steps: int) -> rg.Plan:
    """Return the plan of a tuner."""
    if name == "tune":
        return rg.tune(denoiser, nfe, seed=1, compare=False)
    options = {"steps": steps} if name in DESCENTS else {}
    return getattr(rg.baselines, name)(denoiser, nfe, **options)


def row_of(name: str, denoiser: AbstractDenoiser, nfe: int, steps: int, reference: Reference) -> dict[str, Any]:
    """Return the figures of a tuner."""
    began = time.perf_counter()
    plan = fitted(name, denoiser, nfe, steps)
    seconds = time.perf_counter() - began
    controllers = [rg.baselines.Directions()] if name == "pas" else []
    error = paired_error(reference.run(plan, controllers=controllers), reference.end)
    return {
        "rms": error.rms.value,
        "median": error.median.value,
        "asked": plan.nfe,
        "evaluations": plan.report["evaluations"],
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["digits8-flow", "digits8-noise", "mixture64"])
    parser.add_argument("--budgets", type=int, nargs="*", default=[3, 4, 5, 6, 8])
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", nargs="*", default=TUNERS, choices=TUNERS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for model in given.models:
        denoiser = load(model)
        reference = Reference(denoiser, range(given.items), 5, teach(denoiser, given.items, 5, levels=96, keep=()).end)
        for nfe in given.budgets:
            for name in given.only:
                found = row_of(name, denoiser, nfe, given.steps, reference)
                print(f"{model:14s} {nfe} {name:10s} {found}", flush=True)
                keep({"model": model, "nfe": nfe, "tuner": name, **found}, given.items)


def keep(row: dict[str, Any], items: int) -> None:
    """Put a row into the results, in the place of an older one."""
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    key = ("model", "nfe", "tuner")
    others = [one for one in kept if [one[k] for k in key] != [row[k] for k in key]]
    row = {**row, "command": " ".join(["python", "benchmarks/baselines.py", *sys.argv[1:]])}
    made = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "retrograde": rg.__version__,
        "items": items,
        "rows": sorted([*others, row], key=lambda one: tuple(one[k] for k in key)),
    }
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
