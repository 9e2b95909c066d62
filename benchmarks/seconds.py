"""What a fit at effort "seconds" takes: seconds, network evaluations and memory, beside one evaluation and beside sampling.

An item's evaluation is timed right before and after the fit, so that the seconds can be read as a count on a
machine that others use too. Memory is what a process holds at its peak above what it held with the model loaded: of the
whole fit, and of sampling as many items at once as the fit asks at once. Writes benchmarks/results/seconds.json.

    python benchmarks/seconds.py [MODEL] [--nfe 5] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
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
    """Return the most memory this process has held, in bytes; read on Linux (getrusage tells a parent's, if larger)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def alone(model: str, nfe: int, what: str) -> dict[str, Any]:
    """Return what a process of its own held with the model loaded and, above that, at most; and the report of a fit."""
    denoiser, report = rg.load(model), None
    rg.sample(denoiser, rg.plan("ddim", denoiser, nfe=2), n=1)
    loaded = peak()
    if what == "fit":
        report = rg.tune(denoiser, nfe, effort="seconds").report
    else:
        rg.sample(denoiser, rg.plan("ipndm_4", denoiser, nfe=nfe, grid="shifted"), n=AT_ONCE)
    return {"memory": {"loaded": loaded, "more": peak() - loaded}, "report": report}


def apart(given: argparse.Namespace, what: str) -> dict[str, Any]:
    """Return what `alone` returns in a process of its own."""
    command = [sys.executable, __file__, given.model, "--nfe", str(given.nfe), "--threads", str(given.threads)]
    ran = subprocess.run([*command, "--alone", what], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", choices=["fit", "sample"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.alone:
        print(json.dumps(alone(given.model, given.nfe, given.alone)))
        return
    denoiser = rg.load(given.model)
    before = one_evaluation(denoiser, AT_ONCE)
    fit = apart(given, "fit")
    one = {"before": before, "after": one_evaluation(denoiser, AT_ONCE)}
    memory = {"sample": apart(given, "sample")["memory"], "fit": fit["memory"], "sampled_at_once": AT_ONCE}
    ratio = memory["fit"]["more"] / memory["sample"]["more"]
    names = ("seconds", "evaluations", "evaluations_by_part", "returned", "error", "median", "reference_error")
    made = {name: fit["report"][name] for name in (*names, "best_recipe", "best_recipe_at_twice")}
    result = {
        "command": " ".join(["python", "benchmarks/seconds.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "retrograde": rg.__version__,
        "model": given.model,
        "nfe": given.nfe,
        "threads": given.threads,
        **made,
        "one_evaluation": one,
        "in_evaluations": made["seconds"] / statistics.mean(one.values()),
        "memory": {**memory, "times_sampling": ratio},
    }
    write_atomically(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    print(f"{given.model}, {given.nfe} evaluations: {made['seconds']:.1f} s, error {made['error']:.4f}")
    print(f"{made['evaluations']} evaluations: {made['evaluations_by_part']}")
    print(f"one of {AT_ONCE} at once: {1e3 * one['before']:.2f} ms before, {1e3 * one['after']:.2f} ms after")
    print(f"memory above the loaded model: {memory}: {ratio:.2f} times that of sampling {AT_ONCE} items")


if __name__ == "__main__":
    main()
