"""Inverse methods against the exact posterior of a 25-component mixture, at equal evaluations.

The prior has its components at (8 i, 8 j), i, j in -2..2, repeated over d/2 pairs of coordinates, with identity covariance
and weights that are squares of normal numbers. A = U diag(s) V^T with s even in [0, 1], the noise is an even share of the
greatest s, and y comes from a draw of the prior: the protocol of Cardoso et al., Monte Carlo guided Diffusion, 2023, arXiv
2308.07983. One thing differs: the path is variance preserving with a noise end at sigma = 320 sqrt(d), twenty times the
outermost component. Theirs ends at 152 for every d, where at d = 800 the components are still told apart, so that not even
the prior would be drawn.

    python benchmarks/inverse.py [--seeds 20] [--dimensions 8 80 800] [--methods dps mmps ...] [--again]

"error" is the sliced Wasserstein distance (p = 1, mean over 100 slices) of 400 samples to as many exact draws, and "exact"
that of a second set of exact draws: the floor. "modes" is the total variation between the exact weights of the 25
components and the shares of samples nearest to each; "coverage" the share of 400 exact draws inside the samples' central
intervals of 90 %, over all coordinates: below 0.9 a method is surer than it may be, above less sure. "passes" counts
evaluations of the network and gradients through it, for one sample. "tds, fitted, 20" runs the plan of
benchmarks/inverse_fit.py. Figures are kept seed by seed as they are made, null where a run ended in infinity; the next run
goes on where the last stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import retrograde as rg
from retrograde import inverse, operators
from retrograde.noise import Bulk
from retrograde.plan_file import write_atomically
from retrograde.quality import sliced_wasserstein
from retrograde.run import NonFinite

RESULTS = Path(__file__).parent / "results" / "inverse.json"
FITTED = Path(__file__).parent / "results" / "inverse_fit.json"
FIGURES = ("error", "modes", "coverage", "passes", "seconds")
SAMPLES, DIMENSIONS, MEASURED = 400, (8, 80, 800), (1, 2, 4)
WIDTH = (1.0 + 2.0 * 8.0**2) ** 0.5
"""Standard deviation of a coordinate of data spread evenly over the components: what papers scale to one."""

Call = tuple[str, int, dict[str, Any]]
METHODS: dict[str, Call] = {
    "exact": ("", 0, {}),
    "dps": ("dps", 100, {}),
    "dps, 1000": ("dps", 1000, {}),
    "pigdm": ("pigdm", 100, {"spread": WIDTH}),
    "mmps": ("mmps", 100, {}),
    "tmpd": ("tmpd", 100, {}),
    "sda": ("sda", 100, {}),
    "diffpir": ("diffpir", 100, {}),
    "ddrm": ("ddrm", 100, {}),
    "ddnm": ("ddnm", 100, {}),
    "tds": ("tds", 100, {"spread": WIDTH}),
    "tds, covariance": ("tds", 100, {"twist": "covariance"}),
    "tds, covariance, 20": ("tds", 20, {"twist": "covariance"}),
    "tds, fitted, 20": ("tds", 20, {"twist": "covariance", "levels": "fitted"}),
    "mcgdiff": ("mcgdiff", 100, {}),
    "fps_smc": ("fps_smc", 100, {}),
    "ensemble": ("ensemble", 100, {}),
    "daps": ("daps", 100, {}),
    "daps, inner 1": ("daps", 100, {"inner": 1}),
    "pnpdm": ("pnpdm", 100, {"rho": (4.0 * WIDTH, 0.1)}),
    "repaint": ("repaint", 100, {}),
    "reddiff": ("reddiff", 100, {}),
    "stsl": ("stsl", 100, {}),
    "sitcom": ("sitcom", 100, {}),
    "steered": ("steered", 100, {}),
}


def problem(d: int, m: int, seed: int) -> tuple[rg.oracles.GaussianMixture, operators.Measurement]:
    """Return the prior and a measurement of one seed."""
    g = torch.Generator().manual_seed(1000 * d + 100 * m + seed)
    places = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3)).double()
    weights = torch.randn(25, generator=g, dtype=torch.float64) ** 2
    # sigma = exp(beta_max/4) at the noise end of this path, but for a factor of 1.02
    path = rg.paths.VP(beta_max=4.0 * float(torch.tensor(320.0 * d**0.5).log()))
    prior = rg.oracles.GaussianMixture(path, 8.0 * places.repeat(1, d // 2), 1.0, weights)
    u = torch.linalg.qr(torch.randn(m, m, generator=g, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(d, m, generator=g, dtype=torch.float64))[0]
    s = torch.rand(m, generator=g, dtype=torch.float64).sort(descending=True).values
    std = float(torch.rand((), generator=g, dtype=torch.float64) * s.max())
    operator = operators.Matrix(u @ torch.diag(s) @ v.T)
    return prior, operators.measure(operator, prior.sample(1, seed)[0], std, seed=seed)


def weights_given(prior: rg.oracles.GaussianMixture, measurement: operators.Measurement) -> Tensor:
    """Return the exact weights of the components, [25]: all see y through the same covariance."""
    A = measurement.linear.matrix()
    S = A @ A.T + measurement.std**2 * torch.eye(len(A), dtype=torch.float64)
    off = measurement.y - prior.means @ A.T
    return torch.softmax(prior.log_weights - 0.5 * (off * torch.linalg.solve(S, off.T).T).sum(1), 0)


def exact(prior: rg.oracles.GaussianMixture, measurement: operators.Measurement, n: int, seed: int) -> Tensor:
    """Return exact draws, [n, d]: a component by its weight given y, then a draw of it pulled to y by the gain."""
    g = torch.Generator().manual_seed(seed)
    A, y, std = measurement.linear.matrix(), measurement.y, measurement.std
    S = A @ A.T + std**2 * torch.eye(len(A), dtype=torch.float64)
    k = torch.multinomial(weights_given(prior, measurement), n, replacement=True, generator=g)
    x = prior.means[k] + torch.randn(n, A.shape[1], generator=g, dtype=torch.float64)
    seen = x @ A.T + std * torch.randn(n, len(A), generator=g, dtype=torch.float64)
    return x + torch.linalg.solve(S, (y - seen).T).T @ A


def judged(prior: rg.oracles.GaussianMixture, weights: Tensor, draws: Tensor, samples: Tensor) -> dict[str, float]:
    """Return error, total variation of the modes, and coverage of one set of samples."""
    x = samples.double()
    ends = torch.quantile(x, torch.tensor([0.05, 0.95], dtype=torch.float64), 0)
    nearest = torch.cdist(x, prior.means).argmin(1)
    shares = torch.bincount(nearest, minlength=len(weights)).double() / len(x)
    return {
        "error": sliced_wasserstein(x, draws, p=1, slices=100).value,
        "modes": float(0.5 * (shares - weights).abs().sum()),
        "coverage": float(((draws >= ends[0]) & (draws <= ends[1])).double().mean()),
    }


def measured(d: int, m: int, seed: int, call: Call) -> dict[str, float | None]:
    """Return the figures of one method on one problem, None where it diverged."""
    name, nfe, settings = call
    prior, measurement = problem(d, m, seed)
    draws, weights = exact(prior, measurement, SAMPLES, 1), weights_given(prior, measurement)
    began = time.process_time()
    if not name:
        return {**judged(prior, weights, draws, exact(prior, measurement, SAMPLES, 2)), "passes": 0.0, "seconds": 0.0}
    if "levels" in settings:
        levels = json.loads(FITTED.read_text(encoding="utf-8"))[str(d)]["levels"]
        settings = {"twist": settings["twist"], "plan": inverse.Levels(**levels).plan(prior.path, nfe)}
    try:
        found = inverse.solve(prior, measurement, name, n=SAMPLES, nfe=nfe, seed=seed, noise=Bulk, **settings)
    except NonFinite:
        return dict.fromkeys(FIGURES)
    seconds = time.process_time() - began
    return {**judged(prior, weights, draws, found.samples), "passes": found.ledger.nfe, "seconds": seconds}


def kept() -> dict[str, Any]:
    """Return what is stored, or an empty store."""
    if RESULTS.exists():
        return json.loads(RESULTS.read_text(encoding="utf-8"))
    return {"command": "python benchmarks/inverse.py", "samples": SAMPLES, "slices": 100, "rows": []}


def row_of(store: dict[str, Any], d: int, m: int, label: str) -> dict[str, Any]:
    """Return the row of a method in a setting, made where there is none: lists with one figure for each seed."""
    for row in store["rows"]:
        if (row["d"], row["m"], row["method"]) == (d, m, label):
            return row
    name, nfe, settings = METHODS[label]
    row = {"d": d, "m": m, "method": label, "name": name, "nfe": nfe, "settings": settings}
    store["rows"].append(row | {key: [] for key in FIGURES})
    return store["rows"][-1]


def main() -> None:
    """Measure what is not kept yet, seed by seed through all settings, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--dimensions", type=int, nargs="+", default=list(DIMENSIONS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--again", action="store_true", help="forget what is kept of these methods")
    asked = parser.parse_args()
    store = kept()
    if asked.again:
        store["rows"] = [r for r in store["rows"] if r["method"] not in asked.methods or r["d"] not in asked.dimensions]
    store["machine"] = f"{platform.system()} {platform.machine()}, torch {torch.__version__}"
    for seed in range(asked.seeds):
        for d in asked.dimensions:
            for m in MEASURED:
                fresh = [row for label in asked.methods if len((row := row_of(store, d, m, label))["error"]) == seed]
                for row in fresh:
                    for key, value in measured(d, m, seed, METHODS[row["method"]]).items():
                        row[key].append(None if value is None else round(value, 5))
                if fresh:
                    shown = "  ".join(f"{row['method']} {row['error'][seed] or math.inf:.2f}" for row in fresh)
                    print(f"seed {seed} d={d} m={m}: {shown}", flush=True)
                    text = json.dumps(store, indent=None).replace('{"d"', '\n{"d"') + "\n"
                    write_atomically(RESULTS, text.encode())


if __name__ == "__main__":
    main()
