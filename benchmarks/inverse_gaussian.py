"""Every inverse method on Gaussian data, whose posterior has mean and covariance in closed form.

Four numbers with a covariance of their own, two mixtures of them seen with noise. Of eight runs of each method "mean" is the
distance of their mean to the posterior's, over the root of the trace of its covariance; "covariance" the Frobenius norm of
the difference over that of the exact one, of second moments about the exact mean. "floor" is the standard error of each, as
the runs differ among themselves: what is left of a method without bias. A method that is exact for such data has to come to
it, in the limit of many evaluations; the others keep what they are off by, which neither samples nor evaluations take away.

    python benchmarks/inverse_gaussian.py [--methods dps mmps ...]

Writes benchmarks/results/inverse_gaussian.json. "again" are the errors of one short run, which a test makes anew.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import retrograde as rg
from retrograde import inverse, operators
from retrograde.noise import Bulk
from retrograde.plan_file import write_atomically

RESULTS = Path(__file__).parent / "results" / "inverse_gaussian.json"
SEED, SCALES, SEEN, STD, RUNS = 5, (1.0, 0.8, 0.6, 0.4), 2, 0.3, 8
MANY, SHORT = (1000, 400), (100, 24)
"""Samples and evaluations of each run near the limit, and of the short one."""
LIMITS: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "mmps": (MANY, {"recipe": "dpmpp_2m"}),
    "tds": ((1000, 800), {}),
    "mcgdiff": ((2000, 800), {}),
    "ensemble": ((8000, 400), {}),
}
"""Runs of other sizes or settings than the defaults: what draws nothing on the way, shorter rows, and more particles."""


def problem() -> tuple[rg.oracles.GaussianMixture, operators.Measurement, rg.oracles.GaussianMixture]:
    """Return the prior, a measurement of a draw of it, and the posterior."""
    g = torch.Generator().manual_seed(SEED)
    d = len(SCALES)
    turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=g))[0]
    C = turn @ torch.diag(torch.tensor(SCALES, dtype=torch.float64) ** 2) @ turn.T
    mean = torch.randn(d, dtype=torch.float64, generator=g)
    A = torch.randn(SEEN, d, dtype=torch.float64, generator=g)
    prior = rg.oracles.Gaussian(rg.paths.VP(), mean, C)
    measurement = operators.measure(operators.Matrix(A), prior.sample(1, 5)[0], STD, seed=1)
    return prior, measurement, prior.posterior(A, measurement.y, STD)


def moments(samples: Tensor, posterior: rg.oracles.GaussianMixture) -> tuple[Tensor, Tensor]:
    """Return by how much mean and second moments about the exact mean are off, in units of the exact spread."""
    mean, C = posterior.moments()
    off = samples.double() - mean
    return off.mean(0) / C.trace().sqrt(), (off.T @ off / len(off) - C) / C.norm()


def measure(name: str, n: int, nfe: int, runs: int = 1, **settings: Any) -> dict[str, Any]:
    """Return the errors of a method over several runs, and the standard errors of both."""
    prior, measurement, posterior = problem()
    made = [
        moments(
            inverse.solve(prior, measurement, name, n, nfe, seed, noise=Bulk, dtype=torch.float64, **settings).samples,
            posterior,
        )
        for seed in range(runs)
    ]
    found: dict[str, Any] = {}
    for key, parts in zip(("mean", "covariance"), zip(*made, strict=True), strict=True):
        each = torch.stack(parts)
        found[key] = round(float(each.mean(0).norm()), 5)
        if runs > 1:
            found[f"{key}_floor"] = round(float(each.var(0).sum().div(runs).sqrt()), 5)
    return found


def main() -> None:
    """Measure the methods asked for, and keep them beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(inverse.names()), choices=inverse.names())
    asked = parser.parse_args()
    held: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))["methods"] if RESULTS.exists() else {}
    for name in asked.methods:
        began = time.process_time()
        (n, nfe), settings = LIMITS.get(name, (MANY, {}))
        row = {"exact": inverse.get(name).exact, "n": n, "nfe": nfe, "settings": settings}
        row |= measure(name, n, nfe, RUNS, **settings)
        held[name] = row | {"again": measure(name, *SHORT)}
        print(f"{name:9} {row} in {time.process_time() - began:.0f} s", flush=True)
        kept = {"command": "python benchmarks/inverse_gaussian.py", "torch": torch.__version__, "runs": RUNS}
        kept["methods"] = {key: held[key] for key in inverse.names() if key in held}
        write_atomically(RESULTS, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
