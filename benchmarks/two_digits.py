"""Two digits side by side, asked for as a pair: which stands where is chance, until each region listens to its own prompt.

The embedded network of single digits is given cross-attention and trained on, on canvases of 8 by 16 with two digits under
the prompt {a, b}, which does not say which is where. Everything is drawn with classifier-free guidance, and judged by a
classifier of the halves: without regions, with regions of weight 1 at every level, and with a weight for each region and row
that was learned by the gradient of the classifier's log-score through the whole run, on other noise than that which judges.

"a left, b right"   share of halves whose digit is the one that their region asks for
"as asked"          share of pairs both of whose halves are
"either way"        counts b on the left and a on the right too
"score"             mean log-score of the classifier for both halves

    python benchmarks/two_digits.py [STEPS]

with the steps of training; writes benchmarks/results/two_digits.json. Wu et al., Harnessing the Spatial-Temporal Attention
of Diffusion Models for High-Fidelity Text-to-Image Synthesis, 2023, arXiv 2304.03869.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from strong_guidance import classifier
from torch import Tensor, nn
from torch.nn import functional

import retrograde as rg
from retrograde.run import run
from retrograde.train import loss

RESULTS = Path(__file__).parent / "results" / "two_digits.json"
PATH, NULL, GUIDANCE = rg.paths.Flow(), 10, 3.0
SHAPE, ROWS, STEPS = (1, 8, 16), 8, 2500


class Cross(nn.Module):
    """Cross-attention of places over the tokens of a prompt; it begins as nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = nn.Linear(NULL + 1, width), nn.Linear(NULL + 1, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        q, k, v = self.q(self.norm(hidden_states)), self.k(encoder_hidden_states), self.v(encoder_hidden_states)
        return self.out(functional.scaled_dot_product_attention(q, k, v))


class Pair(nn.Module):
    """The embedded network on canvases, with cross-attention after each block to a pair of one-hot tokens [n, 2, 11]."""

    def __init__(self) -> None:
        super().__init__()
        known: Any = rg.load("digits8-flow")
        self.unet = rg.nets.UNet(SHAPE, (24, 48), attention=(1,), patch=1, width=32)
        self.unet.load_state_dict(known.network.state_dict())
        self.cross = nn.ModuleList(Cross(width) for width in (24, 48, 48, 48, 48, 24, 24))

    def forward(self, x_t: Tensor, network_time: Tensor, text: Tensor) -> Tensor:
        unet: Any = self.unet
        level, cross = functional.silu(unet.embedding(network_time, None)), iter(self.cross)

        def told(block: nn.Module, h: Tensor) -> Tensor:
            h = block(h, level)
            return h + next(cross)(h.flatten(2).transpose(1, 2), text).transpose(1, 2).reshape(h.shape)

        kept = [unet.enter(x_t)]
        kept.append(told(unet.down[0][0], kept[-1]))
        kept.append(unet.shrink[0](kept[-1]))
        kept.append(told(unet.down[1][0], kept[-1]))
        h = told(unet.middle, kept[-1])
        for block in unet.up[0]:
            h = told(block, torch.cat([h, kept.pop()], 1))
        h = unet.grow[0](functional.interpolate(h, scale_factor=2.0))
        for block in unet.up[1]:
            h = told(block, torch.cat([h, kept.pop()], 1))
        return unet.leave(functional.silu(unet.norm(h)))


def told(first: Tensor, second: Tensor) -> Tensor:
    """Return the prompts of pairs, [n, 2, 11]."""
    return functional.one_hot(torch.stack([first, second], 1), NULL + 1).float()


def trained(steps: int) -> tuple[rg.Denoiser, rg.sites.Places]:
    """Return the denoiser of pairs after so many steps of training, and where its cross-attention is."""
    torch.manual_seed(0)
    network = Pair()
    den = rg.Denoiser(network, PATH, "velocity", SHAPE, {"text": told(*torch.full((2, 1), NULL))[0]})
    images, labels = rg.data.digits8("train")
    images, generator, law = images.float(), torch.Generator().manual_seed(0), rg.train.standard_law("velocity")
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for step in range(steps):
        left, right = torch.randint(len(images), (2, 64), generator=generator)
        x = torch.cat([images[left], images[right]], 3)
        swap = torch.rand(64, generator=generator) < 0.5
        first, second = torch.where(swap, labels[right], labels[left]), torch.where(swap, labels[left], labels[right])
        none = torch.rand(64, generator=generator) < 0.1
        text = told(first.masked_fill(none, NULL), second.masked_fill(none, NULL))
        t, eps = law.sample(PATH, 64, generator), torch.randn(x.shape, generator=generator)
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1.0, step / 50) * (1.0 - step / steps)
        optimizer.zero_grad()
        loss(den, x, t, eps, {"text": text}).mean().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    network.eval().requires_grad_(False)
    return den, rg.sites.Places(network, cross=tuple(f"cross.{k}" for k in range(len(network.cross))))


