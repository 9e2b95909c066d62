"""What the loop costs beside the network: time, allocations and operations per step, against the scheduler of diffusers.

The network is free (it returns a stored tensor), the state is that of a latent image model, 4x4x64x64 in float32. Both
sides run in one process and take turns, so that what disturbs one disturbs the other.

    python benchmarks/loop_overhead.py [--repeats 60] [--write | --count]

--write measures every recipe that has a scheduler of diffusers beside it, and stores the figures in
benchmarks/results/loop_overhead.json: on an idle machine, for single steps are a few passes over memory. --count stores the
allocations and operations anew, which no other program disturbs, and leaves the times as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import retrograde as rg
from retrograde.noise import Noise

SHAPE = (4, 4, 64, 64)
STEPS = 20
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
THEIR_NAMES = {"data": "sample", "noise": "epsilon"}
RESULTS = Path(__file__).parent / "results" / "loop_overhead.json"
COMMAND = "python benchmarks/loop_overhead.py --write"

_SINGLE, _MULTI = "DPMSolverSinglestepScheduler", "DPMSolverMultistepScheduler"
_OLD, _NEW = {"algorithm_type": "dpmsolver"}, {"algorithm_type": "dpmsolver++"}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddpm": ("DDPMScheduler", {"clip_sample": False}),
    "deis_logrho1": ("DEISMultistepScheduler", {"solver_order": 2}),
    "deis_logrho2": ("DEISMultistepScheduler", {"solver_order": 3}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_ancestral": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm_solver_2": (_SINGLE, _OLD | {"solver_order": 2, "final_sigmas_type": "sigma_min"}),
    "dpm_solver_2m": (_MULTI, _OLD | {"solver_order": 2, "final_sigmas_type": "sigma_min"}),
    "dpm_solver_3m": (_MULTI, _OLD | {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    "dpm_solver_3": (_SINGLE, _OLD | {"solver_order": 3, "final_sigmas_type": "sigma_min"}),
    "dpmpp_2m": (_MULTI, _NEW | {"solver_order": 2}),
    "dpmpp_2m_sde": (_MULTI, {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}),
    "dpmpp_2s": (_SINGLE, _NEW | {"solver_order": 2}),
    "dpmpp_3m": (_MULTI, _NEW | {"solver_order": 3}),
    "dpmpp_3s": (_SINGLE, _NEW | {"solver_order": 3}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": False}),
    "sa_solver": ("SASolverScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "unipc_2": ("UniPCMultistepScheduler", {"solver_order": 2}),
    "unipc_3": ("UniPCMultistepScheduler", {"solver_order": 3}),
}
"""For each recipe the class and options of the scheduler that samples the same way."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """One comparison; a step is one network evaluation.

    Attributes:
        recipe: our sampler, and the scheduler beside it.
        predicts: what the network predicts; most of our plans step with data predictions.
        ours, diffusers: microseconds per step, medians over the repeats.
        ours_best, diffusers_best: the least of the repeats, which other load on the machine disturbs least.
        ours_allocations, diffusers_allocations: tensors of the state's size allocated per step.
        ours_operations, diffusers_operations: operations that torch is asked for per step, the views among them.
        repeats: how many runs of 20 steps each side took.
    """

    recipe: str
    peer: str
    predicts: str
    ours: float
    diffusers: float
    ours_best: float
    diffusers_best: float
    ours_allocations: float
    diffusers_allocations: float
    ours_operations: float
    diffusers_operations: float
    repeats: int

    @property
    def ratio(self) -> float:
        """Our time over theirs: the larger of the ratio of medians and the ratio of the best."""
        return max(self.ours / self.diffusers, self.ours_best / self.diffusers_best)


class Counter(TorchDispatchMode):
    """Counts operations, and new storages of at least `size` bytes: results that share no memory with an argument."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.allocations, self.operations = size, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        known = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() >= self.size:
                self.allocations += tensor.untyped_storage().data_ptr() not in known
        return result


def contestants(recipe: str, predicts: str) -> tuple[Callable[[], int], Callable[[], int]]:
    """Return two functions that run 20 evaluations, by our loop and by the scheduler of diffusers, and count their steps.

    Noise is free like the network: both sides are handed a stored tensor where they would draw. What drawing costs, keyed
    and not, is measured apart (`noise_figures`).
    """
    import diffusers

    generator = torch.Generator().manual_seed(0)
    x, output = (torch.randn(SHAPE, generator=generator) for _ in range(2))
    name, options = PEERS[recipe]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        scheduler = getattr(diffusers, name)(**BETAS, prediction_type=THEIR_NAMES[predicts], **options)
    path = rg.paths.from_alphas_cumprod(scheduler.alphas_cumprod)
    den = rg.Denoiser(lambda x_t, t: output, path, predicts, SHAPE[1:])
    plan = rg.plan(recipe, den, nfe=STEPS, grid="uniform")

    free = Free(torch.randn(SHAPE, generator=generator))

    def ours() -> int:
        for _ in rg.run(plan, den, x, noise=free):
            pass
        return plan.nfe

    def theirs() -> int:
        scheduler.set_timesteps(STEPS)
        sample = x
        module = sys.modules[type(scheduler).__module__]
        with mock.patch.object(module, "randn_tensor", return_value=free.tensor, create=True):
            for timestep in scheduler.timesteps:
                # what a pipeline does; most schedulers only find their place in it
                sample = scheduler.scale_model_input(sample, timestep)
                sample = scheduler.step(output, timestep, sample, return_dict=False)[0]
        return len(scheduler.timesteps)

    return ours, theirs


