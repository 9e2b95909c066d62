"""Train the embedded 8x8 models: `digits8-noise` (1000 discrete cosine steps) and `digits8-flow` (straight path).

python examples/train_digits8.py noise --out runs/digits8-noise
python examples/train_digits8.py flow --out runs/digits8-flow
"""

import argparse
import math

import torch

from retrograde.paths import from_alphas_cumprod
from retrograde.train import TrainConfig, run


def cosine_alphas_cumprod(steps: int = 1000, offset: float = 0.008) -> list[float]:
    """The cosine schedule with rates clipped at 0.999 (Nichol and Dhariwal, 2021, arXiv 2102.09672)."""

    def f(u: float) -> float:
        return math.cos(0.5 * math.pi * (u + offset) / (1 + offset)) ** 2

    products, product = [], 1.0
    for i in range(steps):
        product *= 1.0 - min(0.999, 1.0 - f((i + 1) / steps) / f(i / steps))
        products.append(product)
    return products


NETWORK = {"class": "UNet", "channels": [24, 48], "blocks": 1, "patch": 1, "attention": [1], "width": 32}
COMMON = {"data": "digits8", "batch": 128, "lr": 2e-3, "warmup": 300, "label_dropout": 0.1, "store": "float16"}
CONFIGS = {
    "noise": {
        "name": "digits8-noise",
        "path": from_alphas_cumprod(cosine_alphas_cumprod()).config(),
        "predicts": "noise",
        "network": {**NETWORK, "time_scale": 0.001},
    },
    "flow": {"name": "digits8-flow", "path": "flow", "predicts": "velocity", "network": NETWORK},
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=CONFIGS)
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--resume", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    command = f"python examples/train_digits8.py {given.kind}"
    trained = run(
        TrainConfig(**COMMON, **CONFIGS[given.kind], command=command, out=given.out, steps=given.steps, resume=given.resume)
    )
    print(f"{trained.step} steps, {trained.seconds:.0f} s, loss {trained.loss:.4f}")
