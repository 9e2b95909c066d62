"""Two digits side by side, asked for as a pair: which stands where is chance, until each region listens to its own prompt.

A small network with cross-attention is trained on canvases of 8 by 16 with two digits under the prompt {a, b}, which does
not say which is where. "as asked" is the share of pairs whose digit a is on the left and b on the right, by a classifier of
the halves: without regions, with regions of weight 1 at every level, and with a weight for each region and row that was
learned by the gradient of the classifier's log-score through the whole run, on other noise than that which judges. "score"
is the mean of that log-score; "either way" counts b on the left and a on the right too.

    python benchmarks/two_digits.py [SECONDS]

with the seconds of training; writes benchmarks/results/two_digits.json. Wu et al., Harnessing the Spatial-Temporal Attention
of Diffusion Models for High-Fidelity Text-to-Image Synthesis, 2023, arXiv 2304.03869.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from pathlib import Path

import torch
from strong_guidance import classifier
from torch import Tensor, nn
from torch.nn import functional

import retrograde as rg
from retrograde.nets.embedding import LevelEmbedding
from retrograde.run import run
from retrograde.train import loss

RESULTS = Path(__file__).parent / "results" / "two_digits.json"
PATH, WIDTH, NULL = rg.paths.Flow(), 48, 10
SHAPE, ROWS, PAIRS = (1, 8, 16), 8, 50


class Cross(nn.Module):
    """Cross-attention of places over the tokens of a prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k, self.v = nn.Linear(NULL + 1, WIDTH), nn.Linear(NULL + 1, WIDTH)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        q, k, v = self.q(self.norm(hidden_states)), self.k(encoder_hidden_states), self.v(encoder_hidden_states)
        return self.out(functional.scaled_dot_product_attention(q, k, v))


