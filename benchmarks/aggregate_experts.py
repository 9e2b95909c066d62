"""Three networks that know a part of the digits each, and one gate over all their blocks.

Three copies of the embedded 8x8 model, without labels, are trained on, on the digits 0 to 3, 4 to 6 and 7 to 9, and forget
the others. The gate learns from all digits while the networks stay as they are. What counts is the squared error of the data
mean on the test set, over nine levels of noise:

"expert 0-3", ...   one network alone
"weights"           a network with the mean of the three networks' weights
"outputs"           the mean of the three outputs
"common begin"      the embedded model, which has all that the parts have lost
"features"          features mixed after every block, at equal weights
"gate"              features mixed by the gate (adaptive feature aggregation)

    python benchmarks/aggregate_experts.py [STEPS] [GATE]

with the steps of every expert and of the gate; writes benchmarks/results/aggregate_experts.json.
"""

from __future__ import annotations

import copy
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.train import TrainConfig, fit, fit_gate

RESULTS = Path(__file__).parent / "results" / "aggregate_experts.json"
PARTS = {"0-3": (0, 1, 2, 3), "4-6": (4, 5, 6), "7-9": (7, 8, 9)}
LEVELS = tuple(k / 10 for k in range(1, 10))
PATH = rg.load("digits8-flow").path


def denoiser(network: nn.Module) -> Any:
    """Return the denoiser of a network of small digits without labels."""
    return rg.Denoiser(network.eval().requires_grad_(False), PATH, "velocity", (1, 8, 8))


def trained(network: nn.Module, images: Tensor, steps: int, seed: int, rate: float = 2e-3) -> nn.Module:
    """Train a copy of a network."""
    den = rg.Denoiser(copy.deepcopy(network).requires_grad_(True), PATH, "velocity", (1, 8, 8))
    with tempfile.TemporaryDirectory() as out:
        settings = {"steps": steps, "batch": 64, "lr": rate, "warmup": 50, "seed": seed, "out": out, "progress": False}
        return fit(den, images, None, TrainConfig(predicts="velocity", classes=0, **settings)).denoiser.network  # type: ignore[return-value]


def missed(den: Any, images: Tensor) -> list[float]:
    """Return the mean squared error of the data mean at every level, of the same noise for all."""
    found = []
    for place, t in enumerate(LEVELS):
        eps = torch.randn(images.shape, generator=torch.Generator().manual_seed(place))
        with torch.no_grad():
            made = den(PATH.a(t) * images + PATH.s(t) * eps, t).data
        found.append(float((made - images).square().mean()))
    return found


def main(steps: int, gate: int) -> None:
    """Train, measure and write."""
    started = time.process_time()
    images, labels = rg.data.digits8("train")
    images, unseen = images.float(), rg.data.digits8("test")[0].float()
    begin = rg.load("digits8-flow")
    common = getattr(begin, "network", nn.Identity())
    own = [images[torch.isin(labels, torch.tensor(part))] for part in PARTS.values()]
    experts = [trained(common, part, steps, k + 1) for k, part in enumerate(own)]
    weights = copy.deepcopy(common)
    mean = {name: sum(one.state_dict()[name] for one in experts) / 3 for name in common.state_dict()}
    weights.load_state_dict(mean)  # type: ignore[arg-type]
    dens = [denoiser(one) for one in experts]
    features, outputs = (rg.guide.aggregate(dens[0], dens[1:], sites=sites) for sites in (None, [""]))
    ways: dict[str, Any] = {"common begin": denoiser(common)}
    ways |= {f"expert {name}": den for name, den in zip(PARTS, dens, strict=True)}
    ways |= {"weights": denoiser(weights), "outputs": outputs, "features": features}
    before = time.process_time()
    ways["gate"] = mixed = fit_gate(features, images, steps=gate, rate=5e-3)
    learned = mixed.gate if isinstance(mixed.gate, nn.Module) else nn.Identity()
    seconds = time.process_time() - before
    found = {}
    for name, den in ways.items():
        errors = missed(den, unseen)
        found[name] = {"mean": round(sum(errors) / len(errors), 5), "levels": [round(error, 5) for error in errors]}
        print(name, found[name]["mean"], flush=True)
    rivals = [row["mean"] for name, row in found.items() if name.startswith("expert") or name in ("weights", "outputs")]
    written = {
        "command": f"python benchmarks/aggregate_experts.py {steps} {gate}",
        "machine": f"{platform.system()} {platform.machine()}, torch {torch.__version__}",
        "seconds": round(time.process_time() - started),
        "seconds of the gate": round(seconds),
        "parameters": sum(p.numel() for p in common.parameters()),
        "parameters of the gate": sum(p.numel() for p in learned.parameters()),
        "below the best rival": round(1.0 - found["gate"]["mean"] / min(rivals), 4),
        "found": found,
    }
    RESULTS.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    given = [*sys.argv[1:], *("500", "300")[len(sys.argv) - 1 :]]
    main(*(int(one) for one in given))
