"""A pipeline folder that this project did not make: opened, fitted, and run with the plan, against its own schedulers.

The folder is trained by the means of diffusers alone (examples/train_pipeline.py, ten minutes of one core; an existing
folder is taken as it is), the plan fitted by the command. All images are made by the pipelines' own calls, from the same
noise: the fitted plan at 4 evaluations as the pipeline's scheduler; DDIM, the deterministic counterpart of the folder's
DDPM, at 4 and at 8 on every spacing that it has, with its predictions clipped and not. The error is the distance to where a
fine solver ends from that noise; where DDIM at all its 1000 steps ends is measured too. DDPM itself draws noise and ends
elsewhere: it is compared by its distance to digits that nobody trained on. Writes
benchmarks/results/foreign_pipeline.json and the picture docs/images/foreign_pipeline.png.

    python benchmarks/foreign_pipeline.py [FOLDER] [--effort seconds] [--items 128]
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.nn import functional

import retrograde as rg
from retrograde import data
from retrograde.cli.pictures import labelled, png
from retrograde.interop.diffusers import PlanScheduler
from retrograde.plan_file import write_atomically
from retrograde.quality import energy_distance, paired_error
from retrograde.tune.teacher import levels_of

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "foreign_pipeline.json"
PICTURE = ROOT / "docs" / "images" / "foreign_pipeline.png"
SPACINGS = ("leading", "linspace", "trailing")
BUDGET = 4
SEED = 20


def opened(folder: Path) -> Any:
    """Read the folder as anyone does."""
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe: Any, items: int, steps: int, seed: int = SEED) -> Tensor:
    """What a pipeline makes, [items, c, h, w] in [-1, 1]; its first draw is the initial noise."""
    made = pipe(
        batch_size=items,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=steps,
        output_type="np",
    ).images
    return 2.0 * torch.from_numpy(made).permute(0, 3, 1, 2) - 1.0


def ddims(pipe: Any) -> Iterator[tuple[str, Any]]:
    """The pipeline with DDIM on every grid, by name."""
    for spacing in SPACINGS:
        for clip in (True, False):
            for offset in (0, 1) if spacing == "leading" else (0,):
                options = {"timestep_spacing": spacing, "clip_sample": clip, "steps_offset": offset}
                scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, **options)
                other = diffusers.DDIMPipeline(pipe.unet, scheduler)
                other.set_progress_bar_config(disable=True)
                words = f"{spacing}{', offset 1' if offset else ''}, {'clipped' if clip else 'not clipped'}"
                yield f"DDIM, {words}", other


def fine(folder: Path, items: int, levels: int = 96) -> Tensor:
    """Where a fine solver ends from the noise of the pipelines."""
    den = rg.load(folder)
    noise = torch.randn(items, *den.shape, generator=torch.Generator().manual_seed(SEED))
    plan = rg.recipes.get("dpmpp_3m").compile(den.path, levels_of(den, levels))
    return rg.sample(den, plan, x=den.path.s(plan.start) * noise, batch_size=64).clamp(-1.0, 1.0)


def fitted(folder: Path, file: Path, nfe: int, effort: str) -> rg.Plan:
    """Fit a plan by the command, or take the one that lies there."""
    if not file.is_file():
        call = [sys.executable, "-c", "from retrograde.cli import main; main()", "tune", str(folder), "--nfe", str(nfe)]
        subprocess.run([*call, "--effort", effort, "-o", str(file)], check=True)
    return rg.Plan.load(file)


def figures(made: Tensor, truth: Tensor) -> dict[str, Any]:
    """The error of images: rms with its interval, and median over items."""
    found = paired_error(made, truth)
    return {"rms": found.rms.value, "interval": found.rms.interval, "median": found.median.value}


def paired(ours: Tensor, theirs: Tensor, truth: Tensor, draws: int = 10_000) -> dict[str, Any]:
    """How two samplers differ on the same items: the share nearer with ours, and the ratio of the rms with its interval."""
    one, other = ((made - truth).double().square().flatten(1).mean(1) for made in (ours, theirs))
    n = len(one)
    picked = torch.randint(n, (draws, n), generator=torch.Generator().manual_seed(0))
    ratios = (one[picked].mean(1) / other[picked].mean(1)).sqrt()
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    ratio = float((one.mean() / other.mean()).sqrt())
    return {"nearer": float((one < other).double().mean()), "ratio": ratio, "interval": [low, high]}


def unseen() -> Tensor:
    """Digits that the folder was not trained on, [1000, 1, 16, 16]."""
    digits, _ = data.digits("test")
    return functional.avg_pool2d(functional.pad(digits, (2, 2, 2, 2), value=-1.0), 2)


def measure(
    folder: Path, plan: rg.Plan, items: int, all_steps: int = 1000
) -> tuple[dict[str, Any], list[tuple[str, Tensor]]]:
    """Return the results, and strips for the picture."""
    pipe, nfe = opened(folder), plan.nfe
    truth, own = fine(folder, items), opened(folder)
    own.scheduler = PlanScheduler.instead_of(own.scheduler, plan)
    ours = images(own, items, nfe)
    few = min(items, 24)
    rows = [{"sampler": "fitted plan", "nfe": nfe, **figures(ours, truth)}]
    best: tuple[float, str, Tensor] | None = None
    for name, rival in ddims(pipe):
        for steps in (nfe, 2 * nfe):
            made = images(rival, items, steps)
            rows.append({"sampler": name, "nfe": steps, **figures(made, truth)})
            if steps == 2 * nfe and (best is None or rows[-1]["rms"] < best[0]):
                best = rows[-1]["rms"], name, made
    for name, rival in ddims(pipe):
        if "trailing" in name:
            whole = images(rival, few, all_steps)
            rows.append({"sampler": name, "nfe": all_steps, "items": few, **figures(whole, fine(folder, few))})
    if best is None:
        raise RuntimeError("no scheduler ran")
    quality = [{"sampler": "fitted plan", "nfe": nfe, "energy": energy_to_digits(ours)}]
    quality += [{"sampler": "fine solver", "nfe": 96, "energy": energy_to_digits(truth)}]
    ancestral = None
    for spacing in SPACINGS:
        pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
        made = images(pipe, items, 2 * nfe)
        quality.append({"sampler": f"DDPM, {spacing}", "nfe": 2 * nfe, "energy": energy_to_digits(made)})
        if ancestral is None or quality[-1]["energy"] < ancestral[0]:
            ancestral = quality[-1]["energy"], spacing, made
    strips = [
        ("fine solver, 96 evaluations", truth),
        (f"the fitted plan, {nfe} evaluations: error {rows[0]['rms']:.3g}", ours),
        (f"{best[1]}, {2 * nfe} evaluations: error {best[0]:.3g}", best[2]),
    ]
    if ancestral is not None:
        strips.append((f"DDPM as saved, {ancestral[1]}, {2 * nfe} evaluations (other noise)", ancestral[2]))
    against = {"against": best[1], "nfe": 2 * nfe, **paired(ours, best[2], truth)}
    return {"items": items, "rows": rows, "paired": against, "quality": quality}, [
        (words, made[:16]) for words, made in strips
    ]


def energy_to_digits(made: Tensor) -> float:
    """Distance of images to the unseen digits; to themselves where the pipeline makes something else."""
    against = unseen()
    return float(energy_distance(made, against)) if made.shape[1:] == against.shape[1:] else float("nan")


def main() -> None:
    """Make, fit, measure, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "runs" / "ddpm-digits16")
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--effort", default="seconds")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if not (given.folder / "model_index.json").is_file():
        subprocess.run([sys.executable, str(ROOT / "examples" / "train_pipeline.py"), str(given.folder)], check=True)
    file = given.folder.with_name(f"{given.folder.name}-{BUDGET}-{given.effort}.json")
    plan = fitted(given.folder, file, BUDGET, given.effort)
    results, strips = measure(given.folder, plan, given.items)
    report = {name: plan.report[name] for name in ("error", "median", "seconds", "evaluations", "returned")}
    report |= {name: plan.report[name] for name in ("best_recipe", "best_recipe_at_twice")}
    made_by = {
        "command": f"python benchmarks/foreign_pipeline.py --effort {given.effort} --items {given.items}",
        "folder": f"{given.folder.name}, of examples/train_pipeline.py",
        "effort": given.effort,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "retrograde": rg.__version__,
    }
    write_atomically(RESULTS, (json.dumps({**made_by, **results, "tuner": report}, indent=1) + "\n").encode())
    write_atomically(PICTURE, png(labelled(strips)))
    for row in sorted(results["rows"], key=lambda row: row["rms"]):
        print(f"{row['nfe']:5d}  {row['rms']:.4f}  median {row['median']:.4f}  {row['sampler']}")
    print(results["paired"])
    for row in results["quality"]:
        print(f"{row['nfe']:5d}  energy distance {row['energy']:.4f}  {row['sampler']}")


if __name__ == "__main__":
    main()
