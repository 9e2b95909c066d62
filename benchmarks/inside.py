"""Small parts trained inside a frozen network: what inner loop feedback and early exits buy on a transformer of digits.

Feedback: a copied block stands for the first b blocks in rows that reuse (Gwilliam et al., 2025, arXiv 2501.13107). Beside
it, at the same column, the cache of these blocks as they were and extrapolated, and the plan with as many full steps as the
cost pays for; and the same module told the noise levels of other rows. Errors are root mean squares per element to the run
in which everything is computed, from noise that was not learned from.

Exits: items leave after the block at which a small head expects no more (Tang et al., 2023, arXiv 2309.17074), taught by the
data as published and by the whole network. Rank correlation of doubt and true error on unseen images; and at a mean depth of
three blocks, samples against leaving after the third block always, at a random one, and fewer full steps.

    python benchmarks/inside.py [--dit runs/dit8/dit8.pt] [--parts feedback exits]

The transformer is trained by `python examples/train_dit8.py`. Writes benchmarks/results/inside.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reuse import ROOT, rms, transformer8
from torch import Tensor, nn

import retrograde as rg
from retrograde import accelerate, sites
from retrograde.plan_file import write_atomically
from retrograde.quality import frechet_distance, kernel_distance
from retrograde.train.exits import answered

RESULTS = Path(__file__).parent / "results" / "inside.json"
STEPS, ITEMS, DRAWN = 20, 64, 128
LABELS = [k % 10 for k in range(ITEMS)]


class Elsewhere(nn.Module):
    """A block that is told the noise level of another row."""

    def __init__(self, block: nn.Module, times: list[float]) -> None:
        super().__init__()
        self.block, self.times, self.calls = block, times, 0

    def forward(self, features: Tensor, **told: Any) -> Tensor:
        self.calls += 1
        time = self.times[self.calls * 7 % len(self.times)]
        return self.block(features, **{**told, "timestep": torch.full_like(told["timestep"], time)})


def inner(den: Any, policy: Any, column: rg.Plan, full: Any) -> float:
    """Error of the network's answer in the rows that reuse, at the states of the full run."""
    told = rg.denoisers.prepare_condition(den, LABELS, ITEMS)
    carried, errors = None, []
    rows = [row for row in column.bind(den).rows if row.time is not None]
    with torch.no_grad():
        for row, (x_t, answer) in zip(rows, full, strict=True):
            knobs = dict(row.knobs) | ({} if carried is None else {"carried": carried})
            made = policy.predict(x_t, row.time, told, knobs, row.network_time)
            carried = made.carried
            if row.knobs:
                errors.append((made.value - answer).square().mean())
    return float(torch.stack(errors).mean().sqrt())


def feedback(den: Any) -> dict[str, Any]:
    """Measure inner loop feedback for some numbers of blocks and columns."""
    plan = rg.plan("dpmpp_2m", den.path, nfe=STEPS)
    asked = [s.prediction for s in rg.steps(plan, den, ITEMS, 3, condition=LABELS)]
    full = [(p.x_t, p.value) for p in asked if p is not None]
    whole, one = rg.sample(den, plan, ITEMS, 3, condition=LABELS), sites.cost(den, plan[:1], 1, condition=1).macs
    rows = []
    for blocks, interval in ((3, 2), (5, 2), (5, 3)):
        column = accelerate.every(plan, interval)
        began = time.process_time()
        taught = rg.train.fit_feedback(den, column, blocks, items=256, condition=[k % 10 for k in range(256)], steps=800)
        spent = time.process_time() - began
        mistold = accelerate.feedback(den, blocks)
        mistold.block = Elsewhere(taught.block, [1000.0 * row.time for row in plan.rows if row.time is not None])
        mistold.gain.data.copy_(taught.gain)
        policies = {
            "feedback": accelerate.inner_loop(den, taught),
            "told other levels": accelerate.inner_loop(den, mistold),
            "cache": accelerate.block_cache(den, range(blocks)),
            "cache, extrapolated": accelerate.block_cache(den, range(blocks), order=1),
        }
        cost = sites.cost(policies["feedback"], column, 4, repeats=3, condition=1)
        steps = round(cost.macs / one)
        row: dict[str, Any] = {
            "blocks": blocks,
            "every": interval,
            "training seconds": spent,
            "gain": float(taught.gain),
            "steps it pays for": cost.macs / one,
            "times less": STEPS * one / cost.macs,
            "seconds": {"here": cost.seconds, "all": sites.cost(den, plan, 4, repeats=3, condition=1).seconds},
            "inner rows": {name: inner(den, policy, column, full) for name, policy in policies.items()},
            "samples": {
                name: rms(rg.sample(policy, column, ITEMS, 3, condition=LABELS), whole) for name, policy in policies.items()
            },
        }
        for recipe in ("dpmpp_2m", "ddim"):
            fewer = rg.sample(den, rg.plan(recipe, den.path, nfe=steps), ITEMS, 3, condition=LABELS)
            row["samples"][f"{steps} steps, {recipe}"] = rms(fewer, whole)
        rows.append(row)
        print(json.dumps(row), flush=True)
    return {"recipe": "dpmpp_2m", "steps": STEPS, "rows": rows}


