"""What a fit at effort "seconds" takes: seconds, network evaluations and memory, beside one evaluation and beside sampling.

An item's evaluation is timed before and after the fit in the same process, so that the seconds can be read as a count on a
machine that others use too. Memory is what a process holds at its peak above what it held with the model loaded: of the
whole fit, and of sampling as many items at once as the fit asks at once. Writes benchmarks/results/seconds.json.

    python benchmarks/seconds.py [MODEL] [--nfe 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import retrograde as rg
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.plan_file import write_atomically

RESULTS = Path(__file__).parent / "results" / "seconds.json"

AT_ONCE = 128
"""Items that a fit asks at once at most."""


def one_evaluation(denoiser: AbstractDenoiser, batch: int, calls: int = 5) -> float:
    """Return the seconds of an item's evaluation in a batch: the median of some calls."""
    x, condition = torch.randn(batch, *denoiser.shape), prepare_condition(denoiser, None, batch)
    taken = []
    with torch.no_grad():
        for _ in range(calls + 1):
            began = time.perf_counter()
            denoiser.predict(x, denoiser.path.t_max, condition)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:]) / batch


def peak() -> int:
    """Return the most memory this process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def held(model: str, nfe: int, what: str) -> dict[str, int]:
    """Return the memory of a process with the model loaded, and the most it held above that while it fitted or sampled."""
    denoiser = rg.load(model)
    rg.sample(denoiser, rg.plan("ddim", denoiser, nfe=2), n=1)
    loaded = peak()
    if what == "fit":
        rg.tune(denoiser, nfe, effort="seconds")
    else:
        rg.sample(denoiser, rg.plan("ipndm_4", denoiser, nfe=nfe, grid="shifted"), n=AT_ONCE)
    return {"loaded": loaded, "more": peak() - loaded}


def apart(given: argparse.Namespace, what: str) -> dict[str, int]:
    """Return what `held` returns in a process of its own."""
    command = [sys.executable, __file__, given.model, "--nfe", str(given.nfe), "--threads", str(given.threads)]
    ran = subprocess.run([*command, "--held", what], capture_output=True, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def fitted(given: argparse.Namespace) -> dict[str, Any]:
    """Return what the fit took and reached."""
    denoiser = rg.load(given.model)
    before = {str(batch): one_evaluation(denoiser, batch) for batch in (8, AT_ONCE)}
    plan = rg.tune(denoiser, given.nfe, effort="seconds")
    after = {str(batch): one_evaluation(denoiser, batch) for batch in (8, AT_ONCE)}
    report = plan.report
    names = ("seconds", "evaluations", "evaluations_by_part", "returned", "error", "median", "reference_error")
    return {
        **{name: report[name] for name in names},
        **{name: report[name] for name in ("best_recipe", "best_recipe_at_twice")},
        "one_evaluation_before": before,
        "one_evaluation_after": after,
        "in_evaluations": report["seconds"] / statistics.mean((before[str(AT_ONCE)], after[str(AT_ONCE)])),
    }


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--held", choices=["fit", "sample"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.held:
        print(json.dumps(held(given.model, given.nfe, given.held)))
        return
    made = fitted(given)
    memory = {what: apart(given, what) for what in ("sample", "fit")}
    ratio = memory["fit"]["more"] / memory["sample"]["more"]
    result = {
        "command": " ".join(["python", "benchmarks/seconds.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "retrograde": rg.__version__,
        "model": given.model,
        "nfe": given.nfe,
        "threads": given.threads,
        **made,
        "memory": {**memory, "sampled_at_once": AT_ONCE, "times_sampling": ratio},
    }
    write_atomically(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    one = made["one_evaluation_before"][str(AT_ONCE)]
    asked = f"{given.model}, {given.nfe} evaluations, {given.threads} threads"
    print(f"{asked}: {made['seconds']:.1f} s, error {made['error']:.4f}")
    print(f"{made['evaluations']} evaluations {made['evaluations_by_part']}; one of {AT_ONCE} at once: {1e3 * one:.2f} ms")
    print(f"memory above the loaded model: {memory}: {ratio:.2f} times that of sampling {AT_ONCE} items")


if __name__ == "__main__":
    main()
