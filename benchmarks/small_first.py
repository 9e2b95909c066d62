"""Cascades of sizes and annealed tokens on trained networks: what holds on exact oracles, asked of digits.

sizes: `digits` at 28 pixels and a copy of it, trained further on the digits at 16 pixels. Bottleneck Sampling (Tian et al.,
2025, arXiv 2503.18940) goes 28-16-28, FreCaS (Zhang et al., 2024, arXiv 2410.18410) 16-28, each beside 28 alone with as many
evaluations and with as many as its cost pays for: Frechet and kernel distance of classifier features to the digits, and the
power of the samples by bands of frequency, relative to the run at 28 pixels. Costs by elements (a convolution's) and
by their square (attention's).

tokens: a small autoregressive transformer over 4x4 patches of the digits at 16 pixels with a diffusion head, trained here.
DiSA (Zhao et al., 2025, arXiv 2505.20297) gives late tokens fewer steps; beside it constant numbers, and the reversed order.

larger: `digits`, trained at 28 pixels, sampled at 36 with the logits of its attention scaled to the number of tokens (Jin et
al., 2023, arXiv 2306.08645), as they are, and scaled the wrong way: share of samples that the classifier reads as asked.

    python benchmarks/small_first.py [--parts sizes tokens larger] [--out runs/small_first]

Trains for some twenty minutes on one core, and goes on where it was stopped. Writes benchmarks/results/small_first.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import retrograde as rg
from retrograde import accelerate, data, zoo
from retrograde.accelerate import resized
from retrograde.accelerate.cascade import Stage
from retrograde.plan_file import write_atomically
from retrograde.quality import frechet_distance, kernel_distance

RESULTS = Path(__file__).parent / "results" / "small_first.json"
SIDE, PATCH, TOKENS = 16, 4, 16


def judged(samples: Tensor, real: Tensor) -> dict[str, float]:
    """Distances of classifier features to real digits; both [n, 1, 28, 28]."""
    features = zoo.classifier().features
    return {
        "frechet": frechet_distance(samples, real, features).value,
        "kernel": 1e3 * kernel_distance(samples, real, features).value,
    }


def bands(x: Tensor) -> Tensor:
    """Power of images by bands of radial frequency, the last two beyond what 16 of 28 pixels can show."""
    power = torch.fft.fft2(x.double()).abs().square().mean((0, 1))
    radius = torch.fft.fftfreq(x.shape[-1], 1 / x.shape[-1]).double().square()
    radius = (radius[:, None] + radius).sqrt()
    edges = (0.5, 4.0, 8.0, 11.0, 20.0)
    return torch.stack([power[(radius >= low) & (radius < high)].sum() for low, high in zip(edges, edges[1:], strict=False)])


def smaller(out: Path, steps: int) -> Any:
    """Return the denoiser of digits at 16 pixels: the embedded network, trained further at that size; kept in a folder."""
    large: Any = rg.load("digits")
    network = rg.nets.UNet((1, SIDE, SIDE), dropout=0.05)
    network.load_state_dict(large.network.state_dict())
    small = dataclasses.replace(large, network=network, shape=(1, SIDE, SIDE), name="digits16")
    config = rg.train.TrainConfig(
        predicts="edm",
        sigma_data=large.sigma_data,
        levels={"law": "lognormal_sigma", "mean": -0.5, "std": 1.3},
        batch=48,
        lr=5e-4,
        warmup=10,
        out=str(out / "digits16"),
        resume=True,
        progress=False,
        steps=steps,
    )
    images, labels = data.digits("train")
    trained = rg.train.fit(small, resized(images, (SIDE, SIDE)), labels, config)
    trained.denoiser.network.eval()  # type: ignore[union-attr]
    return trained.denoiser, trained.seconds


def sizes(out: Path, items: int) -> dict[str, Any]:
    """Measure cascades of two sizes."""
    large: Any = rg.load("digits")
    small, seconds = smaller(out, 1300)
    real, labels = data.digits("all")[0], [k % 10 for k in range(items)]
    whole = [(large, rg.plan("dpmpp_2m", large.path, nfe=14, grid="karras"))]
    cascades: dict[str, list[Stage]] = {"28, 14 steps": whole}
    for nfe in (7,):
        cascades[f"28, {nfe} steps"] = [(large, rg.plan("dpmpp_2m", large.path, nfe=nfe, grid="karras"))]
    trio, pair = [large, small, large], [small, large]
    for end, begins in ((0.2, 1.2), (0.3, 1.5), (0.3, 2.0)):
        name = f"28-16-28, (2, 8, 4) steps, on at {end} from {begins}"
        cascades[name] = accelerate.stages(trio, [2, 8, 4], [8.0, end], [10.0, begins])
        cascades[f"16-28, (10, 4) steps, on at {end} from {begins}"] = accelerate.stages(pair, [10, 4], [end], [begins])
    cascades["28-16-28 without fresh noise"] = accelerate.stages(trio, [2, 8, 4], [8.0, 0.3], [10.0, 1.5])
    rows: dict[str, Any] = {}
    elements, squares = ([math.prod(d.shape) ** power for d in (small, large)] for power in (1, 2))
    alone = bands(accelerate.cascade(whole, items, 4, condition=labels))

    def measure(name: str, stages: list[Stage], samples: Tensor) -> None:
        spent = [sum(p.nfe for d, p in stages if (d is large) == one) for one in (False, True)]
        rows[name] = {
            "elements": sum(a * b for a, b in zip(spent, elements, strict=True)) / (14 * elements[1]),
            "squared": sum(a * b for a, b in zip(spent, squares, strict=True)) / (14 * squares[1]),
            "bands": (bands(samples) / alone).tolist(),
            **judged(samples, real),
        }
        print(name, json.dumps(rows[name]), flush=True)

    for name, stages in cascades.items():
        measure(name, stages, accelerate.cascade(stages, items, 4, fresh="without" not in name, condition=labels))
    enlarged = resized(
        rg.sample(small, rg.plan("dpmpp_2m", small.path, nfe=14, grid="karras"), items, 4, condition=labels), (28, 28)
    )
    measure("16 alone, enlarged", [(small, whole[0][1])], enlarged)
    return {"items": items, "training seconds": seconds, "rows": rows}


class Sequence(nn.Module):
    """A causal transformer over tokens [n, K, 16] and a label: what is told to the head of each next token [n, K, width]."""

    def __init__(self, width: int = 96, depth: int = 3) -> None:
        super().__init__()
        self.enter = nn.Linear(PATCH * PATCH, width)
        self.begin = nn.Embedding(10, width)
        self.places = nn.Parameter(0.02 * torch.randn(TOKENS, width))
        layer = nn.TransformerEncoderLayer(width, 4, 3 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, tokens: Tensor | None, label: Tensor) -> Tensor:
        h = self.begin(label)[:, None]
        if tokens is not None:
            h = torch.cat([h, self.enter(tokens)], 1)
        h = h[:, :TOKENS] + self.places[: h.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(h.shape[1])
        return self.blocks(h, mask=mask, is_causal=True)


class Head(nn.Module):
    """The network of one token [n, 16]: three residual layers, scaled and shifted by the time and what it is told."""

    def __init__(self, width: int = 128, told: int = 96) -> None:
        super().__init__()
        self.enter = nn.Linear(PATCH * PATCH, width)
        self.told = nn.Linear(told + 16, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))
        self.modulate = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(3))
        self.leave = nn.Linear(width, PATCH * PATCH)

    def forward(self, x_t: Tensor, network_time: Tensor, seen: Tensor) -> Tensor:
        angles = network_time[:, None] * 2.0 ** torch.arange(8)
        told = functional.silu(self.told(torch.cat([seen, angles.sin(), angles.cos()], 1)))
        h = self.enter(x_t)
        for k, modulate in enumerate(self.modulate):
            scale, shift, gate = modulate(told).chunk(3, 1)
            inner = functional.layer_norm(h, h.shape[1:]) * (1 + scale) + shift
            h = h + gate * self.layers[2 * k + 1](functional.silu(self.layers[2 * k](inner)))
        return self.leave(functional.layer_norm(h, h.shape[1:]))


def patches(images: Tensor) -> Tensor:
    """Return images [n, 1, 16, 16] as tokens [n, 16, 16], row by row."""
    return functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


def autoregressive(steps: int, batch: int = 64) -> tuple[Sequence, Any, float]:
    """Train the sequence model with its head; the head is a denoiser of one token."""
    torch.manual_seed(0)
    sequence, network = Sequence(), Head()
    head = rg.Denoiser(network, rg.paths.VP(), "v", (PATCH * PATCH,), {"seen": torch.zeros(96)}, name="head")
    images, labels = data.digits("train")
    tokens = patches(resized(images, (SIDE, SIDE)))
    learned = [*sequence.parameters(), *network.parameters()]
    optimizer = torch.optim.AdamW(learned, lr=2e-3, weight_decay=0.01)
    generator, law = torch.Generator().manual_seed(1), rg.train.standard_law("v")
    began = time.process_time()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, (step + 1) / 100) * (1.0 - step / steps)
        chosen = torch.randint(len(tokens), (batch,), generator=generator)
        x_0, seen = tokens[chosen], sequence(tokens[chosen][:, :-1], labels[chosen])
        x_0, seen = (z.flatten(0, 1).repeat(2, 1) for z in (x_0, seen))  # two draws of noise for each token
        t, eps = law.sample(head.path, len(x_0), generator), torch.randn(x_0.shape, generator=generator)
        loss = rg.train.loss(head, x_0, t, eps, {"seen": seen}).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        if step % 500 == 0:
            print(step, loss.item(), flush=True)
    return sequence.eval(), head, time.process_time() - began


def tokens(out: Path, items: int) -> dict[str, Any]:
    """Measure annealed numbers of steps, token by token."""
    sequence, head, seconds = autoregressive(2000)
    real, labels = data.digits("all")[0], torch.arange(items) % 10
    enlarged: Callable[[Tensor], Tensor] = lambda x: resized(x, (28, 28))  # noqa: E731
    # digits that were made small and large again: what a perfect model of 16 pixels could reach
    rows: dict[str, Any] = {"digits at 16 pixels": judged(enlarged(resized(real[:items], (SIDE, SIDE))), real)}
    widths: list[float] = []

    def told(k: int, before: Tensor | None) -> tuple[Any, Any]:
        with torch.no_grad():
            return head, {"seen": sequence(before, labels)[:, -1]}

    annealed = accelerate.annealed(25, 5, TOKENS)
    mean = round(sum(annealed) / TOKENS)
    budgets = {
        "25 each": [25] * TOKENS,
        "annealed 25 to 5": annealed,
        f"{mean} each": [mean] * TOKENS,
        "reversed 5 to 25": annealed[::-1],
        "5 each": [5] * TOKENS,
    }
    for recipe in ("ddpm", "ddim"):
        for name, counts in budgets.items():
            plans = [rg.plan(recipe, head.path, nfe=count) for count in counts]
            figures = []
            for seed in (2, 3):
                made = accelerate.one_by_one(told, plans, items, seed)
                images = functional.fold(made.transpose(1, 2), (SIDE, SIDE), PATCH, stride=PATCH)
                figures.append(judged(enlarged(images.clamp(-1, 1)), real))
            rows[f"{recipe}, {name}"] = {"evaluations": sum(counts)} | {
                key: [figure[key] for figure in figures] for key in figures[0]
            }
            print(recipe, name, json.dumps(rows[f"{recipe}, {name}"]), flush=True)
    # how wide the law of each token is, given those before it: the variance of draws of one token, others as in the data
    few = patches(resized(data.digits("test")[0][:40], (SIDE, SIDE)))
    labelled = data.digits("test")[1][:40]
    plan = rg.plan("ddpm", head.path, nfe=25)
    for k in range(TOKENS):
        with torch.no_grad():
            seen = sequence(few[:, :k] if k else None, labelled)[:, -1]
        draws = rg.sample(head, plan, 400, 7, condition={"seen": seen.repeat_interleave(10, 0)}).reshape(40, 10, -1)
        widths.append(float(draws.var(1).mean()))
    return {"items": items, "training seconds": seconds, "variance by token": widths, "rows": rows}


def larger(out: Path, items: int) -> dict[str, Any]:
    """Measure attention scaled to the number of tokens, on the same noise."""
    embedded: Any = rg.load("digits")
    network = rg.nets.UNet((1, 36, 36), dropout=0.05).eval()
    network.load_state_dict(embedded.network.state_dict())
    den = dataclasses.replace(embedded, network=network, shape=(1, 36, 36), name="digits36")
    plan = rg.plan("dpmpp_2m", den.path, nfe=8, grid="karras")
    asked, real = torch.arange(items) % 10, data.digits("all")[0]
    rows = {}
    # 81 tokens: trained with 49 the logits are scaled by 1.06, with 144 by 0.94
    for name, trained in (("scaled", (28, 28)), ("as they are", (36, 36)), ("the wrong way", (48, 48))):
        made = rg.sample(accelerate.steady_entropy(den, trained), plan, items, 6, condition=asked.tolist())
        made = resized(made, (28, 28))
        with torch.no_grad():
            read = zoo.classifier()(made).argmax(1)
        rows[name] = {"read as asked": float((read == asked).double().mean()), **judged(made, real)}
        print(name, json.dumps(rows[name]), flush=True)
    return {"items": items, "rows": rows}


PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {"sizes": sizes, "tokens": tokens, "larger": larger}


def main() -> None:
    """Run the parts and keep their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "runs" / "small_first")
    parser.add_argument("--items", type=int, default=240)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for part in given.parts:
        made = PARTS[part](given.out, given.items)
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        write_atomically(RESULTS, (json.dumps(kept | {part: made}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
