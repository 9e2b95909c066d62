"""Train the embedded `digits` model: class-conditional 28x28 digits on the EDM path.

    python examples/train_digits.py --out runs/digits            # about 45 minutes on one core
    python examples/train_digits.py --out runs/digits --resume   # goes on after an interruption

The model folder is runs/digits/model.
"""

import argparse

import torch

from retrograde.train import TrainConfig, run

CONFIG = {
    "name": "digits",
    "data": "digits",
    "path": {"name": "edm", "sigma_min": 0.002, "sigma_max": 80.0},
    "predicts": "edm",
    "sigma_data": 0.6,
    "levels": {"law": "lognormal_sigma", "mean": -0.5, "std": 1.3},
    "network": {"class": "UNet", "channels": [48, 96], "blocks": 1, "patch": 2, "attention": [1], "dropout": 0.05},
    "batch": 64,
    "lr": 1.5e-3,
    "warmup": 500,
    "precision": "bfloat16",
    "label_dropout": 0.1,
    "store": "float16",
    "command": "python examples/train_digits.py",
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/digits")
    parser.add_argument("--steps", type=int, default=14_000)
    parser.add_argument("--seconds", type=float, default=None, help="stop after this many seconds of training")
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained = run(TrainConfig(**CONFIG, out=given.out, steps=given.steps, seconds=given.seconds, resume=given.resume))
    print(f"{trained.step} steps, {trained.seconds:.0f} s, loss {trained.loss:.4f}")
