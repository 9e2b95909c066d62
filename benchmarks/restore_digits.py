"""Restoration models trained on pairs: small digits from half of their side, by each published process.

Each digit of 8 by 8 is averaged over blocks of 2 by 2, gets noise of standard deviation 0.2 and is scaled up again: the
anchor. Six perceptrons of one size, with the same pairs, batches and steps, see it beside x_t: on the paths of ResShift,
RDDM, IR-SDE (for MRS), Resfusion and SGMSE, and on a variance-preserving path without an anchor, the conditional DDPM that
they are compared with. Figures are over unseen digits, means of three draws of a sample of each: PSNR (peak to peak 2), the
part that the embedded classifier takes for what was degraded, the distance of its features to the clean digit's, and the
Frechet distance of the features, all of pictures enlarged to the size it knows. The row "clean" has other digits in the
place of samples: the least distance to be had.

    python benchmarks/restore_digits.py [--steps 3000] [--items 500] [--folder DIR] [--only MODEL ...] [--draw]

Trainings are kept in DIR (default runs/restore_digits) and gone on with. Figures go to
benchmarks/results/restore_digits.json, a row at a time; docs/images/restore_digits.png is drawn at the end. About two
minutes of one core for each network.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import retrograde as rg
from retrograde import data, zoo
from retrograde.cli.pictures import labelled, png
from retrograde.nets import Beside
from retrograde.plan_file import write_atomically
from retrograde.quality import frechet_distance
from retrograde.train import TrainConfig, degraded, fit

RESULTS = Path(__file__).parent / "results" / "restore_digits.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "restore_digits.png"
SHAPE, OPERATOR, NOISE = (1, 8, 8), "down:2", 0.2
SHOWN, DRAWS = 12, 3
DRAWN = ("resshift, 4", "rddm, 5", "mrs_ode, 10", "resfusion, 5", "sgmse, 60", "ddpm, 5", "ddpm, 100")

Asked = tuple[str, rg.Plan]


def residual_first() -> rg.paths.Path:
    """RDDM's other order: the run takes off all of the residual, then the noise."""
    return rg.paths.MeanReverting(rg.paths.Tabulated((0.0, 0.5, 1.0), (1.0, 1.0, 0.0), (0.0, 0.1, 0.1)), spread=1.0)


def even(path: rg.paths.Path, like: rg.Plan) -> rg.Plan:
    """DDIM on another path at the noise levels s/a of a plan."""
    levels = [like.path.sigma(t) for t in like.times]
    return rg.plan("ddim", path, grid=[path.time_of_sigma(level) for level in levels])


def models() -> dict[str, tuple[rg.paths.Path, str, int | None, list[Asked]]]:
    """By name the path, what its network predicts, how many times it is trained at (None: all), and the plans."""
    shift, residual = rg.paths.ResidualShift(), rg.paths.ResidualDenoising()
    noise, reverting = rg.paths.residual_noise_linear(), rg.paths.mean_reverting_cosine(100, spread=100.0 / 255.0)
    speech, plain = rg.paths.OrnsteinUhlenbeck(), rg.paths.VP()
    sgmse = rg.recipes.sgmse.plan
    together = rg.plan("rddm", residual, nfe=5, grid="uniform", eta=0.0)
    shifting = [(f"resshift, {n}", rg.plan("rddm", shift, nfe=n, grid="power")) for n in (1, 4, 15)]
    removing = [("rddm, 5", together), ("residual first, 5", even(residual_first(), together))]
    solving = [(f"{name}, 10", rg.plan(name, reverting, nfe=10, grid="uniform")) for name in ("mrs_ode", "mrs_sde")]
    solving += [("posterior, 100", rg.plan("ddpm", reverting, nfe=100, grid="uniform"))]
    solving += [("euler, 10", sgmse(reverting, 10, corrections=0))]
    enhancing = [("sgmse, 60", sgmse(speech, 60)), ("sgmse without Langevin, 30", sgmse(speech, 30, corrections=0))]
    compared = [(f"ddpm, {n}", rg.plan("ddpm", plain, nfe=n, grid="uniform")) for n in (4, 5, 100)]
    compared += [("ddim, 5", rg.plan("ddim", plain, nfe=5, grid="uniform"))]
    return {
        "resshift": (shift, "data", None, shifting),
        "rddm": (residual, "residual", None, removing),
        "mrs": (reverting, "reverting_v", 100, solving),
        "resfusion": (noise, "resnoise", 5, [("resfusion, 5", rg.plan("resfusion", noise, nfe=5))]),
        "sgmse": (speech, "noise", None, enhancing),
        "ddpm": (plain, "v", None, compared),
    }


