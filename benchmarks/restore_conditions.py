"""Recipes of restoration that are a matter of what a network is shown, on digits of 8 by 8: predicted masks, made pairs.

"mask" (text inpainting guided by structure): digits under blobs of any grey, a quarter of the ink covered. A network says
where the ink of the clean digit is; then a diffusion of the digit is shown the covered one and nothing, that mask, or the
true mask; and the masks of other digits. "same_digit" is the share that a perceptron, trained to classify small digits,
takes for the clean one's.

"synthesis" (GenDeg): a diffusion of degraded digits given the clean one, the kind (dark, blurred, streaked) and two numbers
of what is asked for, mean and deviation of |degraded - clean|, trained where these are small. "r" is the correlation of what
is asked for with what is made; then restorers trained on the pairs, on these and as many that were made up to twice as
strong, and on as many made as strong as before, tested on pairs like those of the training and on stronger ones.

"waves" (quaternion wavelets): super-resolution from blocks of 2 by 2 by a diffusion that is shown the degraded digit and
blank pictures, the magnitudes of its sub-bands, and those of another digit.

PSNR is over unseen digits (peak to peak 2); every row is the mean over trainings.

    python benchmarks/restore_conditions.py [--only mask synthesis waves] [--trials 2] [--steps 800]

Figures go to benchmarks/results/restore_small.json, a recipe at a time. A minute of one core for each.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import retrograde as rg
from retrograde import data
from retrograde.nets import Beside
from retrograde.quality import frechet_distance
from retrograde.train import degraded, quaternion_wavelets

SMALL = runpy.run_path(str(Path(__file__).with_name("restore_small.py")))
SHAPE, psnr, minimize, perceptron = SMALL["SHAPE"], SMALL["psnr"], SMALL["minimize"], SMALL["perceptron"]
PATH = rg.paths.VP()


def shown(sees: tuple[str, ...], predicts: str) -> rg.Denoiser:
    """Return a conditional denoiser that is shown pictures by these names."""
    network = Beside(SHAPE, of="MLPDenoiser", sees=sees, width=192, depth=3)
    return rg.Denoiser(network, PATH, predicts, SHAPE, conditions={name: torch.zeros(SHAPE) for name in sees})


def trained(den: rg.Denoiser, x: Tensor, told: dict[str, Tensor], steps: int, seed: int) -> rg.Denoiser:
    """Train a denoiser at uniform times."""

    def value(at: Tensor, step: int) -> Tensor:
        generator = torch.Generator().manual_seed(10 * step + seed)
        t = PATH.t_min + (PATH.t_max - PATH.t_min) * torch.rand(len(at), generator=generator, dtype=torch.float64)
        eps = torch.randn(x[at].shape, generator=generator)
        return rg.train.loss(den, x[at], t, eps, {name: one[at] for name, one in told.items()}).mean()

    minimize(den.network.parameters(), value, len(x), steps)  # type: ignore[attr-defined]
    return den


def covered(x: Tensor, seed: int) -> Tensor:
    """Return digits under blobs of 2 by 2 pixels of any grey, until a quarter of the ink is covered."""
    generator = torch.Generator().manual_seed(seed)
    made, ink = x.clone(), x > -0.5
    hidden = torch.zeros_like(ink)
    for _ in range(8):
        going = (hidden & ink).flatten(1).sum(1) < 0.25 * ink.flatten(1).sum(1)
        rows, columns = torch.randint(0, 7, (2, len(x)), generator=generator)
        grey = 2.0 * torch.rand(len(x), generator=generator) - 1.0
        for down in (0, 1):
            for right in (0, 1):
                place = torch.arange(len(x))[going], 0, rows[going] + down, columns[going] + right
                made[place], hidden[place] = grey[going], True
    return made


def mask(seed: int, steps: int) -> list[dict[str, Any]]:
    """What a predicted mask of the ink is worth to a diffusion that sees the covered digit."""
    (x, classes), (held, labels) = data.digits8("train"), (part[:500] for part in data.digits8("test"))
    y, low = covered(x, 0), covered(held, 1)
    ink, true = ((one > -0.5).float() for one in (x, held))
    torch.manual_seed(seed)
    structure = perceptron(64, 192, 192, 64)

    def missed(at: Tensor, step: int) -> Tensor:
        return functional.binary_cross_entropy_with_logits(structure(y[at].flatten(1)), ink[at].flatten(1))

    minimize(structure.parameters(), missed, len(x), 2 * steps)
    with torch.no_grad():
        guessed, said = (structure(one.flatten(1)).sigmoid().reshape(one.shape) for one in (y, low))
    judge, plan = perceptron(64, 192, 10), rg.plan("ddim", PATH, nfe=5)

    def confused(at: Tensor, step: int) -> Tensor:
        return functional.cross_entropy(judge(x[at].flatten(1)), classes[at])

    minimize(judge.parameters(), confused, len(x), 2 * steps)

    def row(name: str, made: Tensor) -> dict[str, Any]:
        with torch.no_grad():
            same = float((judge(made.flatten(1)).argmax(1) == labels).double().mean())
        return {"model": name, "psnr": psnr(made, held), "same_digit": same}

    rows = [row("clean", held), row("covered", low)]
    rows[1]["mask_right"] = float(((said > 0.5) == (true > 0.5)).double().mean())
    none = torch.zeros_like(x)
    for name, seen, at_test in (("no mask", none, none[:500]), ("predicted", guessed, said), ("true mask", ink, true)):
        torch.manual_seed(seed)
        den = trained(shown(("seen", "mask"), "data"), x, {"seen": y, "mask": seen}, 2 * steps, seed)
        ways = [(name, at_test)] + ([("predicted, of other digits", said.roll(1, 0))] if name == "predicted" else [])
        for label, one in ways:
            made = rg.sample(den, plan, n=len(low), seed=seed, condition={"seen": low, "mask": one})
            rows.append(row(label, made))
    return rows


def worse(x: Tensor, kinds: Tensor, strength: Tensor, generator: torch.Generator) -> Tensor:
    """Return dark (0), blurred (1) or streaked (2) digits, by a strength from 0 to 1."""
    s, kind = strength[:, None, None, None], kinds[:, None, None, None]
    wide = functional.avg_pool2d(functional.pad(x, (1, 1, 1, 1), "replicate"), 3, 1)
    columns = (torch.rand(len(x), 1, 1, 8, generator=generator) < 0.35).float()
    dark, blurred, streaked = (1.0 - s) * (x + 1.0) - 1.0, (1.0 - s) * x + s * wide, (x + 2.0 * s * columns).clamp(max=1.0)
    return torch.where(kind == 0, dark, torch.where(kind == 1, blurred, streaked))


def numbers(y: Tensor, x: Tensor) -> Tensor:
    """Return mean and deviation of |degraded - clean| over the pixels, [n, 2]."""
    off = (y - x).abs().flatten(1)
    return torch.stack([off.mean(1), off.std(1)], 1)


def planes(kinds: Tensor, asked: Tensor) -> dict[str, Tensor]:
    """Return what is asked for, as constant pictures."""
    told = torch.cat([kinds[:, None].float() - 1.0, 4.0 * asked], 1)
    return {name: told[:, k, None, None, None].expand(-1, *SHAPE) for k, name in enumerate(("kind", "amount", "spread"))}


def synthesis(seed: int, steps: int) -> list[dict[str, Any]]:
    """A diffusion that degrades as asked, and restorers that learn from what it makes."""
    x, held = data.digits8("train")[0], data.digits8("test")[0][:900]
    generator = torch.Generator().manual_seed(seed)

    def pairs(images: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
        kinds = torch.randint(3, (len(images),), generator=generator)
        return kinds, worse(images, kinds, low + (high - low) * torch.rand(len(images), generator=generator), generator)

    kinds, y = pairs(x, 0.15, 0.45)
    torch.manual_seed(seed)
    den = shown(("clean", "kind", "amount", "spread"), "data")
    asked = numbers(y, x)
    den = trained(den, y, {"clean": x, **planes(kinds, asked)}, 3 * steps, seed)
    plan = rg.plan("ddim", PATH, nfe=10)
    factor = 1.0 + torch.rand(len(x), 1, generator=generator)
    fresh = asked * factor  # up to twice what was ever seen
    made = rg.sample(den, plan, n=len(x), seed=seed, condition={"clean": x, **planes(kinds, fresh)})
    swapped = rg.sample(den, plan, n=len(x), seed=seed, condition={"clean": x, **planes(kinds, asked)})
    found = numbers(made, x)
    r = [float(torch.corrcoef(torch.stack([fresh[:, k], found[:, k]]))[0, 1]) for k in range(2)]
    rows: list[dict[str, Any]] = [{"model": "what is asked for", "psnr": 0.0, "r_mean": r[0], "r_deviation": r[1]}]
    near, far = pairs(held, 0.15, 0.45)[1], pairs(held, 0.6, 0.9)[1]
    rows.append({"model": "degraded", "psnr": psnr(near, held), "stronger": psnr(far, held)})
    both = {"pairs": y, "pairs and made": torch.cat([y, made]), "pairs and made, not stronger": torch.cat([y, swapped])}
    for name, seen in both.items():
        torch.manual_seed(seed)
        restorer: nn.Module = perceptron(64, 256, 256, 64)

        def value(at: Tensor, step: int, seen: Tensor = seen, restorer: Any = restorer) -> Tensor:
            return (restorer(seen[at].flatten(1)) - x[at % len(x)].flatten(1)).square().mean()

        minimize(restorer.parameters(), value, len(seen), 2 * steps)
        with torch.no_grad():
            answers = [restorer(one.flatten(1)).reshape(one.shape) for one in (near, far)]
        rows.append({"model": name, "psnr": psnr(answers[0], held), "stronger": psnr(answers[1], held)})
    return rows


def waves(seed: int, steps: int) -> list[dict[str, Any]]:
    """What the magnitudes of quaternion sub-bands are worth beside the degraded digit they are made of."""
    x, held = data.digits8("train")[0], data.digits8("test")[0][:500]
    y, low = degraded(x, "down:2"), degraded(held, "down:2")
    names = ("band0", "band1", "band2", "band3")

    def bands(images: Tensor) -> dict[str, Tensor]:
        sizes = quaternion_wavelets(images)[:, 0, :, 0]
        large = sizes.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return {name: large[:, k : k + 1] for k, name in enumerate(names)}

    blank = {name: torch.zeros_like(x) for name in names}
    plan = rg.plan("ddim", PATH, nfe=10)
    rows = [{"model": "degraded", "psnr": psnr(low, held), "frechet": frechet_distance(low, held).value}]
    for name, told, at_test in (
        ("degraded digit alone", blank, {key: one[:500] for key, one in blank.items()}),
        ("and its sub-bands", bands(y), bands(low)),
    ):
        torch.manual_seed(seed)
        den = trained(shown(("seen", *names), "v"), x, {"seen": y, **told}, 2 * steps, seed)
        ways = [(name, at_test)]
        if told is not blank:
            ways += [("sub-bands of another digit", {key: one.roll(1, 0) for key, one in at_test.items()})]
        for label, given in ways:
            made = rg.sample(den, plan, n=len(low), seed=seed, condition={"seen": low, **given})
            rows.append({"model": label, "psnr": psnr(made, held), "frechet": frechet_distance(made, held).value})
    return rows


RECIPES: dict[str, Callable[[int, int], list[dict[str, Any]]]] = {"mask": mask, "synthesis": synthesis, "waves": waves}


if __name__ == "__main__":
    SMALL["main"](RECIPES, __doc__)
