"""Reuse against its honest control: the same recipe with fewer steps, and better plans, at equal multiply-accumulates.

For each model, policy and column: multiply-accumulates and seconds, the distance to the uncached run and to the end points
of a fine solver from the same noise, and the Frechet distance to the data. Beside it the same recipe with as many steps
as the policy's cost pays for, and dpmpp_2m with as many; fitted plans of such budgets, alone and with reuse, in parts of
their own. For an SD-shaped UNet with random weights costs alone, of DeepCache here and of the DeepCache package (if
it is installed), and of first-block caches here and in diffusers. For streams, seconds beside
those of frames sampled one by one. For sampling many rows at once, rounds and evaluations.

    python benchmarks/reuse.py [--dit runs/dit8/dit8.pt] [--items 64] [--parts digits "digits fitted" ...]

The transformer is trained by `python examples/train_dit8.py`. Writes benchmarks/results/reuse.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import platform
import time
import types
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


def judge(model: str, den: Any, items: int) -> Judged:
    """Return what measures samples: distances to the uncached run and to a fine one, and the Frechet distance to data."""
    images = (data.digits8 if model == "dit8" else data.digits)("all")[0]
    features = (lambda x: x.flatten(1)) if model == "dit8" else zoo.classifier().features
    labels = [k % 10 for k in range(items)]
    draw: Callable[[Any, rg.Plan], torch.Tensor] = lambda d, p: rg.sample(d, p, items, 3, condition=labels)  # noqa: E731
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


def quality(model: str, den: Any, cases: dict[str, tuple[Any, rg.Plan]], items: int) -> dict[str, Any]:
    """Measure the cases of one model, each beside its controls."""
    judged, plan = judge(model, den, items), rg.plan("ddim", den.path, nfe=STEPS)
    batch = 16 if model == "dit8" else 4  # timed; an evaluation of the transformer is short
    one = cost(den, rg.plan("ddim", den.path, nfe=1), 1, condition=0).macs
    rows = [{"case": "uncached", "nfe": STEPS, "macs": cost(den, plan, 1, condition=1).macs} | judged(den, plan)]
    for name, (denoiser, p) in cases.items():
        spent = cost(denoiser, p, 4, condition=1)
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
        rows.append(row)
        print(name, json.dumps({k: v for k, v in row.items() if k != "case"}, default=str), flush=True)
    return {"items": items, "rows": rows}


def fits(model: str, den: Any, cached: Any, budgets: tuple[int, ...], items: int, effort: Any) -> dict[str, Any]:
    """Measure fitted plans of some budgets, alone and with every second evaluation after the second reused."""
    judged = judge(model, den, items)
    one = cost(den, rg.plan("ddim", den.path, nfe=1), 1, condition=0).macs
    rows = []
    for nfe in budgets:
        plan = rg.tune(den, nfe, effort=effort, condition=lambda n, seed: [k % 10 for k in range(n)], compare=False)
        row: dict[str, Any] = {"nfe": nfe, "alone": judged(den, plan)}
        column = accelerate.every(plan, 2, begin=2)
        row["reused"] = judged(cached, column) | {"steps it pays for": cost(cached, column, 1, condition=1).macs / one}
        rows.append(row)
        print(nfe, json.dumps(row), flush=True)
    return {"items": items, "rows": rows}


def digits(items: int) -> dict[str, Any]:
    """Measure DeepCache on the embedded UNet."""
    den = rg.load("digits")
    plan = rg.plan("ddim", den.path, nfe=STEPS)
    cases = {
        f"deepcache branch {b} every {k}": (accelerate.deepcache(den, b), accelerate.every(plan, k))
        for b, k in ((0, 2), (0, 3), (0, 5), (2, 3))
    }
    cases["encoder every 3"] = (accelerate.encoder_cache(den), accelerate.every(plan, 3))
    cases["deepcache branch 0 centred 7"] = (accelerate.deepcache(den, 0), accelerate.centred(plan, 7))
    return quality("digits", den, cases, items)


def transformer8(weights: Path) -> Any:
    """Return the small trained transformer."""
    spec = importlib.util.spec_from_file_location("train_dit8", ROOT / "examples" / "train_dit8.py")
    example: Any = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(example)  # type: ignore[union-attr]
    return example.denoiser(weights)


def dit(weights: Path, items: int) -> dict[str, Any]:
    """Measure the caches of blocks on a small trained transformer."""
    den = transformer8(weights)
    plan = rg.plan("ddim", den.path, nfe=STEPS)
    cases: dict[str, tuple[Any, rg.Plan]] = {}
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
    return quality("dit8", den, cases, items)


def together(model: str, cached: Any, budgets: tuple[float, ...], items: int, effort: Any) -> dict[str, Any]:
    """Measure plans fitted together with where to reuse, and fitted without reuse, of the same budgets."""
    judged, rows = judge(model, cached, items), []
    fit = accelerate.ReuseFit.of(cached, 0, effort, lambda n, seed: [k % 10 for k in range(n)])
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


def unet(repeats: int = 7) -> dict[str, Any]:
    """Compare DeepCache here and in the package on one SD-shaped UNet, in one process."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    net = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 128, 128), cross_attention_dim=64, norm_num_groups=16
    ).eval()
    text = torch.randn(1, 8, 64)

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = net

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.unet(x, t[0], encoder_hidden_states=text.expand(len(x), -1, -1)).sample

    scheduler = DDIMScheduler(clip_sample=False)
    path = rg.paths.from_alphas_cumprod(scheduler.alphas_cumprod)
    den = rg.Denoiser(Told(), path, "noise", (4, 16, 16))
    steps, interval = 9, 3
    plan = rg.plan("ddim", path, nfe=steps)
    x = rg.record(den, plan[:1], 1).trajectory[0]
    times = [torch.tensor(row.network_time) for row in plan.bind(den).rows if row.time is not None]
    rows: dict[str, Any] = {}
    for branch in (0, 2):
        cached, column = accelerate.deepcache(den, branch), accelerate.every(plan, interval)
        spent = cost(cached, column, 1, x=x)
        outputs: dict[str, list[torch.Tensor]] = {"here": [], "package": [], "uncached": []}

        def asked(denoiser: Any, p: rg.Plan, into: list[torch.Tensor]) -> None:
            into[:] = [state.x_t for state in rg.steps(p, denoiser, x=x)]

        runs: dict[str, Callable[[], Any]] = {
            "here": lambda c=cached, p=column, o=outputs: asked(c, p, o["here"]),
            "uncached": lambda o=outputs: asked(den, plan, o["uncached"]),
        }
        if importlib.util.find_spec("DeepCache"):
            from DeepCache.extension.deepcache import DeepCacheSDHelper

            def packaged(o: dict[str, list[torch.Tensor]] = outputs, branch: int = branch) -> None:
                told = types.SimpleNamespace(timesteps=torch.stack(times))
                helper = DeepCacheSDHelper(pipe=types.SimpleNamespace(unet=net, scheduler=told))
                helper.set_params(cache_interval=interval, cache_branch_id=branch)
                helper.enable()
                try:
                    asked(den, plan, o["package"])
                finally:
                    helper.disable()

            runs["package"] = packaged
        seconds = alternating(runs, repeats)
        rows[f"branch {branch}"] = {
            "macs": spent.macs,
            "spared": spent.spared,
            "seconds": seconds,
            "to uncached": {
                name: rms(made[-1], outputs["uncached"][-1]) for name, made in outputs.items() if made and name != "uncached"
            },
        }
        print(branch, json.dumps(rows[f"branch {branch}"]), flush=True)
    return {"steps": steps, "every": interval, "rows": rows}


