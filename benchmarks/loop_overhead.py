"""What the loop costs beside the network: time and allocations per step, against the scheduler of diffusers.

The network is free (it returns a stored tensor), the state is that of a latent image model, 4x4x64x64 in float32. Both
sides run in one process and take turns, so that what disturbs one disturbs the other.

    python benchmarks/loop_overhead.py [--repeats 60] [--json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import retrograde as rg

SHAPE = (4, 4, 64, 64)
STEPS = 20
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
THEIR_NAMES = {"data": "sample", "noise": "epsilon"}


@dataclasses.dataclass(frozen=True)
class Figures:
    """One comparison.

    Attributes:
        predicts: what the network predicts; our plan steps with data predictions.
        ours, diffusers: microseconds per step, medians over the repeats.
        ours_best, diffusers_best: the least of the repeats, which other load on the machine disturbs least.
        ours_allocations, diffusers_allocations: tensors of the state's size allocated per step.
        repeats: how many runs of 20 steps each side took.
    """

    predicts: str
    ours: float
    diffusers: float
    ours_best: float
    diffusers_best: float
    ours_allocations: float
    diffusers_allocations: float
    repeats: int

    @property
    def ratio(self) -> float:
        """Our time over theirs: the larger of the ratio of medians and the ratio of the best."""
        return max(self.ours / self.diffusers, self.ours_best / self.diffusers_best)


class Allocations(TorchDispatchMode):
    """Counts new storages of at least `size` bytes: results that share no memory with an argument."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self.size:
                self.count += tensor.untyped_storage().data_ptr() not in known
        return result


def contestants(predicts: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return two functions that run 20 steps of DPM-Solver++(2M): by our loop, and by the scheduler of diffusers."""
    from diffusers import DPMSolverMultistepScheduler

    generator = torch.Generator().manual_seed(0)
    x, output = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    scheduler = DPMSolverMultistepScheduler(**BETAS, prediction_type=THEIR_NAMES[predicts])
    path = rg.paths.from_alphas_cumprod(scheduler.alphas_cumprod)
    den = rg.Denoiser(lambda x_t, t: output, path, predicts, SHAPE[1:])
    plan = rg.plan("dpmpp_2m", den, nfe=STEPS, grid="uniform")

    def ours() -> None:
        for _ in rg.run(plan, den, x):
            pass

    def theirs() -> None:
        sample = x
        for timestep in scheduler.timesteps:
            sample = scheduler.step(output, timestep, sample, return_dict=False)[0]

    def reset_and_run() -> None:
        scheduler.set_timesteps(STEPS)
        theirs()

    return ours, reset_and_run


def compare(predicts: str, repeats: int) -> Figures:
    """Measure both sides in turns, and count what each allocates in one more run.

    The scheduler's preparation of its timesteps is timed with its steps, as our binding of the plan is with ours.
    """
    sides = contestants(predicts)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 5):
        for side, kept in zip(sides, seconds, strict=True):
            began = time.perf_counter()
            side()
            kept.append(time.perf_counter() - began)
    micro = [[1e6 * s / STEPS for s in kept[5:]] for kept in seconds]
    allocations = []
    for side in sides:
        with Allocations(4 * torch.Size(SHAPE).numel()) as counter:
            side()
        allocations.append(counter.count / STEPS)
    return Figures(predicts, *map(statistics.median, micro), *map(min, micro), *allocations, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = [compare(predicts, options.repeats) for predicts in THEIR_NAMES]
    if options.json:
        print(json.dumps([dataclasses.asdict(f) | {"ratio": f.ratio} for f in figures], indent=1))
        return
    for f in figures:
        print(
            f"network predicts {f.predicts:5}  ours {f.ours:6.1f} us/step (best {f.ours_best:.1f})  diffusers "
            f"{f.diffusers:6.1f} (best {f.diffusers_best:.1f})  ratio {f.ratio:.2f}  "
            f"states allocated per step {f.ours_allocations:.2f} against {f.diffusers_allocations:.2f}"
        )


if __name__ == "__main__":
    main()
