"""What classifier-free guidance really samples from, and what particles correct, where the law it aims at is known.

On the line, a class with two modes inside a model with three. Guidance of weight w aims at p(x|c)^w p(x)^(1-w), normalized;
the guided model's samples, by many small steps, have another law. Weighted particles of the same guided model have it as
their number grows. Total variation of 40 bins to the law aimed at, for several weights; "floor" is that of as many
independent draws from it.

    python benchmarks/guidance_law.py [--particles 20000] [--weights 1 1.5 2 3 5]

writes benchmarks/results/guidance_law.json and docs/images/guidance_law.png. Skreta et al., 2025, arXiv 2503.02819.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import torch
from torch import Tensor

import retrograde as rg
from retrograde import particles
from retrograde.plan_file import write_atomically

RESULTS = Path(__file__).parent / "results" / "guidance_law.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "guidance_law.png"
WEIGHTS = (1.0, 1.5, 2.0, 3.0, 5.0)
SHOWN = 3.0
MEANS, WIDTH = ((-1.0,), (0.5,), (1.5,)), 0.04
LINE = torch.linspace(-3.0, 3.0, 6001, dtype=torch.float64)
EDGES = torch.linspace(-3.0, 3.0, 41, dtype=torch.float64)


def model(path: rg.paths.Path) -> rg.oracles.GaussianMixture:
    """Three modes, the last two of class 1, one of them rare there."""
    return rg.oracles.GaussianMixture(
        path, torch.tensor(MEANS), WIDTH, weights=torch.tensor([0.3, 0.4, 0.3]), labels=[0, 1, 1]
    )


def aim(weight: float) -> Tensor:
    """The density on the line that guidance of this weight aims at."""
    path = rg.paths.VP()
    of_class = rg.oracles.GaussianMixture(path, torch.tensor(MEANS[1:]), WIDTH, weights=torch.tensor([4 / 7, 3 / 7]))
    low = 1e-9
    log = weight * of_class.log_prob(LINE[:, None], low) + (1.0 - weight) * model(path).log_prob(LINE[:, None], low)
    density = torch.softmax(log, 0)
    return density / (LINE[1] - LINE[0])


def binned(density: Tensor) -> Tensor:
    """The probability of each bin."""
    share = density / density.sum()
    return torch.zeros(len(EDGES) + 1, dtype=torch.float64).index_add_(0, torch.bucketize(LINE, EDGES), share)


def histogram(x: Tensor) -> Tensor:
    """The share of samples in each bin."""
    return torch.bincount(torch.bucketize(x.double().flatten(), EDGES), minlength=len(EDGES) + 1).double() / len(x)


def drawn(weight: float, n: int) -> dict[str, Tensor]:
    """Samples of the guided model, alone and as one group of particles, and independent draws from the law aimed at."""
    path = rg.paths.VP()
    den = rg.guide.cfg(model(path), weight=weight)
    plan = rg.plan("euler_maruyama", path, nfe=150, grid="log_snr")
    given = {"n": n, "condition": 1, "dtype": torch.float64}
    density = aim(weight)
    places = torch.multinomial(density, n, replacement=True, generator=torch.Generator().manual_seed(0))
    return {
        "guided": rg.sample(den, plan, **given),
        "particles": rg.sample(den, plan, particles=particles.Weighted(n), **given),
        "floor": LINE[places],
    }


def main() -> None:
    """Measure, keep, draw."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--weights", type=float, nargs="*", default=WEIGHTS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows, shown = [], {}
    for weight in given.weights:
        found = drawn(weight, given.particles)
        wanted = binned(aim(weight))
        away = {name: round(0.5 * float((histogram(x) - wanted).abs().sum()), 4) for name, x in found.items()}
        rows.append({"weight": weight, **away})
        print(rows[-1], flush=True)
        shown = found if weight == SHOWN else shown
    made = {"command": f"python benchmarks/guidance_law.py --particles {given.particles}", "rows": rows}
    write_atomically(RESULTS, (json.dumps(made, indent=1) + "\n").encode())
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, name, title in zip(axes, ("guided", "particles"), ("guided samples", "weighted particles"), strict=True):
        axis.hist(shown[name].flatten().numpy(), EDGES.numpy(), density=True, color="#8fb3d9", label=title)
        axis.plot(LINE, aim(SHOWN), color="#c0392b", label=f"aimed at: $p(x|c)^{{{SHOWN:g}}}\\,p(x)^{{{1 - SHOWN:g}}}$")
        axis.set(xlim=(-0.5, 2.6), ylim=(0.0, 1.6), xlabel="x")
        axis.legend(frameon=False, fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110)
    write_atomically(PICTURE, stream.getvalue())


if __name__ == "__main__":
    main()