def transformer(repeats: int = 7) -> dict[str, Any]:
    """Compare first-block caches here and in diffusers on one transformer with random weights, in one process."""
    from diffusers import DiTTransformer2DModel
    from diffusers.hooks import FirstBlockCacheConfig, HookRegistry, apply_first_block_cache
    from diffusers.hooks.hooks import CacheContext, _set_cache_context

    torch.manual_seed(0)
    net = DiTTransformer2DModel(
        num_attention_heads=6, attention_head_dim=32, in_channels=4, out_channels=4, num_layers=8, sample_size=16
    ).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter) / max(1, parameter[0].numel()) ** 0.5)

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = net

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            label = torch.zeros(len(x), dtype=torch.long)
            return self.transformer(x, timestep=10 * t, class_labels=label).sample

    den = rg.Denoiser(Told(), rg.paths.Flow(), "velocity", (4, 16, 16))
    plan = rg.plan("ddim", den.path, nfe=20)
    rows: dict[str, Any] = {}
    for threshold in (0.02, 0.1, 0.3):
        cached, made = accelerate.first_block(den, threshold), {}

        def hooked(threshold: float = threshold, made: dict[str, torch.Tensor] = made) -> None:
            apply_first_block_cache(net, FirstBlockCacheConfig(threshold=threshold))
            try:
                _set_cache_context(net, CacheContext("run"))
                made["diffusers"] = rg.sample(den, plan)
            finally:
                registry = HookRegistry.check_if_exists_or_initialize(net)
                _set_cache_context(net, None)
                for hook in ("fbc_leader_block_hook", "fbc_block_hook"):
                    registry.remove_hook(hook, recurse=True)

        runs: dict[str, Callable[[], Any]] = {
            "here": lambda c=cached, m=made: m.update(here=rg.sample(c, plan)),
            "diffusers": hooked,
            "uncached": lambda m=made: m.update(uncached=rg.sample(den, plan)),
        }
        seconds = alternating(runs, repeats)
        rows[f"threshold {threshold}"] = {
            "macs": cost(cached, plan).macs,
            "seconds": seconds,
            "to uncached": {name: rms(made[name], made["uncached"]) for name in ("here", "diffusers")},
            "here to diffusers": rms(made["here"], made["diffusers"]),
        }
        print(threshold, json.dumps(rows[f"threshold {threshold}"]), flush=True)
    return {"steps": 20, "rows": rows}


