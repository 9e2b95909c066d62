"""The tuner against other people's at equal evaluations, of the plan and of the fit, on held-out noise.

For each model and budget `tune` goes first, without its races of published solvers. The network evaluations that it asked
for, over all items and reference included, are what every other one may ask for at most: trajectories, steps of descent or
trials are as many as that allows (`dmn` asks for none, whatever it may). Those that begin on a published grid begin on the
one of GRIDS from which they start nearest on other noise; that choice is not counted, nor is that of DESCENTS. A row holds
root mean square and median distance of the plan's samples to the end points of a fine solver from the same noise, per
element, what the fit was given and what it asked for.

Writes benchmarks/results/baselines.json, a row at a time, leaves out rows that are there already with the same settings,
and prints a table.

    python benchmarks/baselines.py [MODEL ...] [--budgets 3 4] [--items 256] [--effort seconds] [--only ld3 olss] [--again]

"mixture64" is a Gaussian mixture over 500 of the 8x8 digits, on the EDM path.
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

import retrograde as rg
from retrograde import data
from retrograde.denoisers import AbstractDenoiser
from retrograde.plan_file import write_atomically
from retrograde.quality import paired_error
from retrograde.run import NonFinite
from retrograde.tune import EFFORTS, Reference, teach

RESULTS = Path(__file__).parent / "results" / "baselines.json"
PAIRS = {"mixture64": (3, 4, 5, 6), "digits8-flow": (3, 4, 5), "digits8-noise": (4, 5, 6)}
DESCENTS: dict[str, dict[str, Any]] = {
    "amed": {"n": 32, "batch": 8, "rate": 0.15},
    "bns": {"n": 64, "batch": 4, "rate": 0.02},
    "ld3": {"n": 32, "batch": 8, "rate": 0.05},
    "s4s": {"n": 64, "batch": 4, "rate": 0.02},
}
"""Items that are learned from, items of a step, and learning rates: the best of nine, on the mixture at four evaluations."""

BASELINES = ("olss", "dmn", "dc_solver", "gits", "pas", "s3", "auto_diffusion", *DESCENTS)
STARTED = (*DESCENTS, "dc_solver", "pas")
GRIDS = ("karras", "log_snr", "shifted", "cosine", "uniform")
TRIALS = 200
"""Plans that a search over scores tries; how many items score each is what the evaluations then allow."""

LEVELS, LOOK = 48, 10
"""Of the descents: evaluations of the reference of an item, and after how many steps they validate."""


def load(model: str) -> AbstractDenoiser:
    """Return an embedded model, or the mixture."""
    if model != "mixture64":
        return rg.load(model)
    return rg.oracles.GaussianMixture(rg.paths.EDM(), data.digits8("train")[0][:500].flatten(1), 0.02)


def descent_cost(name: str, nfe: int, steps: int) -> int:
    """Return the evaluations of a descent: of the reference, of its steps, and of the validations between them."""
    # forward, again for the gradient, and two for each kind of level it descends on: its own, and the one told
    turns = {"amed": (6,), "ld3": (6,), "bns": (4,), "s4s": (2, 4, 2, 4)}[name]
    each, n, batch = max(1, steps // len(turns)), DESCENTS[name]["n"], DESCENTS[name]["batch"]
    held, looks = max(16, n // 2), 1 + math.ceil(each / LOOK)
    return LEVELS * (n + held) + nfe * sum(asked * batch * each + looks * held for asked in turns)


def options_within(name: str, nfe: int, limit: int) -> dict[str, Any]:
    """Return the options with which a tuner asks for at most `limit` evaluations, and for nearly as many."""
    if name in DESCENTS:
        steps = max((k for k in range(1, limit) if descent_cost(name, nfe, k) <= limit), default=1)
        return {"levels": LEVELS, "steps": steps, **DESCENTS[name]}
    if name in ("auto_diffusion", "s3"):
        n = max(4, limit // (64 + TRIALS * nfe))
        trials = (limit - 64 * n) // (nfe * n)
        if name == "s3":
            return {"n": n, "rounds": rg.baselines.Rounds(trials=trials, first=min(60, trials // 3))}
        # what comes twice is not scored again: one in ten of the choices of fewer than six levels
        search = rg.baselines.Evolution(20, 6, 12, 4, rate=0.5, generations=trials // (18 if nfe < 6 else 20) - 1)
        return {"n": n, "evolution": search}
    each = {"olss": 48, "gits": 61, "pas": 61 + 2 * nfe, "dc_solver": 96 + 2 * nfe}
    return {"n": limit // each[name]} if name in each else {}


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A model with the noise that plans are judged on, and a little other noise to choose a grid by."""

    denoiser: AbstractDenoiser
    judged: Reference
    other: Reference

    @classmethod
    def of(cls, model: str, items: int) -> Trial:
        """Return the trial of a model."""
        denoiser = load(model)
        few = range(1 << 20, (1 << 20) + 32)
        ends = [teach(denoiser, len(i), 5, levels=96, keep=(), first_item=i[0]).end for i in (range(items), few)]
        return cls(denoiser, Reference(denoiser, range(items), 5, ends[0]), Reference(denoiser, few, 5, ends[1]))

    def ends(self, name: str, plan: rg.Plan, reference: Reference) -> torch.Tensor:
        """Return the samples of a tuner's plan from a reference's noise."""
        return reference.run(plan, controllers=[rg.baselines.Directions()] if name == "pas" else [])

    def grid(self, name: str, nfe: int) -> str:
        """Return the grid on which a tuner is nearest before it learned anything."""
        bare = {"n": 16, "levels": 24} | ({"steps": 1, "rate": 0.0} if name in DESCENTS else {})

        def missed(grid: str) -> float:
            try:
                made = self.ends(name, getattr(rg.baselines, name)(self.denoiser, nfe, grid=grid, **bare), self.other)
            except NonFinite:
                return math.inf
            return float((made - self.other.end).square().mean())

        return min(GRIDS, key=missed)

    def row(self, name: str, nfe: int, options: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of a tuner."""
        given: dict[str, Any] = {**options, **({"grid": self.grid(name, nfe)} if name in STARTED else {})}
        began = time.perf_counter()
        fit: Any = rg.tune if name == "tune" else getattr(rg.baselines, name)
        plan = fit(self.denoiser, nfe, **given)
        seconds = time.perf_counter() - began
        error = paired_error(self.ends(name, plan, self.judged), self.judged.end)
        searches = (rg.baselines.Evolution, rg.baselines.Rounds)
        plain = {key: dataclasses.asdict(v) if isinstance(v, searches) else v for key, v in given.items()}
        return {
            "rms": error.rms.value,
            "median": error.median.value,
            "asked": plan.nfe,
            "evaluations": plan.report["evaluations"],
            "seconds": round(seconds, 1),
            "options": plain,
        }


def main() -> None:
    """Run the comparison and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[*PAIRS])
    parser.add_argument("--budgets", type=int, nargs="*")
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--effort", default="seconds", choices=EFFORTS)
    parser.add_argument("--only", nargs="*", default=BASELINES, choices=BASELINES)
    parser.add_argument("--again", action="store_true", help="also what is there already")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for model in given.models:
        trial = None
        for nfe in given.budgets or PAIRS.get(model, (3, 4, 5)):
            limit = 0
            for name in ("tune", *given.only):
                settings = {"effort": given.effort, "items": given.items}
                settings |= {"limit": limit} if name != "tune" else {"numbers": plain_effort(given.effort)}
                found = None if given.again else stored(model, nfe, name, settings)
                if found is None:
                    trial = trial or Trial.of(model, given.items)
                    tuned = {"seed": 1, "effort": given.effort, "compare": False}
                    found = trial.row(name, nfe, tuned if name == "tune" else options_within(name, nfe, limit))
                    keep({"model": model, "nfe": nfe, "tuner": name, **found, "settings": settings})
                limit = found["evaluations"] if name == "tune" else limit
                shown = " ".join(f"{key} {found[key]:.4g}" for key in ("rms", "median", "seconds"))
                print(f"{model:14s} {nfe} {name:15s} {shown} evaluations {found['evaluations']}", flush=True)


def plain_effort(name: str) -> dict[str, Any]:
    """Return the numbers of an effort as they are read back from a file."""
    return json.loads(json.dumps(dataclasses.asdict(EFFORTS[name])))


def rows() -> list[dict[str, Any]]:
    """Return what is stored."""
    return json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []


KEY = ("model", "nfe", "tuner")


def stored(model: str, nfe: int, tuner: str, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row that was made with these settings, if any."""
    same = (row for row in rows() if [row[k] for k in KEY] == [model, nfe, tuner] and row["settings"] == settings)
    return next(same, None)


def keep(row: dict[str, Any]) -> None:
    """Put a row into the results, in the place of an older one."""
    others = [one for one in rows() if [one[k] for k in KEY] != [row[k] for k in KEY]]
    row = {**row, "command": " ".join(["python", "benchmarks/baselines.py", *sys.argv[1:]])}
    made = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "retrograde": rg.__version__,
        "rows": sorted([*others, row], key=lambda one: tuple(one[k] for k in KEY)),
    }
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