@dataclasses.dataclass(frozen=True)
class Free:
    """Noise that costs nothing: one stored tensor."""

    tensor: Tensor

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return it."""
        return self.tensor


def compare(predicts: str, repeats: int, recipe: str = "dpmpp_2m") -> Figures:
    """Measure both sides in turns, and count what each asks of torch in one more run.

    The scheduler's preparation of its timesteps is timed with its steps, as our binding of the plan is with ours.
    """
    sides = contestants(recipe, predicts)
    micro: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + 5):
        for side, kept in zip(sides, micro, strict=True):
            began = time.perf_counter()
            steps = side()
            kept.append(1e6 * (time.perf_counter() - began) / steps)
    kept_micro = [kept[5:] for kept in micro]
    medians, best = map(statistics.median, kept_micro), map(min, kept_micro)
    return Figures(recipe, PEERS[recipe][0], predicts, *medians, *best, **counted(sides), repeats=repeats)


def counted(sides: Sequence[Callable[[], int]]) -> dict[str, float]:
    """Return the operations of each side per step, and the tensors of the state's size that it allocates."""
    found = {}
    for name, side in zip(("ours", "diffusers"), sides, strict=True):
        with Counter(4 * torch.Size(SHAPE).numel()) as counter:
            steps = side()
        found |= {f"{name}_allocations": counter.allocations / steps, f"{name}_operations": counter.operations / steps}
    return found


def count() -> None:
    """Count the allocations and operations of the stored recipes again."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    for row in kept["rows"]:
        row |= (found := counted(contestants(row["recipe"], row["predicts"])))
        print(f"{row['recipe']:18}", *(f"{name} {number:.2f}" for name, number in found.items()), flush=True)
    RESULTS.write_text(json.dumps(rounded(kept), indent=1) + "\n", encoding="utf-8")


def noise_figures(repeats: int) -> dict[str, float]:
    """Return the microseconds that one draw of the state takes at best: keyed, and by torch's global generator."""
    keyed = Noise.first(SHAPE[0])
    ways: dict[str, Callable[[int], Tensor]] = {
        "keyed": lambda i: keyed.draw(SHAPE[1:], (1.0 + i, 0.5)),
        "global": lambda _: torch.randn(SHAPE),
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(repeats):
        for name, draw in ways.items():
            began = time.perf_counter()
            draw(i)
            spent[name].append(1e6 * (time.perf_counter() - began))
    return {name: min(times) for name, times in spent.items()}


def line(f: Figures) -> str:
    return (
        f"{f.recipe:18} predicts {f.predicts:5}  ours {f.ours:6.1f} us/step (best {f.ours_best:.1f})  {f.peer:31} "
        f"{f.diffusers:6.1f} (best {f.diffusers_best:.1f})  ratio {f.ratio:.2f}  "
        f"states allocated per step {f.ours_allocations:.2f} against {f.diffusers_allocations:.2f}, "
        f"operations {f.ours_operations:.1f} against {f.diffusers_operations:.1f}"
    )


def write(repeats: int) -> None:
    """Measure every recipe that has a peer, with a network that predicts the noise, and store the figures."""
    import diffusers

    rows = []
    for recipe in PEERS:
        rows.append(compare("noise", repeats, recipe))
        print(line(rows[-1]), flush=True)
    stored = {
        "command": COMMAND,
        "versions": {"retrograde": rg.__version__, "torch": torch.__version__, "diffusers": diffusers.__version__},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "shape": list(SHAPE),
        "noise": noise_figures(repeats),
        "rows": [dataclasses.asdict(f) | {"ratio": f.ratio} for f in rows],
    }
    RESULTS.write_text(json.dumps(rounded(stored), indent=1) + "\n", encoding="utf-8")


def rounded(value: Any) -> Any:
    """Return the figures with three digits behind the point."""
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="measure every recipe with a peer and store the figures")
    parser.add_argument("--count", action="store_true", help="count allocations and operations of the stored recipes again")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.count:
        count()
        return
    if options.write:
        write(options.repeats)
        return
    for predicts in THEIR_NAMES:
        print(line(compare(predicts, options.repeats)))


if __name__ == "__main__":
    main()
