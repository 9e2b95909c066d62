"""Train a small diffusion transformer of diffusers on the 8x8 digits: what policies over blocks are measured on.

python examples/train_dit8.py --out runs/dit8
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import retrograde as rg

BLOCKS, HEADS, CHANNELS = 6, 4, 12
"""Depth, heads and channels of a head; 16 tokens of 2x2 pixels."""


class SmallDiT(nn.Module):
    """A DiT of diffusers that is told the path time and a label, 10 for none."""

    def __init__(self) -> None:
        from diffusers import DiTTransformer2DModel

        super().__init__()
        self.transformer = DiTTransformer2DModel(
            num_attention_heads=HEADS,
            attention_head_dim=CHANNELS,
            in_channels=1,
            out_channels=1,
            num_layers=BLOCKS,
            sample_size=8,
            patch_size=2,
            norm_num_groups=1,
            num_embeds_ada_norm=10,
        )

    def forward(self, x_t: torch.Tensor, network_time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.transformer(x_t, timestep=1000.0 * network_time, class_labels=label).sample


def denoiser(weights: Path | None = None) -> rg.Denoiser:
    """Return the denoiser, with trained weights or fresh ones."""
    torch.manual_seed(0)
    network = SmallDiT()
    if weights is not None:
        network.load_state_dict(torch.load(weights, weights_only=True))
    return rg.Denoiser(network.eval(), rg.paths.Flow(), "velocity", (1, 8, 8), {"label": 10}, name="dit8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = rg.data.digits8("train")
    config = rg.train.TrainConfig(
        data="digits8",
        name="dit8",
        path="flow",
        predicts="velocity",
        network={"class": "SmallDiT"},
        batch=48,
        lr=2e-3,
        warmup=100,
        out=str(given.out),
        steps=given.steps,
    )
    trained = rg.train.fit(denoiser(), images, labels, config)
    torch.save(trained.denoiser.network.state_dict(), given.out / "dit8.pt")
    print(f"{trained.step} steps, {trained.seconds:.0f} s, loss {trained.loss:.4f}")