def trained(name: str, path: rg.paths.Path, predicts: str, times: int | None, given: Any) -> rg.Denoiser:
    """Train a network on pairs, or go on with it."""
    x = data.digits8("train")[0]
    y = degraded(x, OPERATOR, NOISE, seed=0)
    sees = "anchor" if path.anchored else "seen"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Beside(SHAPE, of="MLPDenoiser", sees=(sees,), width=256, depth=3)
    conditions = {} if path.anchored else {sees: torch.zeros(SHAPE)}
    den = rg.Denoiser(network, path, predicts, SHAPE, conditions=conditions, discrete=times)
    config = TrainConfig(
        name=name,
        predicts=predicts,  # type: ignore[arg-type]
        levels={"law": "uniform"},
        classes=0,
        steps=given.steps,
        batch=128,
        warmup=200,
        out=str(given.folder / name),
        resume=True,
        save_every=20.0,
    )
    beside: dict[str, Any] = {"anchors": y} if path.anchored else {"conditions": {sees: y}}
    found = fit(den, x, None, config, **beside)
    found.denoiser.network.eval()  # type: ignore[attr-defined]
    print(f"{name}: {found.step} steps, {found.seconds:.0f} s, loss {found.loss:.4f}", flush=True)
    return found.denoiser


def enlarged(x: Tensor) -> Tensor:
    """Small digits at the size that the classifier knows, 28 by 28."""
    return functional.interpolate(x, scale_factor=4, mode="bilinear", align_corners=False)[..., 2:-2, 2:-2].clamp(-1, 1)


def figures(draws: list[Tensor], truth: Tensor, labels: Tensor) -> dict[str, float]:
    """Return what samples of each item are worth, the mean over some draws of them."""
    judge = zoo.classifier()

    def features(x: Tensor) -> Tensor:
        return judge.features(enlarged(x))

    rows = []
    for made in draws:
        with torch.no_grad():
            said, apart = judge(enlarged(made)).argmax(1), (features(made) - features(truth)).norm(dim=1)
        missed = (made - truth).double().square().flatten(1).mean(1)
        row = [(10.0 * torch.log10(4.0 / missed)).mean(), (said == labels).double().mean(), apart.mean()]
        rows.append([*map(float, row), frechet_distance(made, truth, features=features).value])
    return {
        name: round(sum(column) / len(draws), 3)
        for name, column in zip(("psnr", "same_digit", "features", "frechet"), zip(*rows, strict=True), strict=True)
    }


def restored(den: rg.Denoiser, plan: rg.Plan, y: Tensor) -> tuple[list[Tensor], float]:
    """Return some draws of one sample of each item, and the seconds of all."""
    began = time.process_time()
    shown: dict[str, Any] = {"anchor": y} if den.path.anchored else {"condition": {"seen": y}, "n": len(y)}
    asked = den if plan.path == den.path else rg.denoisers.on_path(den, plan.path)
    return [rg.sample(asked, plan, seed=seed, **shown) for seed in range(DRAWS)], time.process_time() - began


def keep(rows: list[dict[str, Any]], given: Any) -> None:
    """Put rows into the results, in the place of older ones."""
    held = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    new = {row["plan"] for row in rows}
    places = {name: place for place, name in enumerate(("anchor", *models()))}
    rows = sorted([*(row for row in held if row["plan"] not in new), *rows], key=lambda row: places[row["model"]])
    made = {
        "command": f"python benchmarks/restore_digits.py --steps {given.steps} --items {given.items}",
        "torch": torch.__version__,
    }
    made |= {"operator": OPERATOR, "noise": NOISE, "steps": given.steps, "items": given.items, "rows": rows}
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())


def main() -> None:
    """Train, restore, keep, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--folder", type=Path, default=Path("runs") / "restore_digits")
    parser.add_argument("--only", nargs="*", default=list(models()), choices=list(models()))
    parser.add_argument("--draw", action="store_true", help="measure nothing, draw the picture")
    given = parser.parse_args()
    torch.set_num_threads(1)
    truth, labels = (part[: given.items] for part in data.digits8("test"))
    y = degraded(truth, OPERATOR, NOISE, seed=1)
    if not given.draw:
        own = {"model": "anchor", "plan": "clean", "evaluations": 0, **figures([truth], truth, labels)}
        others = figures([data.digits8("test")[0][-given.items :]], truth, labels)
        keep([own | {"psnr": None, "frechet": others["frechet"]}], given)
        keep([{"model": "anchor", "plan": "anchor", "evaluations": 0, **figures([y], truth, labels)}], given)
    for name in () if given.draw else given.only:
        path, predicts, times, plans = models()[name]
        den = trained(name, path, predicts, times, given)
        for label, plan in plans:
            draws, seconds = restored(den, plan, y)
            row = {"model": name, "plan": label, "evaluations": plan.nfe, "seconds": round(seconds, 2)}
            row |= figures(draws, truth, labels)
            keep([row], given)
            print(row, flush=True)
    if not given.draw and set(given.only) != set(models()):
        return
    strips = [("digits", truth[:SHOWN]), ("degraded: what a run starts from", y[:SHOWN])]
    for name, (path, predicts, times, plans) in models().items():
        den = trained(name, path, predicts, times, given)
        strips += [(f"{label} evaluations", restored(den, plan, y[:SHOWN])[0][0]) for label, plan in plans if label in DRAWN]
    write_atomically(PICTURE, png(labelled(strips)))


if __name__ == "__main__":
    main()
