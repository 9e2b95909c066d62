"""What reuse costs on larger networks, and beside other people's code in one process.

unet: an SD-shaped UNet with random weights. Multiply-accumulates and seconds of every policy over UNets, beside the
uncached run; and DeepCache here beside the DeepCache package (if it is installed).

transformer: a transformer with random weights. First-block caches here, in diffusers and in cache-dit (if it is installed).

stream: seconds of a stream of frames beside those of frames sampled one by one.

parallel: rounds and evaluations of sampling many rows at once.

Two codes are compared pair by pair in turns, each once first and once second: the median of the ratios of processor seconds
says more than the best of each, for what else the machine does changes slowly.

    python benchmarks/reuse_speed.py [--parts unet "unet costs" transformer stream parallel]

Writes benchmarks/results/reuse_speed.json.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from reuse import alternating, rms

import retrograde as rg
from retrograde import accelerate
from retrograde.plan_file import write_atomically
from retrograde.sites import cost

RESULTS = Path(__file__).parent / "results" / "reuse_speed.json"


Runs = dict[str, Callable[[], Any]]


def paired(one: Callable[[], Any], other: Callable[[], Any], pairs: int = 12) -> dict[str, Any]:
    """Ratios of processor seconds of one to the other, pair by pair, the first to run in turns; median and quartiles."""
    for run in (one, other):
        run()
    ratios = []
    for k in range(pairs):
        spent = [0.0, 0.0]
        for place in (k % 2, 1 - k % 2):
            began = time.process_time()
            (one, other)[place]()
            spent[place] = time.process_time() - began
        ratios.append(spent[0] / spent[1])
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"pairs": pairs, "median": median, "quartiles": [low, high]}


def stable_diffusion() -> tuple[Any, Any]:
    """Return an SD-shaped UNet with random weights, and its denoiser."""
    from diffusers import DDIMScheduler, UNet2DConditionModel

    torch.manual_seed(0)
    net = UNet2DConditionModel(
        sample_size=16, block_out_channels=(64, 128, 128, 128), cross_attention_dim=64, norm_num_groups=16
    ).eval()
    text = torch.randn(8, 64)

    class Told(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = net

        def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
            return self.unet(x, t[0], encoder_hidden_states=text).sample

    scheduler = DDIMScheduler(clip_sample=False)
    path = rg.paths.from_alphas_cumprod(scheduler.alphas_cumprod)
    return net, rg.Denoiser(Told(), path, "noise", (4, 16, 16), {"text": text})


def unet() -> dict[str, Any]:
    """Compare DeepCache here and in the package on one SD-shaped UNet, in one process."""
    net, den = stable_diffusion()
    steps, interval = 9, 3
    plan = rg.plan("ddim", den.path, nfe=steps)
    x = rg.record(den, plan[:1], 1).trajectory[0]
    times = [torch.tensor(row.network_time) for row in plan.bind(den).rows if row.time is not None]
    rows: dict[str, Any] = {}
    for branch in (0, 1, 2):
        cached, column = accelerate.deepcache(den, branch), accelerate.every(plan, interval)
        spent = cost(cached, column, 1, repeats=0, x=x)
        outputs: dict[str, torch.Tensor] = {}

        def asked(name: str, denoiser: Any, p: rg.Plan, into: dict[str, torch.Tensor] = outputs) -> None:
            into[name] = rg.sample(denoiser, p, x=x)

        runs: Runs = {
            "here": lambda c=cached, p=column, a=asked: a("here", c, p),
            "uncached": lambda a=asked: a("uncached", den, plan),
        }
        if importlib.util.find_spec("DeepCache"):
            from DeepCache.extension.deepcache import DeepCacheSDHelper  # type: ignore[import-not-found]

            def packaged(branch: int = branch, a: Callable[..., None] = asked) -> None:
                told = types.SimpleNamespace(timesteps=torch.stack(times))
                helper = DeepCacheSDHelper(pipe=types.SimpleNamespace(unet=net, scheduler=told))
                helper.set_params(cache_interval=interval, cache_branch_id=branch)
                helper.enable()
                try:
                    a("package", den, plan)
                finally:
                    helper.disable()

            runs["package"] = packaged
        row: dict[str, Any] = {"macs": spent.macs, "spared": spent.spared, "seconds": alternating(runs, 5)}
        if "package" in runs:
            row["here to package"] = paired(runs["here"], runs["package"])
        row["to uncached"] = {name: rms(made, outputs["uncached"]) for name, made in outputs.items()}
        rows[f"branch {branch}"] = row
        print(branch, json.dumps(row), flush=True)
    return {"steps": steps, "every": interval, "rows": rows}


def unet_costs() -> dict[str, Any]:
    """Costs of every policy over UNets on the SD-shaped one: parts of the uncached run, by counting and by the clock."""
    _, den = stable_diffusion()
    plan = rg.plan("ddim", den.path, nfe=10)
    halves, guided = accelerate.every(plan, 2), rg.guide.cfg(den, 2.0)
    cases: dict[str, tuple[Any, rg.Plan, Any]] = {
        f"deepcache branch {branch} every 2": (accelerate.deepcache(den, branch), halves, den) for branch in (0, 2, 5)
    }
    encoder = accelerate.encoder_cache(den)
    cases["encoder every 2"] = (encoder, halves, den)
    cases["encoder every 2, decoders in one call"] = (encoder, accelerate.decode_ahead(halves, den), den)
    cases["half of the tokens merged"] = (accelerate.merge_tokens(den, 0.5), plan, den)
    cases["three blocks left out in every 2nd"] = (
        accelerate.skip_blocks(den),
        accelerate.reuse(plan, range(0, 10, 2), [6, 7, 8], knob="skip"),
        den,
    )
    sharing = accelerate.every(plan, 2, knob="share")
    cases["attention shared, every 2"] = (rg.guide.cfg(accelerate.share_attention(den), 2.0), sharing, guided)
    cases["guided above 0.5 alone"] = (rg.guide.interval(guided, 0.5), plan, guided)
    rows: dict[str, Any] = {}
    for name, (denoiser, column, whole) in cases.items():
        told: dict[str, Any] = {"condition": {"text": torch.randn(8, 64, generator=torch.Generator().manual_seed(1))}}
        spent, full = (cost(d, p, 1, repeats=0, **told).macs for d, p in ((denoiser, column), (whole, plan)))
        runs: Runs = {
            "here": lambda d=denoiser, p=column, told=told: rg.sample(d, p, **told),
            "uncached": lambda d=whole, told=told: rg.sample(d, plan, **told),
        }
        rows[name] = {"macs": spent, "part": spent / full, "seconds": paired(runs["here"], runs["uncached"], 6)}
        print(name, json.dumps(rows[name]), flush=True)
    return {"steps": 10, "rows": rows}


def transformer(repeats: int = 5) -> dict[str, Any]:
    """Compare first-block caches here and in other libraries on one transformer with random weights, in one process."""
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

        runs: Runs = {
            "here": lambda c=cached, m=made: m.update(here=rg.sample(c, plan)),
            "diffusers": hooked,
            "uncached": lambda m=made: m.update(uncached=rg.sample(den, plan)),
        }
        row: dict[str, Any] = {
            "macs": cost(cached, plan, repeats=0).macs,
            "seconds": alternating(runs, repeats),
            "here to diffusers": paired(runs["here"], runs["diffusers"]),
        }
        row["to uncached"] = {name: rms(samples, made["uncached"]) for name, samples in made.items()}
        row["same as diffusers"] = torch.equal(made["here"], made["diffusers"])
        rows[f"threshold {threshold}"] = row
        print(threshold, json.dumps(row), flush=True)
    return {"steps": 20, "rows": rows}


def stream(frames: int = 24) -> dict[str, Any]:
    """Compare a stream of frames, one call for each, with frames sampled one by one: processor seconds of all."""
    den = rg.load("digits8-flow")
    given = list(torch.randn(frames, *den.shape, generator=torch.Generator().manual_seed(0)))
    rows = {}
    for nfe in (1, 2, 4, 8):
        plan = rg.plan("ddim", den.path, nfe=nfe)
        runs: Runs = {
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


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "unet": unet,
    "unet costs": unet_costs,
    "transformer": transformer,
    "stream": stream,
    "parallel": parallel,
}


def main() -> None:
    """Run the parts and keep their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.parts:
        made = PARTS[name]()
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept["machine"] = {"processor": platform.machine(), "threads": 1, "torch": torch.__version__}
        write_atomically(RESULTS, (json.dumps(kept | {name: made}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