def halves() -> Tensor:
    """Return the masks of the left and of the right half."""
    left = (torch.arange(SHAPE[2]) < SHAPE[2] // 2).float().expand(1, *SHAPE[1:])
    return torch.cat([left, 1.0 - left])


PAIRS = [(a, b) for a in range(10) for b in range(10) if a != b][:29:7]
Table = dict[str, dict[str, float]]


def judges() -> tuple[nn.Sequential, float]:
    """Return a classifier of single digits, and its accuracy on those of the test set."""
    torch.manual_seed(0)
    images, labels = rg.data.digits8("train")
    judge = classifier(images.float(), labels).requires_grad_(False)
    unseen, answers = rg.data.digits8("test")
    return judge, float((judge(unseen.float()).argmax(1) == answers).double().mean())


def measured(
    den: rg.Denoiser,
    places: rg.sites.Places,
    judge: nn.Module,
    pairs: Sequence[tuple[int, int]],
    n: int,
    rate: float = 0.2,
) -> Table:
    """Return the figures of n canvases of each pair, for each way of asking; weights are learned in five steps of Adam.

    Of a network trained for 500 steps the rate 0.2 is too much, its score falls from -0.05 to -0.36; 0.02 is not.
    """
    plan = rg.plan("ddim", den, nfe=ROWS)

    def score(x: Tensor, a: int, b: int) -> Tensor:
        left, right = judge(x[..., :8]).log_softmax(1), judge(x[..., 8:]).log_softmax(1)
        return left[:, a] + right[:, b]

    def drawn(guided: rg.denoisers.AbstractDenoiser, rows: rg.Plan, a: int, b: int, seed: int, n: int, **how: str) -> Tensor:
        text = told(torch.full((n,), a), torch.full((n,), b))
        x = PATH.s(rows.start) * torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
        led = rg.guide.cfg(guided, GUIDANCE)
        *_, last = run(rows, led, x, condition={"text": text}, **how)  # type: ignore[arg-type]
        return last.x_t

    def column(weights: Tensor) -> rg.Plan:
        rows = [
            dataclasses.replace(row, knobs={"regions": w}) if row.time is not None else row
            for row, w in zip(plan.rows, [*weights, *[None] * (len(plan.rows) - ROWS)], strict=True)
        ]
        return dataclasses.replace(plan, rows=tuple(rows), report=None)

    found: dict[str, list[tuple[float, ...]]] = {"without regions": [], "weight 1": [], "learned": []}
    for a, b in pairs:
        local = [told(torch.tensor([c]), torch.tensor([c]))[0] for c in (a, b)]
        both = rg.guide.regions(den, local, halves(), [1.0, 1.0], places=places, text="text")
        weights = torch.ones(ROWS, 2, requires_grad=True)
        optimizer = torch.optim.Adam([weights], lr=rate)
        for k in range(5):
            optimizer.zero_grad()
            (-score(drawn(both, column(weights), a, b, k, 12, gradient="unroll"), a, b).mean()).backward()
            optimizer.step()
        ways = {"without regions": (den, plan), "weight 1": (both, plan), "learned": (both, column(weights.detach()))}
        for name, (guided, rows) in ways.items():
            with torch.no_grad():
                x = drawn(guided, rows, a, b, 100, n)
            left, right = judge(x[..., :8]).argmax(1), judge(x[..., 8:]).argmax(1)
            asked, swapped = (left == a) & (right == b), (left == b) & (right == a)
            shares = (float(one.double().mean()) for one in (torch.cat([left == a, right == b]), asked, asked | swapped))
            found[name].append((*shares, float(score(x, a, b).mean())))
        print(a, b, {name: rows[-1] for name, rows in found.items()}, flush=True)
    names = ("a left, b right", "as asked", "either way", "score")
    return {
        name: {key: round(sum(row[k] for row in rows) / len(rows), 4) for k, key in enumerate(names)}
        for name, rows in found.items()
    }


def main(steps: int) -> None:
    """Train, measure and write."""
    begun = time.process_time()
    den, places = trained(steps)
    judge, accuracy = judges()
    written = {
        "command": f"python benchmarks/two_digits.py {steps}",
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "guidance": GUIDANCE,
        "accuracy of the classifier": round(accuracy, 4),
        "pairs": [list(pair) for pair in PAIRS],
        "found": measured(den, places, judge, PAIRS, 50),
        "seconds": round(time.process_time() - begun),
    }
    print(written["found"])
    RESULTS.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