class Rule(nn.Module):
    """Exits that were taught, with another rule of when to leave: the doubt of each item after block k."""

    def __init__(self, taught: accelerate.Exits, rule: Callable[[int, int], Tensor]) -> None:
        super().__init__()
        self.taught, self.doubts, self.rule = taught, taught.doubts, rule

    def doubt(self, k: int, features: Tensor, level: Tensor) -> Tensor:
        return self.rule(k, len(features))

    def exit(self, k: int, features: Tensor, level: Tensor) -> Tensor:
        return self.taught.exit(k, features, level)


def correlated(one: Tensor, other: Tensor) -> float:
    """Spearman's rank correlation."""
    ranks = [x.argsort().argsort().double() for x in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def calibration(den: Any, taught: accelerate.Exits, teacher: Any) -> dict[str, Any]:
    """Rank correlation of doubt and error on unseen images: over all levels, and the mean over bands of them."""
    images, labels = rg.data.digits8("test")
    images, n = images[:320], min(320, len(images))
    t = torch.linspace(0.02, 0.98, n, dtype=torch.float64)
    t = t[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        answers, doubts, y = answered(den, taught, images, t, eps, {"label": labels[:n]}, teacher)
    errors = [(g - y).detach().abs().flatten(1).mean(1) for g in answers]
    bands = [(t >= low / 8) & (t < (low + 1) / 8) for low in range(8)]
    return {
        "all levels": [correlated(u, e) for u, e in zip(doubts, errors, strict=True)],
        "within an eighth of the levels": [
            sum(correlated(u[band], e[band]) for band in bands) / len(bands) for u, e in zip(doubts, errors, strict=True)
        ],
    }


def by_row(den: Any, policy: Any, plan: rg.Plan, n: int = 20) -> list[float]:
    """Blocks that items ran through in each row, in the mean; not of 16 items, which are as many as tokens."""
    site = "transformer.transformer_blocks."
    with sites.counted(den.network, [f"{site}{k}" for k in range(6)]) as book:
        before, depths = 0.0, []
        for _ in rg.steps(plan, policy, n, 5, condition=LABELS[:n]):
            spent = sum(macs for name, macs in book.macs.items() if name.startswith(site) and name.count(".") == 2)
            depths.append((spent - before) / n / book.per_item[f"{site}0"])
            before = spent
    return depths


def exits(den: Any) -> dict[str, Any]:
    """Measure early exits at a mean depth of three of six blocks."""
    plan = rg.plan("ddim", den.path, nfe=STEPS)
    images, labels = rg.data.digits8("train")
    real = rg.data.digits8("all")[0].flatten(1)
    one = sites.cost(den, plan[:1], 1, condition=1).macs
    made: dict[str, Any] = {}
    generator = torch.Generator().manual_seed(9)

    def judged(policy: Any, p: rg.Plan = plan) -> dict[str, Any]:
        figures: dict[str, list[float]] = {"to full": [], "kernel": [], "frechet": []}
        for seed in (11, 12, 13):
            drawn = rg.sample(policy, p, DRAWN, seed, condition=[k % 10 for k in range(DRAWN)])
            figures["to full"].append(rms(drawn, full[seed]))
            figures["kernel"].append(1e3 * kernel_distance(drawn.flatten(1), real).value)
            figures["frechet"].append(frechet_distance(drawn.flatten(1), real).value)
        return figures | {"steps it pays for": sites.cost(policy, p, 40, repeats=0, condition=1).macs / one}

    full = {seed: rg.sample(den, plan, DRAWN, seed, condition=[k % 10 for k in range(DRAWN)]) for seed in (11, 12, 13)}
    made["all blocks"] = judged(den)
    made["10 steps"] = judged(den, rg.plan("ddim", den.path, nfe=10))
    for teacher in ("data", "network"):
        began = time.process_time()
        taught = rg.train.fit_exits(den, images, labels, teacher=teacher, steps=400)
        spent = time.process_time() - began
        low, high = 0.0, 1.0
        for _ in range(9):  # the mean depth rises as the threshold falls
            threshold = 0.5 * (low + high)
            depths = by_row(den, accelerate.early_exit(den, taught, threshold), plan)
            low, high = (threshold, high) if sum(depths) / STEPS > 3.0 else (low, threshold)
        always: Any = Rule(taught, lambda k, n: torch.full((n,), float(k < 2)))
        chance: Any = Rule(taught, lambda k, n: (torch.rand(n, generator=generator) >= 1 / (5 - k)).float())
        made[f"taught by {teacher}"] = {
            "training seconds": spent,
            "calibration": calibration(den, taught, teacher),
            "threshold": threshold,
            "depth by row": by_row(den, accelerate.early_exit(den, taught, threshold), plan, ITEMS),
            "exits": judged(accelerate.early_exit(den, taught, threshold)),
            "after block 3": judged(accelerate.early_exit(den, always, 0.5)),
            "at random": judged(accelerate.early_exit(den, chance, 0.5)),
        }
        print(teacher, json.dumps(made[f"taught by {teacher}"]), flush=True)
    return {"recipe": "ddim", "steps": STEPS, "rows": made}


PARTS = {"feedback": feedback, "exits": exits}


def main() -> None:
    """Run the parts and keep their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dit", type=Path, default=ROOT / "runs" / "dit8" / "dit8.pt")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts:
        made = PARTS[part](transformer8(given.dit))
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        write_atomically(RESULTS, (json.dumps(kept | {part: made}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
