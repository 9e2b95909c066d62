"""Train a small unconditional pipeline of digits by the means of diffusers alone, and save it as a folder.

Nothing of Retrograde is imported: the folder stands for the pipelines that people already have. A UNet2DModel, the noise
of DDPMScheduler.add_noise, the squared error of the noise, an EMAModel, DDPMPipeline.save_pretrained. Digits of 16x16:
padded to 32x32, averaged over blocks of 2x2; about ten minutes of one core. A run that was stopped goes on from its last
checkpoint.

    python examples/train_pipeline.py runs/ddpm-digits16 --steps 2400
"""

import argparse
import time
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch.nn import functional

DATA = Path(__file__).parents[1] / "src" / "retrograde" / "data" / "mnist10k.npz"
TRAIN = 9000
"""The items before this one are for training; the file is shuffled."""

KEPT = 200
"""Steps from one checkpoint to the next."""


def images(file: Path) -> torch.Tensor:
    """Digits for training, [9000, 1, 16, 16] in [-1, 1]."""
    with np.load(file) as archive:
        pixels = torch.from_numpy(archive["images"])[:TRAIN, None].float() / 127.5 - 1.0
    return functional.avg_pool2d(functional.pad(pixels, (2, 2, 2, 2), value=-1.0), 2)


def network(width: int) -> diffusers.UNet2DModel:
    """A U-Net on 16, 8 and 4 pixels a side, with attention on the two smaller."""
    return diffusers.UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(width, 2 * width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def train(folder: Path, data: torch.Tensor, *, steps: int, batch: int, width: int, rate: float, seed: int) -> Any:
    """Train, or go on training, and return the pipeline, which is also saved."""
    torch.manual_seed(seed)
    unet, scheduler = network(width), diffusers.DDPMScheduler(num_train_timesteps=1000)
    ema = EMAModel(unet.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=rate)
    schedule = diffusers.optimization.get_cosine_schedule_with_warmup(optimizer, min(200, steps // 4), steps)
    parts = {"unet": unet, "ema": ema, "optimizer": optimizer, "schedule": schedule}
    checkpoint, done = folder.with_name(folder.name + ".checkpoint"), 0
    if checkpoint.is_file():
        held = torch.load(checkpoint, weights_only=True)
        done = held.pop("done")
        torch.set_rng_state(held.pop("random"))
        for name, part in parts.items():
            part.load_state_dict(held[name])
    began, losses = time.perf_counter(), []
    for step in range(done, steps):
        clean = data[torch.randint(len(data), (batch,))]
        noise, t = torch.randn_like(clean), torch.randint(1000, (batch,))
        loss = functional.mse_loss(unet(scheduler.add_noise(clean, noise, t), t).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(unet.parameters())
        losses.append(float(loss.detach()))
        if (step + 1) % KEPT == 0 or step + 1 == steps:
            folder.parent.mkdir(parents=True, exist_ok=True)
            held = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**held, "done": step + 1, "random": torch.get_rng_state()}, checkpoint)
            mean = sum(losses) / len(losses)
            print(f"step {step + 1}: loss {mean:.4f}, {time.perf_counter() - began:.0f} s", flush=True)
            losses = []
    ema.copy_to(unet.parameters())
    pipe = diffusers.DDPMPipeline(unet.eval(), scheduler)
    pipe.save_pretrained(folder)
    return pipe


def main() -> None:
    """Train by the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    train(
        given.folder,
        images(given.data),
        steps=given.steps,
        batch=given.batch,
        width=given.width,
        rate=given.rate,
        seed=given.seed,
    )
    print(given.folder)


if __name__ == "__main__":
    main()
