"""Reuse against its honest control: the same recipe with fewer steps, and better plans, at equal multiply-accumulates.

For each model, policy and column: multiply-accumulates and seconds, the distance to the uncached run and to the end points
of a fine solver from the same noise, and the Frechet distance to the data. Beside it, with as many evaluations as the
policy's cost pays for: the same recipe, dpmpp_2m, and a plan fitted for them. In parts of their own: fitted plans in which
rows reuse, without the fit's knowledge and with it. What costs alone and time say, on larger networks and beside other
people's code, measures reuse_speed.py.

    python benchmarks/reuse.py [--dit runs/dit8/dit8.pt] [--items 64] [--parts digits "digits fitted" ...]

The transformer is trained by `python examples/train_dit8.py --out runs/dit8` (two minutes). Fitted plans are kept in
runs/reuse. Writes benchmarks/results/reuse.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import retrograde as rg
from retrograde import accelerate, data, zoo
from retrograde.quality import frechet_distance
from retrograde.sites import cost, find
from retrograde.tune.effort import Effort

RESULTS = Path(__file__).parent / "results" / "reuse.json"
ROOT = Path(__file__).parents[1]
KEPT = ROOT / "runs" / "reuse"
STEPS = 20
QUICK = Effort(
    fit=32,
    validation=16,
    held_out=8,
    search=16,
    levels=24,
    starts=4,
    refined=1,
    candidates=4,
    moments=128,
    contest=("dpmpp_2m",),
)
"""The fit on `digits`, whose evaluations are dear: some half a minute."""

MODERATE = dataclasses.replace(QUICK, fit=96, validation=32, held_out=32, search=32, starts=6, candidates=12, moments=256)
"""The fit of where to reuse on the transformer."""

CAREFUL = dataclasses.replace(QUICK, validation=64)
"""The fit of where to reuse on `digits`: a few items make most of its error, so that 16 do not tell two plans apart."""


def rms(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root mean square distance per element."""
    return float((one - other).square().mean().sqrt())


Judged = Callable[[Any, rg.Plan], dict[str, float]]


def labels(n: int, seed: int = 0) -> list[int]:
    """Digits in turn."""
    return [k % 10 for k in range(n)]


def fitted(model: str, den: Any, nfe: int, effort: Any) -> rg.Plan:
    """Return the plan that the tuner fits for so many evaluations, on `digits` at most twelve; made once and kept."""
    nfe = min(nfe, 12) if model.startswith("digits") else nfe
    file = KEPT / f"{model} {nfe}.json"
    if not file.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        rg.tune(den, nfe, effort=effort, condition=labels, compare=False).save(file)
    return rg.Plan.load(file)


def judge(model: str, den: Any, items: int) -> Judged:
    """Return what measures samples: distances to the uncached run and to a fine one, and the Frechet distance to data."""
    images = (data.digits8 if model == "dit8" else data.digits)("all")[0]
    features = (lambda x: x.flatten(1)) if model == "dit8" else zoo.classifier().features
    draw: Callable[[Any, rg.Plan], torch.Tensor] = lambda d, p: rg.sample(d, p, items, 3, condition=labels(items))  # noqa: E731
    fine = draw(den, rg.plan("dpmpp_2m", den.path, nfe=100))
    uncached = draw(den, rg.plan("ddim", den.path, nfe=STEPS))

    def judged(denoiser: Any, p: rg.Plan) -> dict[str, float]:
        made = draw(denoiser, p)
        return {
            "to uncached": rms(made, uncached),
            "to fine": rms(made, fine),
            "frechet": frechet_distance(made, images, features).value,
        }

    return judged


Cases = dict[str, tuple[Any, rg.Plan]]


def quality(model: str, den: Any, cases: Cases, items: int, effort: Any, guided: str = "") -> dict[str, Any]:
    """Measure the cases of one model, each beside its controls."""
    judged, plan = judge(model, den, items), rg.plan("ddim", den.path, nfe=STEPS)
    batch = 16 if model == "dit8" else 4  # timed; an evaluation of the transformer is short
    one = cost(den, rg.plan("ddim", den.path, nfe=1), 1, condition=0).macs
    rows = [{"case": "uncached", "nfe": STEPS, "macs": cost(den, plan, 1, condition=1).macs} | judged(den, plan)]
    for name, (denoiser, p) in cases.items():
        spent = cost(denoiser, p, 4, repeats=0, condition=1)
        steps = max(1, round(spent.macs / one))
        row = {"case": name, "nfe": p.nfe, "macs": spent.macs, "steps it pays for": steps}
        runs: dict[str, Callable[[], Any]] = {
            name: lambda d=d, p=p: rg.sample(d, p, batch, condition=1)
            for name, (d, p) in {
                "here": (denoiser, p),
                "as many steps as it pays for": (den, rg.plan("ddim", den.path, nfe=steps)),
                "uncached": (den, plan),
            }.items()
        }
        row["seconds"] = alternating(runs, 3)
        row |= judged(denoiser, p)
        row["same recipe"] = judged(den, rg.plan("ddim", den.path, nfe=steps))
        row["dpmpp_2m"] = judged(den, rg.plan("dpmpp_2m", den.path, nfe=steps))
        row["fitted"] = judged(den, fitted(model + guided, den, steps, effort))
        rows.append(row)
        print(name, json.dumps({k: v for k, v in row.items() if k != "case"}, default=str), flush=True)
    return {"items": items, "rows": rows}