class Block(nn.Module):
    """Two convolutions told the level, self-attention over the canvas, cross-attention to the prompt."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(2))
        self.norm, self.tell = nn.GroupNorm(8, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.own, self.seen = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH)
        self.cross = Cross()

    def forward(self, h: Tensor, level: Tensor, text: Tensor) -> Tensor:
        scale, shift = self.tell(level)[:, :, None, None].chunk(2, 1)
        h = h + self.second(functional.silu(self.norm(self.first(functional.silu(h))) * (1 + scale) + shift))
        places = h.flatten(2).transpose(1, 2)
        q, k, v = self.seen(self.own(places)).chunk(3, -1)
        places = places + functional.scaled_dot_product_attention(q, k, v)
        places = places + self.cross(places, text)
        return places.transpose(1, 2).reshape(h.shape)


class Pair(nn.Module):
    """The network of canvases under a pair of digits, one-hot tokens [n, 2, 11]."""

    def __init__(self) -> None:
        super().__init__()
        self.level, self.enter = LevelEmbedding(WIDTH, 0), nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm, self.leave = nn.GroupNorm(8, WIDTH), nn.Conv2d(WIDTH, 1, 3, padding=1)
        row, column = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 16), indexing="ij")
        self.register_buffer("place", torch.stack([row, column])[None])

    def forward(self, x_t: Tensor, network_time: Tensor, text: Tensor) -> Tensor:
        level = functional.silu(self.level(network_time, None))
        h = self.enter(torch.cat([x_t, self.place.expand(len(x_t), -1, -1, -1)], 1))  # type: ignore[operator]
        for block in self.blocks:
            h = block(h, level, text)
        return self.leave(functional.silu(self.norm(h)))


def told(first: Tensor, second: Tensor) -> Tensor:
    """Return the prompts of pairs, [n, 2, 11]."""
    return functional.one_hot(torch.stack([first, second], 1), NULL + 1).float()


def trained(den: rg.Denoiser, network: nn.Module, seconds: float) -> int:
    """Train the network for so many seconds of this process; return its steps."""
    images, labels = rg.data.digits8("train")
    images, generator, law = images.float(), torch.Generator().manual_seed(0), rg.train.standard_law("velocity")
    optimizer, step, begun = torch.optim.Adam(network.parameters(), lr=2e-3), 0, time.process_time()
    while (share := (time.process_time() - begun) / seconds) < 1.0:
        left, right = torch.randint(len(images), (2, 64), generator=generator)
        x = torch.cat([images[left], images[right]], 3)
        swap = torch.rand(64, generator=generator) < 0.5
        first, second = torch.where(swap, labels[right], labels[left]), torch.where(swap, labels[left], labels[right])
        none = torch.rand(64, generator=generator) < 0.1
        text = told(first.masked_fill(none, NULL), second.masked_fill(none, NULL))
        t, eps = law.sample(PATH, 64, generator), torch.randn(x.shape, generator=generator)
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, step / 50) * (1.0 - share)
        optimizer.zero_grad()
        loss(den, x, t, eps, {"text": text}).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
    return step


def main(seconds: float) -> None:
    """Train, measure and write."""
    begun = time.process_time()
    torch.manual_seed(0)
    images, labels = rg.data.digits8("train")
    judge = classifier(images.float(), labels).requires_grad_(False)
    network = Pair()
    den = rg.Denoiser(network, PATH, "velocity", SHAPE, {"text": told(*torch.full((2, 1), NULL))[0]})
    steps = trained(den, network, seconds)
    network.eval().requires_grad_(False)
    places = rg.sites.Places(network, cross=tuple(f"blocks.{k}.cross" for k in range(3)))
    masks = torch.zeros(2, 8, 16)
    masks[0, :, :8], masks[1, :, 8:] = 1.0, 1.0
    plan = rg.plan("ddim", den, nfe=ROWS)
    pairs = [(a, b) for a in range(10) for b in range(10) if a != b]
    pairs = [pairs[(7 * k) % len(pairs)] for k in range(5)]

    def score(x: Tensor, a: int, b: int) -> Tensor:
        halves = [judge(half).log_softmax(1)[:, c] for half, c in ((x[..., :8], a), (x[..., 8:], b))]
        return halves[0] + halves[1]

    def drawn(guided: rg.denoisers.AbstractDenoiser, rows: rg.Plan, a: int, b: int, seed: int, n: int, **how: str) -> Tensor:
        text = told(torch.full((n,), a), torch.full((n,), b))
        x = PATH.s(rows.start) * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
        *_, last = run(rows, guided, x, condition={"text": text}, **how)  # type: ignore[arg-type]
        return last.x_t

    found: dict[str, list[tuple[float, ...]]] = {"without regions": [], "weight 1": [], "learned": []}
    for a, b in pairs:
        local = [told(torch.tensor([c]), torch.tensor([c]))[0] for c in (a, b)]
        both = rg.guide.regions(den, local, masks, [1.0, 1.0], places=places, text="text")
        weights = torch.ones(ROWS, 2, requires_grad=True)
        optimizer = torch.optim.Adam([weights], lr=0.2)

        def learned(weights: Tensor) -> rg.Plan:
            rows = [
                dataclasses.replace(row, knobs={"regions": w}) if row.time is not None else row
                for row, w in zip(plan.rows, [*weights, *[None] * (len(plan.rows) - ROWS)], strict=True)
            ]
            return dataclasses.replace(plan, rows=tuple(rows), report=None)

        for k in range(5):
            optimizer.zero_grad()
            (-score(drawn(both, learned(weights), a, b, k, 12, gradient="unroll"), a, b).mean()).backward()
            optimizer.step()
        ways = {"without regions": (den, plan), "weight 1": (both, plan), "learned": (both, learned(weights.detach()))}
        for name, (guided, rows) in ways.items():
            with torch.no_grad():
                x = drawn(guided, rows, a, b, 100, PAIRS)
            left, right = judge(x[..., :8]).argmax(1), judge(x[..., 8:]).argmax(1)
            asked, swapped = (left == a) & (right == b), (left == b) & (right == a)
            shares = (float(one.double().mean()) for one in (asked, asked | swapped))
            found[name].append((*shares, float(score(x, a, b).mean())))
        print(a, b, {name: rows[-1] for name, rows in found.items()}, flush=True)
    names = ("as asked", "either way", "score")
    table = {
        name: {key: round(sum(row[k] for row in rows) / len(rows), 4) for k, key in enumerate(names)}
        for name, rows in found.items()
    }
    written = {
        "command": f"python benchmarks/two_digits.py {seconds:g}",
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "seconds": round(time.process_time() - begun),
        "steps": steps,
        "pairs": [list(pair) for pair in pairs],
        "found": table,
    }
    print(table)
    RESULTS.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 150.0)
