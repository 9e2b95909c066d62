"""Small recipes of restoration that are published for large pictures: does what they add pay on digits of 8 by 8?

"compact" (DiffIR): a restoring perceptron that is modulated by 16 numbers of a network that saw the clean digit, by those
that a chain makes of the degraded one, trained with it or apart, and by none. Digits are blurred, averaged over blocks of
2 by 2, and noisy (0.1).

"guided" (degradation-guided low-rank change): the embedded model of small digits becomes a restorer of one step, by
changes of low rank, plain ones of as many weights and such that are told blur and noise, rightly and those of another item.

PSNR is over unseen digits (peak to peak 2); every row is the mean over trainings.

    python benchmarks/restore_small.py [--only compact guided] [--trials 2] [--steps 800]

Figures go to benchmarks/results/restore_small.json, a recipe at a time. Some minutes of one core for each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde import data
from retrograde.plan_file import write_atomically
from retrograde.train import (
    GuidedRank,
    compact_path,
    compact_prior_loss,
    degraded,
    low_rank,
    mean_steps,
    one_step_loss,
)

RESULTS = Path(__file__).parent / "results" / "restore_small.json"
SHAPE, BATCH = (1, 8, 8), 128


def psnr(x: Tensor, truth: Tensor) -> float:
    """Return the mean over items of 10 log10(2^2 / mean squared error), in dB."""
    return float(
        (10.0 * torch.log10(4.0 / (x - truth).detach().double().square().flatten(1).mean(1).clamp(min=1e-6))).mean()
    )


def minimize(weights: Any, value_of: Callable[[Tensor, int], Tensor], count: int, steps: int, batch: int = BATCH) -> None:
    """Adam with half a cosine over batches of `count` items: value_of(places, step)."""
    learned = [one for one in weights if one.requires_grad]
    optimizer, generator = torch.optim.Adam(learned, lr=1e-3), torch.Generator().manual_seed(1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        value = value_of(torch.randint(count, (batch,), generator=generator), step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()


def perceptron(*sizes: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for one, other in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(one, other), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class Modulated(nn.Module):
    """A residual perceptron of the degraded digit whose features a vector scales and shifts: W_1 z * norm(F) + W_2 z."""

    def __init__(self, numbers: int, width: int = 192, depth: int = 3) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(64, width), nn.Linear(width, 64)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.scales = nn.ModuleList(nn.Linear(numbers, width) for _ in range(depth))
        self.shifts = nn.ModuleList(nn.Linear(numbers, width) for _ in range(depth))
        self.blocks = nn.ModuleList(perceptron(width, width, width) for _ in range(depth))

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        h = self.enter(y.flatten(1))
        for norm, scale, shift, block in zip(self.norms, self.scales, self.shifts, self.blocks, strict=True):
            h = h + block((1.0 + scale(z)) * norm(h) + shift(z))
        return y + self.leave(h).reshape(y.shape)


class Told(nn.Module):
    """A perceptron of (z_t, t, D)."""

    def __init__(self, numbers: int, seen: int) -> None:
        super().__init__()
        self.layers = perceptron(numbers + 1 + seen, 128, 128, numbers)

    def forward(self, z_t: Tensor, told: Tensor, seen: Tensor) -> Tensor:
        return self.layers(torch.cat([z_t, told[:, None].to(z_t), seen], 1))


def compact(seed: int, steps: int) -> list[dict[str, Any]]:
    """DiffIR's two stages, and what each part of them is worth."""
    numbers, seen = 16, 32
    x, held = data.digits8("train")[0], data.digits8("test")[0][:500]

    def lower(images: Tensor, seed: int) -> Tensor:
        return degraded(degraded(images, "blur:sigma=0.7"), "down:2", 0.1, seed)

    y, low = lower(x, 0), lower(held, 1)
    torch.manual_seed(seed)
    extractor, first = perceptron(128, 128, numbers), Modulated(numbers)

    def prior(clean: Tensor, y: Tensor) -> Tensor:
        return extractor(torch.cat([clean.flatten(1), y.flatten(1)], 1))

    def missed(made: Tensor, clean: Tensor) -> Tensor:
        return (made - clean).abs().mean()

    both = [*extractor.parameters(), *first.parameters()]
    minimize(both, lambda at, step: missed(first(y[at], prior(x[at], y[at])), x[at]), len(x), steps)
    torch.manual_seed(seed)
    none, nothing = Modulated(numbers), torch.zeros(1, numbers)
    minimize(none.parameters(), lambda at, step: missed(none(y[at], nothing), x[at]), len(x), 2 * steps)
    rows = [{"model": "degraded", "psnr": psnr(low, held)}, {"model": "no numbers", "psnr": psnr(none(low, nothing), held)}]
    rows.append({"model": "numbers of the clean digit", "psnr": psnr(first(low, prior(held, low)), held)})
    extractor.requires_grad_(False)
    for label, count, together in (("chain of 4", 4, True), ("chain of 1", 1, True), ("chain of 4, apart", 4, False)):
        torch.manual_seed(seed)
        sees, restorer = perceptron(64, 128, seen), Modulated(numbers)
        restorer.load_state_dict(first.state_dict())
        told = {"seen": torch.zeros(seen)}
        den = rg.Denoiser(Told(numbers, seen), compact_path(count), "data", (numbers,), conditions=told)
        learned = [*sees.parameters(), *den.network.parameters()]  # type: ignore[attr-defined]
        if together:
            learned += [*restorer.parameters()]

        def value(at: Tensor, step: int, den: Any = den, sees: Any = sees, restorer: Any = restorer) -> Tensor:
            z = prior(x[at], y[at])
            told = {"seen": sees(y[at].flatten(1))}
            return compact_prior_loss(den, restorer, z, x[at], y[at], told, seed=step).mean()

        if not together:
            restorer.requires_grad_(False)
        minimize(learned, value, len(x), steps)
        with torch.no_grad():
            began = time.process_time()
            table, told = mean_steps(den.path), {"seen": sees(low.flatten(1))}  # type: ignore[arg-type]
            z = rg.sample(den, table, n=len(low), condition=told)
            spent = time.process_time() - began
            made = restorer(low, z)
            error = float((z - prior(held, low)).abs().mean())
        whole = time.process_time() - began
        rows.append({"model": label, "psnr": psnr(made, held), "numbers_error": error, "share_of_time": spent / whole})
    return rows