def fits(model: str, den: Any, cached: Any, budgets: tuple[int, ...], items: int, effort: Any) -> dict[str, Any]:
    """Measure fitted plans of some budgets, alone and with every second evaluation after the second reused."""
    judged = judge(model, den, items)
    one = cost(den, rg.plan("ddim", den.path, nfe=1), 1, condition=0).macs
    rows = []
    for nfe in budgets:
        plan = fitted(model, den, nfe, effort)
        row: dict[str, Any] = {"nfe": nfe, "alone": judged(den, plan)}
        column = accelerate.every(plan, 2, begin=2)
        row["reused"] = judged(cached, column) | {"steps it pays for": cost(cached, column, 1, condition=1).macs / one}
        rows.append(row)
        print(nfe, json.dumps(row), flush=True)
    return {"items": items, "rows": rows}


def digits(items: int) -> dict[str, Any]:
    """Measure the policies that fit the embedded UNet."""
    den = rg.load("digits")
    plan = rg.plan("ddim", den.path, nfe=STEPS)
    cases: Cases = {
        f"deepcache branch {b} every {k}": (accelerate.deepcache(den, b), accelerate.every(plan, k))
        for b, k in ((0, 2), (0, 3), (0, 5), (2, 3))
    }
    cases["encoder every 3"] = (accelerate.encoder_cache(den), accelerate.every(plan, 3))
    together = accelerate.decode_ahead(accelerate.every(plan, 3), den)
    cases["encoder every 3, decoders in one call"] = (accelerate.encoder_cache(den), together)
    cases["deepcache branch 0 centred 7"] = (accelerate.deepcache(den, 0), accelerate.centred(plan, 7))
    cases["half of the tokens merged"] = (accelerate.merge_tokens(den, 0.5), plan)
    cases["middle left out in every 2nd"] = (accelerate.skip_blocks(den), left_out(plan, middle(den)))
    return quality("digits", den, cases, items, QUICK)


def left_out(plan: rg.Plan, block: int) -> rg.Plan:
    """Leave a block out in every second row."""
    return accelerate.reuse(plan, range(0, STEPS, 2), [block], knob="skip")


def middle(den: Any) -> int:
    """Number of the middle one of a network's blocks."""
    return len(find(den.network).blocks) // 2


def shared(model: str, den: Any, items: int, effort: Any) -> dict[str, Any]:
    """Measure attention that branches of guidance share."""
    plan, guided = rg.plan("ddim", den.path, nfe=STEPS), rg.guide.cfg(den, 2.0)
    halved = accelerate.every(plan, 2, knob="share")
    cases: Cases = {
        "attention shared, every 2": (rg.guide.cfg(accelerate.share_attention(den), 2.0), halved),
        "guided above 0.5 alone": (rg.guide.interval(guided, 0.5), plan),
    }
    return quality(model, guided, cases, items, effort, " guided")


def transformer8(weights: Path) -> Any:
    """Return the small trained transformer."""
    if not weights.exists():
        raise SystemExit(f"no {weights}: train the transformer, python examples/train_dit8.py --out {weights.parent}")
    spec = importlib.util.spec_from_file_location("train_dit8", ROOT / "examples" / "train_dit8.py")
    example: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(example)  # type: ignore[union-attr]
    return example.denoiser(weights)


