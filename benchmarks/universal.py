"""One fit for every budget and guidance weight beside a fit for each: error on held-out noise.

A universal fit is made at weights 1, 2, 4 and 8. Then, for each weight and budget, its plan and one that `tune` fits for
exactly that weight and budget run from the same held-out noise; the error is the root mean square distance, per element,
to the end points of a fine solver. Writes benchmarks/results/universal.json, a row at a time. A row that is there keeps what
its own fit reached, and of another universal fit only that fit's plan is run again; an interrupted fit goes on.

    python benchmarks/universal.py [MODEL] [--fitted 3 4 ...] [--budgets 3 4 ...] [--weights 1.5 3 6] [--items 256]

The names of models are those of judged.py.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import torch
from judged import load

import retrograde as rg
from retrograde.denoisers import prepare_condition
from retrograde.plan_file import write_atomically
from retrograde.quality import paired_error
from retrograde.tune import Reference, Universal, teach, universal

RESULTS = Path(__file__).parent / "results" / "universal.json"
BUDGETS = range(3, 17)
FITTED = (1.0, 2.0, 4.0, 8.0)
FIRST = 1 << 30
"""Number of the first held-out item."""


def labels(n: int, seed: int) -> list[int]:
    """Return the digits in turn."""
    return [i % 10 for i in range(n)]


def made(model: str, budgets: list[int], folder: Path) -> Universal:
    """Return the universal fit of a model, made once."""
    place = folder / model
    if not (place / "universal.json").exists():
        tell = lambda stage, part: print(f"{stage} {part:.0%}", end="\r", flush=True)  # noqa: E731
        given = {"guided": rg.guide.cfg, "weights": FITTED, "condition": labels, "progress": tell}
        universal(load(model), budgets, **given, journal=folder / f"{model}.fit").save(place)
    return Universal.load(place)


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="digits8-flow")
    parser.add_argument("--fitted", type=int, nargs="*", default=[*BUDGETS], help="budgets of the universal fit")
    parser.add_argument("--budgets", type=int, nargs="*", default=[*BUDGETS], help="those that are compared")
    parser.add_argument("--weights", type=float, nargs="*", default=[1.5, 3.0, 6.0])
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("runs/universal"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    fit = made(given.model, given.fitted, given.folder)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": [], "fits": {}}
    kept |= {"python": platform.python_version(), "torch": torch.__version__, "retrograde": rg.__version__}
    kept["fits"][given.model] = {"items": given.items, **fit.report}
    command = " ".join(["python", "benchmarks/universal.py", *sys.argv[1:]])
    for weight in given.weights:
        guided, items = rg.guide.cfg(load(given.model), weight=weight), range(FIRST, FIRST + given.items)
        condition = prepare_condition(guided, labels(given.items, 0), given.items)
        place = given.folder / f"{given.model}-{weight:g}-{given.items}.pt"
        if not place.exists():
            end = teach(guided, given.items, 5, levels=96, keep=(), first_item=FIRST, condition=condition).end
            torch.save(end, place)
        end = torch.load(place)
        reference = Reference(guided, items, 5, end, condition)
        for nfe in given.budgets:
            key = {"model": given.model, "weight": weight, "nfe": nfe}
            row = next((row for row in kept["rows"] if key.items() <= row.items()), dict(key))
            if row.get("of") == fit.report["evaluations"]:
                continue
            plans = {"universal": fit.plan(nfe, weight)}
            row |= {"of": fit.report["evaluations"], "command": command}
            if "own" not in row:
                shared = given.folder / f"{given.model}-{weight:g}"
                own = plans["own"] = rg.tune(guided, nfe, seed=1, condition=labels, trajectories=shared)
                learned = own.report["items"]["fit"]
                row |= {"recipe": own.recipe, "evaluations": own.report["evaluations"], "learned from": learned}
            for name, plan in plans.items():
                error = paired_error(reference.run(plan), end)
                row |= {name: error.rms.value, f"{name} median": error.median.value}
            print(f"{row['universal'] / row['own']:.3f} of its own at nfe {nfe}, weight {weight:g}: {row}", flush=True)
            others = [one for one in kept["rows"] if not key.items() <= one.items()]
            kept["rows"] = sorted([*others, row], key=lambda one: (one["model"], one["weight"], one["nfe"]))
            write_atomically(RESULTS, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