def stream(frames: int = 24) -> dict[str, Any]:
    """Compare a stream of frames, one call for each, with frames sampled one by one: processor seconds of all."""
    den = rg.load("digits8-flow")
    given = list(torch.randn(frames, *den.shape, generator=torch.Generator().manual_seed(0)))
    rows = {}
    for nfe in (1, 2, 4, 8):
        plan = rg.plan("ddim", den.path, nfe=nfe)
        runs: dict[str, Callable[[], Any]] = {
            "stream": lambda p=plan: list(accelerate.stream(given, den, p, condition=1)),
            "one by one": lambda p=plan: [
                rg.sample(den, p, signal=frame[None], items=[k], condition=1) for k, frame in enumerate(given)
            ],
        }
        seconds = alternating(runs, 3)
        rows[f"{nfe} evaluations"] = {"seconds": seconds, "gain": seconds["one by one"] / seconds["stream"]}
    return {"model": den.name, "frames": frames, "rows": rows}


def parallel(items: int = 4) -> dict[str, Any]:
    """Count the rounds of sampling many rows at once: sweeps of 100 rows, and speculation over 50."""
    den = rg.load("digits8-flow")
    labels = [k % 10 for k in range(items)]
    rows: dict[str, Any] = {}

    def counted(name: str, made: Any, **more: Any) -> None:
        rows[name] = {"rounds": made.rounds.tolist(), "evaluations": made.ledger.nfe} | more
        print(name, json.dumps(rows[name]), flush=True)

    for recipe in ("ddim", "ddpm"):
        plan = rg.plan(recipe, den.path, nfe=100)
        alone = rg.sample(den, plan, items, 1, condition=labels)
        for window, anderson in ((None, 0), (None, 3), (25, 0), (25, 3)):
            made = accelerate.picard(den, plan, items, 1, window=window, anderson=anderson, condition=labels)
            case = f"{recipe}, window {window or 'all'}, anderson {anderson}"
            counted(case, made, **{"to sequential": rms(made.samples, alone)})
    plan = rg.plan("ddpm", den.path, nfe=50)
    for window in (4, 8):
        made = accelerate.speculative(den, plan, items, 1, window=window, condition=labels)
        counted(f"speculative, window {window}", made, accepted=(made.accepted / made.drafted).tolist())
    return {"model": den.name, "items": items, "rows": rows}


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
        "unet": unet,
        "transformer": transformer,
        "stream": stream,
        "parallel": parallel,
    }
    for name in given.parts or parts:
        with torch.no_grad() if name in ("unet", "transformer") else torch.enable_grad():
            made = parts[name]()
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept["machine"] = {"processor": platform.machine(), "threads": 1, "torch": torch.__version__}
        kept[name] = made
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