def dit(weights: Path, items: int) -> dict[str, Any]:
    """Measure the caches of blocks on a small trained transformer."""
    den = transformer8(weights)
    plan = rg.plan("ddim", den.path, nfe=STEPS)
    cases: Cases = {}
    for order, k in ((0, 2), (0, 5), (1, 2), (1, 3), (1, 5), (2, 5)):
        column = accelerate.every(plan, k, begin=2)
        cases[f"all blocks, order {order}, every {k}"] = (accelerate.block_cache(den, order=order), column)
    count = len(find(den.network).chain) // 2
    steady = accelerate.steadiest(den, plan, count, condition=1)
    others = tuple(k for k in range(2 * count) if k not in steady)
    for name, blocks in (("steadiest", steady), ("other", others)):
        cases[f"{name} half of the blocks, every 5"] = (accelerate.block_cache(den, blocks), accelerate.every(plan, 5))
    for threshold in (0.05, 0.2):
        cases[f"first block {threshold}"] = (accelerate.first_block(den, threshold), plan)
        cases[f"teacache {threshold}"] = (accelerate.teacache(den, threshold), plan)
    ratios = accelerate.magnitudes(den, plan, condition=1)
    cases["magcache 0.06"] = (accelerate.block_cache(den), accelerate.magcache(plan, ratios))
    cases["block 3 left out in every 2nd"] = (accelerate.skip_blocks(den), left_out(plan, count))
    cases["half of the tokens merged"] = (accelerate.merge_tokens(den, 0.5), plan)
    halves = accelerate.every(plan, 2)
    taught = rg.train.fit_feedback(den, halves, 5, items=256, condition=labels(256), steps=800)
    cases["inner loop, 5 blocks, every 2"] = (accelerate.inner_loop(den, taught), halves)
    exits = rg.train.fit_exits(den, *data.digits8("train"), teacher="network", steps=400)
    cases["early exit 0.1"] = (accelerate.early_exit(den, exits, 0.1), plan)
    return quality("dit8", den, cases, items, MODERATE)


def together(model: str, cached: Any, budgets: tuple[float, ...], items: int, effort: Any) -> dict[str, Any]:
    """Measure plans fitted together with where to reuse, and fitted without reuse, of the same budgets."""
    judged, rows = judge(model, cached, items), []
    fit = accelerate.ReuseFit.of(cached, 0, effort, labels)
    for budget in budgets:
        found = fit.plans(budget)
        row: dict[str, Any] = {"budget": budget, "share": fit.share}
        for name, reusing in (("alone", False), ("reusing", True)):
            kept = [(error, p) for error, p in found if any(row.knobs for row in p.rows) == reusing]
            error, plan = kept[0]
            column = "".join("r" if row.knobs else "F" for row in plan.rows if row.time is not None)
            paid = column.count("F") + fit.share * column.count("r")
            row[name] = {"column": column, "cost": paid, "validation": error, **judged(cached, plan)}
        rows.append(row)
        print(budget, json.dumps(row), flush=True)
    return {"items": items, "rows": rows}


def halves(den: Any) -> dict[str, Any]:
    """Ways to reuse in the transformer: everything, extrapolated, for next to nothing; and four of the six blocks."""
    return {
        "all blocks, order 1": accelerate.block_cache(den, order=1),
        "the middle four blocks": accelerate.block_cache(den, (1, 2, 3, 4)),
    }


def fitted_dit(weights: Path, items: int) -> dict[str, Any]:
    """Measure fitted plans on the transformer, with its blocks reused and extrapolated."""
    den = transformer8(weights)
    return fits("dit8", den, accelerate.block_cache(den, order=1), (4, 6, 8), items, "seconds")


def fitted_digits(items: int) -> dict[str, Any]:
    """Measure fitted plans on the embedded UNet, with DeepCache."""
    den = rg.load("digits")
    return fits("digits", den, accelerate.deepcache(den), (6, 9, 11), items, QUICK)


def alternating(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Best processor seconds of each of several runs, taken in turn, so that others on the machine matter little."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - began)
    return best


def main() -> None:
    """Run the parts and keep their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dit", type=Path, default=ROOT / "runs" / "dit8" / "dit8.pt")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--parts", nargs="+", default=None)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "digits": lambda: digits(given.items),
        "dit8": lambda: dit(given.dit, given.items),
        "digits fitted": lambda: fitted_digits(given.items),
        "dit8 fitted": lambda: fitted_dit(given.dit, given.items),
        "dit8 together": lambda: {
            name: together("dit8", policy, (3.0, 4.0), given.items, MODERATE)
            for name, policy in halves(transformer8(given.dit)).items()
        },
        "digits together": lambda: together("digits", accelerate.deepcache(rg.load("digits")), (4.0,), given.items, CAREFUL),
        "digits guided": lambda: shared("digits", rg.load("digits"), given.items, QUICK),
        "dit8 guided": lambda: shared("dit8", transformer8(given.dit), given.items, MODERATE),
    }
    for name in given.parts or parts:
        made = parts[name]()
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept["machine"] = {"processor": platform.machine(), "threads": 1, "torch": torch.__version__}
        kept[name] = made
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
