"""What strong guidance does to digits: plain, and projected with and without a bound, by saturation, classifier and recall.

The embedded class-conditional digits of 8 by 8, 16 steps of DDIM, the same seeds throughout. "size" is the mean absolute
value of a pixel, "beyond" the share of pixels outside [-1, 1] by more than a hundredth, "accuracy" that of a classifier
trained here on the training set, "kernel" and "recall" compare its features with those of the test set, whose own figures
come first.

    python benchmarks/strong_guidance.py [SAMPLES]

writes benchmarks/results/strong_guidance.json. Sadat, Hilliges, Weber, 2024, arXiv 2410.02416.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import retrograde as rg
from retrograde.quality import kernel_distance, precision_recall
from retrograde.train.classify import accuracy

RESULTS = Path(__file__).parent / "results" / "strong_guidance.json"
RULES = {"cfg": None, "apg": {}, "apg, radius 1": {"radius": 1.0}}
WEIGHTS = (1.0, 1.5, 4.0, 8.0, 15.0)


def classifier(images: torch.Tensor, labels: torch.Tensor, steps: int = 1500, batch: int = 128) -> nn.Sequential:
    """Train a perceptron to tell digits apart; its features are all but the last layer."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(images[0].numel(), 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 10)
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(network(images[chosen]), labels[chosen]).backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def judged(network: nn.Sequential, samples: torch.Tensor, labels: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    """Figures of one set of samples."""
    features = network[:-1](samples)
    subsets = max(1, min(10, len(samples) // 30))
    figures = {
        "size": float(samples.abs().mean()),
        "beyond": float((samples.abs() > 1.01).double().mean()),
        "accuracy": accuracy(network, samples, labels),
        "kernel": kernel_distance(features, real, subsets=subsets).value,
        "recall": precision_recall(features, real)[1].value,
    }
    return {name: round(value, 4) for name, value in figures.items()}


def main(n: int) -> None:
    """Sample, judge and write."""
    started = time.process_time()
    torch.manual_seed(0)
    images, classes = rg.data.digits8("train")
    network = classifier(images.float(), classes)
    tested, answers = rg.data.digits8("test")
    tested = tested.reshape(-1, 1, 8, 8).float()
    den = rg.load("digits8-flow")
    plan = rg.plan("ddim", den.path, nfe=16)
    labels = torch.arange(n) % 10
    with torch.no_grad():
        real = network[:-1](tested[:n])
    found = {"test set": judged(network, tested[-n:], answers[-n:], real)}
    print(found, flush=True)
    for weight in WEIGHTS:
        for name, settings in RULES.items():
            if weight == 1.0 and name != "cfg":
                continue  # the conditional model, bit by bit; a test holds it
            guided = rg.guide.cfg(den, weight) if settings is None else rg.guide.apg(den, weight, momentum=-0.5, **settings)
            samples = rg.sample(guided, plan, n=n, seed=0, condition=labels)
            found[f"{name}, {weight:g}"] = judged(network, samples, labels, real)
            print(name, weight, found[f"{name}, {weight:g}"], flush=True)
    written = {
        "command": f"python benchmarks/strong_guidance.py {n}",
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "seconds": round(time.process_time() - started),
        "found": found,
    }
    RESULTS.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