def weights(network: nn.Module) -> int:
    """Return how many numbers of a network learn."""
    return sum(one.numel() for one in network.parameters() if one.requires_grad)


def guided(seed: int, steps: int) -> list[dict[str, Any]]:
    """One-step restorers made of a trained model by low-rank changes, plain and told how their input is degraded."""
    base, time_asked = rg.load("digits8-flow"), 0.4
    assert isinstance(base, rg.Denoiser)
    x, held = data.digits8("train")[0], data.digits8("test")[0][:500]
    blurs = [rg.operators.make(f"blur:sigma={0.15 * k:g}", SHAPE) for k in range(1, 9)]

    def lower(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        kinds = torch.randint(len(blurs), (len(images),), generator=generator)
        blurred = torch.empty_like(images)
        for k, blur in enumerate(blurs):
            blurred[kinds == k] = blur(images[kinds == k])
        noise = torch.rand(len(images), generator=generator)
        y = blurred + 0.8 * noise[:, None, None, None] * torch.randn(images.shape, generator=generator)
        return y, torch.stack([kinds / (len(blurs) - 1), noise], 1)

    low, d = lower(held, torch.Generator().manual_seed(2))
    plan, a = rg.plan("ddim", base.path, grid=[time_asked]), base.path.a(time_asked)
    rows = [{"model": "degraded", "psnr": psnr(low, held)}]
    rows.append({"model": "one step of the model", "psnr": psnr(rg.sample(base, plan, x=a * low), held)})
    torch.manual_seed(seed)
    network = base.network
    assert isinstance(network, nn.Module)
    told = GuidedRank(network, numbers=2, rank=8, waves=16, width=64)
    rank = next(r for r in range(8, 64) if weights(low_rank(network, r)) >= weights(told))
    torch.manual_seed(seed)
    for label, changed in (("plain change", low_rank(network, rank)), ("told blur and noise", told)):
        conditions = {**base.conditions, **({"degradation": torch.zeros(2)} if changed is told else {})}
        den = rg.Denoiser(changed, base.path, base.predicts, SHAPE, conditions=conditions)

        def value(at: Tensor, step: int, den: Any = den) -> Tensor:
            y, d = lower(x[at], torch.Generator().manual_seed(1000 + step))
            t = torch.full((len(at),), time_asked, dtype=torch.float64)
            given = {"label": torch.full((len(at),), 10)}
            return one_step_loss(den, x[at], y, t, {**given, **({"degradation": d} if den.network is told else {})}).mean()

        minimize(changed.parameters(), value, len(x), steps, batch=64)
        ways = [(label, d)] if changed is not told else [(label, d), ("told those of another digit", d.roll(1, 0))]
        for name, numbers in ways:
            given = {"degradation": numbers} if changed is told else None
            made = rg.sample(den, plan, x=a * low, condition=given)
            rows.append({"model": name, "psnr": psnr(made, held), "weights": weights(changed)})
    return rows


RECIPES: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {"compact": compact, "guided": guided}


def main(recipes: dict[str, Callable[[int, int], list[dict[str, Any]]]], text: str) -> None:
    """Train, restore, keep."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(recipes), choices=list(recipes))
    parser.add_argument("--trials", type=int, default=2)
    parser.add_argument("--steps", type=int, default=800)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only:
        began = time.process_time()
        trials = [recipes[name](seed, given.steps) for seed in range(given.trials)]
        rows = []
        for parts in zip(*trials, strict=True):
            row: dict[str, Any] = {"model": parts[0]["model"]}
            row |= {key: round(sum(part[key] for part in parts) / len(parts), 4) for key in parts[0] if key != "model"}
            row["each_psnr"] = [round(part["psnr"], 3) for part in parts]
            rows.append(row)
            print(name, row, flush=True)
        held: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        held["torch"] = torch.__version__
        held[name] = {
            "command": f"python benchmarks/{Path(sys.argv[0]).stem}.py --only {name} --steps {given.steps}",
            "trials": given.trials,
            "steps": given.steps,
            "rows": rows,
        }
        held[name]["seconds"] = round(time.process_time() - began, 1)
        write_atomically(RESULTS, (json.dumps(held, indent=1) + "\n").encode())


if __name__ == "__main__":
    main(RECIPES, __doc__ or "")
