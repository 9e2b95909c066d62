"""Inverse problems on unseen digits: how near, how natural, and how honest the samples of each method are.

For each task some test digits are measured with noise, and each method draws samples for each. Figures over all digits:
PSNR of the samples' mean and of single samples (peak to peak 2); the part of samples that the embedded classifier takes for
what was measured; distance of their features to those of the truth; the misfit in standard deviations of the noise; and
coverage: how often the truth of a pixel lies between the least and the greatest of n samples, where samples differ (their
standard deviation is above 0.05). Samples of the posterior would reach (n - 1)/(n + 1).

    python benchmarks/inverse_digits.py [--items 3] [--samples 12] [--nfe 40] [--only TASK ...]

Writes benchmarks/results/inverse_digits.json, a row at a time, and docs/images/inverse_digits.png.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import retrograde as rg
from retrograde import data, zoo
from retrograde.cli.pictures import labelled, png
from retrograde.errors import RetrogradeError
from retrograde.plan_file import write_atomically

RESULTS = Path(__file__).parent / "results" / "inverse_digits.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "inverse_digits.png"
TASKS: dict[str, tuple[str, float]] = {
    "half": ("mask:keep=left", 0.05),
    "random 70 %": ("mask:share=0.3", 0.05),
    "4x super-resolution": ("down:4", 0.05),
    "blur": ("blur:sigma=1.5", 0.05),
    "tomography, 8 views": ("radon:views=8", 0.3),
    "phase retrieval": ("phase", 0.05),
}
"""By name the operator and the standard deviation of its noise."""
METHODS: dict[str, dict[str, float]] = {"mmps": {}, "dps": {"zeta": 3.0}, "pigdm": {}, "diffpir": {}, "ddnm": {}}
"""By name their settings; the weight of dps was chosen among 1, 3, 10 and 30 on one digit for these few evaluations."""

SHOWN = 6
OPEN = 0.05


def psnr(x: Tensor, truth: Tensor) -> float:
    """Return the mean over items of 10 log10(2^2 / mean squared error), in dB."""
    return float((10.0 * torch.log10(4.0 / (x - truth).double().square().flatten(1).mean(1))).mean())


def figures(found: rg.inverse.Solution, posed: rg.operators.Measurement, truth: Tensor, label: int) -> dict[str, float]:
    """Return the figures of one digit, sums where they are to be added up."""
    judge, samples = zoo.classifier(), found.samples.float()
    with torch.no_grad():
        said = judge(samples).argmax(1)
        apart = (judge.features(samples) - judge.features(truth[None])).norm(dim=1).mean()
    inside = (samples.amin(0) <= truth) & (truth <= samples.amax(0))
    wide = samples.std(0) > OPEN
    return {
        "psnr_mean": psnr(samples.mean(0, keepdim=True), truth[None]),
        "psnr_sample": psnr(samples, truth[None]),
        "same_digit": float((said == label).double().mean()),
        "features": float(apart),
        "misfit": float(posed.residual(samples).double().square().mean().sqrt()) / posed.std,
        "inside": float((inside & wide).sum()),
        "open": float(wide.sum()),
    }


def measure(
    den: Any, task: str, method: str, given: Any, truths: Tensor, labels: list[int]
) -> tuple[dict[str, Any], Tensor]:
    """Return the row of a method at a task, and what is drawn of the first digit."""
    spec, std = TASKS[task]
    A = rg.operators.make(spec, den.shape)
    rows, shown, began = [], None, time.perf_counter()
    asked: dict[str, float] = {}
    for k, truth in enumerate(truths):
        posed = rg.operators.measure(A, truth, noise=std, seed=k)
        found = rg.inverse.solve(den, posed, method, given.samples, given.nfe, seed=k, **METHODS[method])
        rows.append(figures(found, posed, truth, labels[k]))
        asked = dict(found.ledger.evaluations)
        if shown is None:
            picture = torch.cat([truth[None], found.mean[None], found.std[None].mul(2).sub(1), found.samples[:SHOWN]])
            shown = picture.float()
    mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    coverage = mean.pop("inside") / max(mean["open"], 1.0)
    row = {
        "task": task,
        "operator": spec,
        "noise": std,
        "method": method,
        "settings": METHODS[method],
        **mean,
        "coverage": coverage,
    }
    row |= {"evaluations": asked, "seconds": round(time.perf_counter() - began, 1)}
    return row, shown if shown is not None else truths


def keep(row: dict[str, Any], given: Any) -> None:
    """Put a row into the results, in the place of an older one."""
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [one for one in rows if (one["task"], one["method"]) != (row["task"], row["method"])]
    places = {task: place for place, task in enumerate(TASKS)}
    rows = sorted([*rows, row], key=lambda one: (places[one["task"]], list(METHODS).index(one["method"])))
    claimed = (given.samples - 1) / (given.samples + 1)
    made = {"command": " ".join(["python", "benchmarks/inverse_digits.py", *sys.argv[1:]]), "torch": torch.__version__}
    made |= {"items": given.items, "samples": given.samples, "nfe": given.nfe, "claimed": claimed, "rows": rows}
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


def main() -> None:
    """Measure, keep, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=3)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--nfe", type=int, default=40)
    parser.add_argument("--only", nargs="*", default=list(TASKS), choices=list(TASKS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    den = rg.load("digits")
    images, labels = data.digits("test")
    truths, labels = images[: given.items].float(), [int(label) for label in labels[: given.items]]
    strips = []
    for task in given.only:
        best: tuple[float, str, Tensor] | None = None
        for method in METHODS:
            try:
                row, shown = measure(den, task, method, given, truths, labels)
            except RetrogradeError as error:
                print(f"{task:22} {method:8} not for this operator: {str(error).splitlines()[0]}", flush=True)
                continue
            keep(row, given)
            told = {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}
            print(f"{task:22} {method:8} {told}", flush=True)
            if best is None or row["psnr_mean"] > best[0]:
                best = row["psnr_mean"], method, shown
        if best is not None and math.isfinite(best[0]):
            strips.append((f"{task}, {best[1]}: truth, mean, twice the standard deviation, samples", best[2]))
    write_atomically(PICTURE, png(labelled(strips)))


if __name__ == "__main__":
    main()
