"""A plan fitted to one network, run on its sibling: error on held-out noise beside the sibling's own fit and the recipes.

The two 8x8 models were trained on the same digits, one as a flow and one to predict noise on a variance preserving path;
each sees the other's plan through `denoisers.on_path`, from the same noise. And within one model: a plan fitted at guidance
weight 2, run at others. The error is the root mean square distance, per element, to the end points of a fine solver.
Writes benchmarks/results/transfer.json, a row at a time; rows that are there are not made again.

    python benchmarks/transfer.py [--budgets 4 6 8] [--items 256]
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch

import retrograde as rg
from retrograde.denoisers import AbstractDenoiser, on_path, prepare_condition
from retrograde.plan_file import write_atomically
from retrograde.quality import paired_error
from retrograde.tune import Reference, race, teach
from retrograde.tune.contest import USUAL_RECIPES

RESULTS = Path(__file__).parent / "results" / "transfer.json"
SIBLINGS = ("digits8-flow", "digits8-noise")
WEIGHTS = (1.0, 1.5, 3.0, 4.0)
FITTED_AT = 2.0
FIRST = 1 << 30
"""Number of the first held-out item."""


def labels(n: int, seed: int) -> list[int]:
    """Return the digits in turn."""
    return [i % 10 for i in range(n)]


@functools.cache
def model(name: str, weight: float | None) -> AbstractDenoiser:
    """Return a model, guided where a weight is given."""
    return rg.load(name) if weight is None else rg.guide.cfg(rg.load(name), weight=weight)


@functools.cache
def fit(name: str, weight: float | None, nfe: int) -> rg.Plan:
    """Return the plan fitted to a model."""
    return rg.tune(model(name, weight), nfe, seed=1, condition=None if weight is None else labels, compare=False)


@functools.cache
def reference(name: str, weight: float | None, items: int) -> Reference:
    """Return held-out noise with the end points of a fine solver."""
    denoiser = model(name, weight)
    condition = prepare_condition(denoiser, None if weight is None else labels(items, 0), items)
    end = teach(denoiser, items, 5, levels=96, keep=(), first_item=FIRST, condition=condition).end
    return Reference(denoiser, range(FIRST, FIRST + items), 5, end, condition)


def row_of(source: tuple[str, float | None], target: tuple[str, float | None], nfe: int, items: int) -> dict[str, Any]:
    """Return the errors at a target: of the plan of a source, of its own, and of the best of the usual recipes."""
    judged, theirs = reference(*target, items), fit(*source, nfe)
    seen = on_path(judged.denoiser, theirs.path)
    start = theirs.path.s(theirs.start or 0.0) * rg.noise.Noise(5, judged.items).prior(seen.shape)
    made = rg.sample(seen, theirs, items, 5, x=start, items=judged.items, condition=judged.condition).flatten(1)
    return {
        "transferred": paired_error(made, judged.end).rms.value,
        "own": paired_error(judged.run(fit(*target, nfe)), judged.end).rms.value,
        "recipe": race(judged, nfe, USUAL_RECIPES)[0].error,
    }


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", type=int, nargs="*", default=[4, 6, 8])
    parser.add_argument("--items", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(1)
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []
    one, other = SIBLINGS
    jobs = [((one, None), (other, None)), ((other, None), (one, None))]
    jobs += [((one, FITTED_AT), (one, weight)) for weight in WEIGHTS]
    for nfe in given.budgets:
        for (source, source_weight), (target, weight) in jobs:
            key = {"source": source, "fitted at": source_weight, "target": target, "weight": weight, "nfe": nfe}
            if any(key.items() <= row.items() for row in kept):
                continue
            found = row_of((source, source_weight), (target, weight), nfe, given.items)
            print(key, {name: f"{value:.4f}" for name, value in found.items()}, flush=True)
            command = " ".join(["python", "benchmarks/transfer.py", *sys.argv[1:]])
            kept.append(key | found | {"items": given.items, "command": command})
            stored = {"python": platform.python_version(), "torch": torch.__version__, "retrograde": rg.__version__}
            write_atomically(RESULTS, (json.dumps(stored | {"rows": kept}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
