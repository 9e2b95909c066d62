"""Train a perceptron on the digits at 14 by 14, v prediction on a VP path: a model that no tuner was made with.

python examples/train_digits14.py --out runs/digits14    # three minutes on one core
"""

import argparse
from pathlib import Path
from typing import Literal

import torch

import retrograde as rg

SHAPE = (1, 14, 14)


def denoiser(weights: Path | None = None) -> rg.Denoiser:
    """Return the denoiser, with trained weights or fresh ones."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = rg.nets.MLPDenoiser(SHAPE, width=256, depth=3, classes=10)
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
    return rg.Denoiser(network.eval(), rg.paths.VP(), "v", SHAPE, {"label": 10}, name="digits14")


def images(split: Literal["train", "test"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits at half their size [n, 1, 14, 14], and their labels [n]."""
    large, labels = rg.data.digits(split)
    return torch.nn.functional.avg_pool2d(large, 2), labels


def train(out: Path, steps: int = 4000) -> rg.train.Trained:
    """Train the model; leave its averaged weights in `out`/digits14.pt."""
    config = rg.train.TrainConfig(
        data="digits",
        name="digits14",
        path="vp",
        predicts="v",
        network={"class": "MLPDenoiser", "width": 256, "depth": 3},
        batch=96,
        lr=2e-3,
        warmup=300,
        out=str(out),
        steps=steps,
    )
    trained = rg.train.fit(denoiser(), *images("train"), config)
    torch.save(trained.denoiser.network.state_dict(), out / "digits14.pt")
    return trained


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained = train(given.out, given.steps)
    print(f"{trained.step} steps, {trained.seconds:.0f} s, loss {trained.loss:.4f}")
