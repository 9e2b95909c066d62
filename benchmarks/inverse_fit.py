"""Fit a plan of 20 evaluations to held-out problems of the benchmark of inverse methods, one for each dimension.

Levels and spread of `tds` with the twist "covariance" (`inverse.fit`), on problems of seeds that benchmarks/inverse.py does
not have, all numbers of measurements together, against draws of their exact posteriors.

    python benchmarks/inverse_fit.py [--dimensions 8 80 800] [--problems 2] [--rounds 2]

Writes benchmarks/results/inverse_fit.json, which benchmarks/inverse.py reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import runpy
import time
from pathlib import Path
from typing import Any

from retrograde.inverse import Levels, fit
from retrograde.plan_file import write_atomically

BENCHMARK = runpy.run_path(str(Path(__file__).with_name("inverse.py")))
NFE, FIRST = 20, 1000
"""Evaluations, and the first seed: those of the benchmark are far below."""


def main() -> None:
    """Fit, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, nargs="+", default=list(BENCHMARK["DIMENSIONS"]))
    parser.add_argument("--problems", type=int, default=2, help="for each number of measurements")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    path = BENCHMARK["FITTED"]
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for d in asked.dimensions:
        began = time.process_time()
        examples = []
        for m in BENCHMARK["MEASURED"]:
            for seed in range(FIRST, FIRST + asked.problems):
                prior, measurement = BENCHMARK["problem"](d, m, seed)
                examples.append((prior, measurement, BENCHMARK["exact"](prior, measurement, 400, 1)))
        start = Levels(5.0 * BENCHMARK["WIDTH"] * (d / 2) ** 0.5, 0.3, 7.0, 1.0)
        best, before, after = fit(
            examples, NFE, start, rounds=asked.rounds, twist="covariance", progress=lambda line: print(line, flush=True)
        )
        kept[str(d)] = {
            "levels": {key: round(value, 5) for key, value in dataclasses.asdict(best).items()},
            "nfe": NFE,
            "problems": len(examples),
            "seeds": [FIRST, FIRST + asked.problems - 1],
            "before": round(before, 5),
            "after": round(after, 5),
            "seconds": round(time.process_time() - began, 1),
        }
        print(d, kept[str(d)], flush=True)
        write_atomically(path, (json.dumps(kept, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
