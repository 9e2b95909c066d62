"""Forecasts by an unconditional model of a series that is held to what was observed: observation self-guidance.

The model is the exact one of a stationary process x_k = 1.4 x_(k-1) - 0.7 x_(k-2) + noise, so the law of the days to come
given those observed is known. Three losses of the data mean D hold a run to the observed y:

"square"    |y - D|^2
"quantile"  2 sum rho_q(y - D), sample i of n at the quantile q = i/(n + 1), so that each follows its own
"exact"     half of |y - D|^2 in the metric of the variance that D leaves open at the level, what the others leave out

"mean" is the error of the forecasts' mean in standard deviations of the series, "spread" the factor by which their standard
deviation is off, the mean over the days (150 samples):

    DDIM 50    square, scale 4: 0.52, 1.12    quantile, scale 4: 0.45, 1.21    exact: 0.08, 1.06
    DDPM 100   square, scale 4: 0.25, 1.06    quantile, scale 4: 0.27, 1.15    exact: 0.06, 1.04

The published losses leave out what D leaves open: their mean is off by a fifth and more, their spread by 6 to 21 %,
and that of "quantile" is no nearer than that of "square". No scale and no number of rows mends it: of scales from 1 to 32
the best mean of 60 samples is off by 0.20 ("quantile", 8, DDPM 100; "square" 0.22, 4), 400 rows have 0.28 at best, and from
16 on "square" diverges in 100 rows. Weak guidance is not held to y, strong guidance is too sure of it where D still says
little.

    python examples/forecast_series.py [SAMPLES]

Kollovieh et al., Predict, Refine, Synthesize: Self-Guiding Diffusion Models for Probabilistic Time Series Forecasting, 2023,
arXiv 2307.11494.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

import retrograde as rg

PATH = rg.paths.VP()
LENGTH, SEEN = 24, 18
LOSSES = ("square", "quantile", "exact")


def process(a: float = 1.4, b: float = -0.7) -> Tensor:
    """Return the covariance of a stationary series x_k = a x_(k-1) + b x_(k-2) + noise of unit variance."""
    alike = [1.0, a / (1.0 - b)]
    while len(alike) < LENGTH:
        alike.append(a * alike[-1] + b * alike[-2])
    place = torch.arange(LENGTH)
    return torch.tensor(alike, dtype=torch.float64)[(place[:, None] - place).abs()]


def held(loss: str, y: Tensor, n: int, C: Tensor) -> Callable[[Tensor, float], Tensor]:
    """Return a loss of n data means [n, LENGTH] at a path time, by the observed y [SEEN]."""
    q = ((torch.arange(n, dtype=torch.float64) + 1) / (n + 1))[:, None]

    def square(mean: Tensor, t: float) -> Tensor:
        return (y - mean[:, :SEEN]).square().sum(1)

    def quantile(mean: Tensor, t: float) -> Tensor:
        off = y - mean[:, :SEEN]
        return 2.0 * torch.maximum(q * off, (q - 1.0) * off).sum(1)

    def exact(mean: Tensor, t: float) -> Tensor:
        off, noise = y - mean[:, :SEEN], PATH.sigma(t) ** 2
        left = C - C @ torch.linalg.inv(C + noise * torch.eye(LENGTH, dtype=C.dtype)) @ C
        open_ = left[:SEEN, :SEEN] + 1e-4 * torch.eye(SEEN, dtype=C.dtype)
        return 0.5 * (off @ torch.linalg.inv(open_) * off).sum(1)

    return {"square": square, "quantile": quantile, "exact": exact}[loss]


def forecast(loss: str, scale: float, plan: rg.Plan, y: Tensor, n: int, C: Tensor, seed: int = 0) -> Tensor:
    """Return n forecasts of the days to come, [n, LENGTH - SEEN]."""
    den = rg.oracles.Gaussian(PATH, torch.zeros(LENGTH), C)
    guided = rg.guide.loss(den, held(loss, y, n, C), scale)
    return rg.sample(guided, plan, n=n, seed=seed, dtype=torch.float64)[:, SEEN:]


def judged(loss: str, scale: float, plan: rg.Plan, n: int, series: int = 3) -> tuple[float, float]:
    """Return the error of the mean in standard deviations of the series, and the factor by which the spread is off."""
    C = process()
    drawn = torch.linalg.cholesky(C) @ torch.randn(
        LENGTH, series, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    gain = C[SEEN:, :SEEN] @ torch.linalg.inv(C[:SEEN, :SEEN])
    sd = (C[SEEN:, SEEN:] - gain @ C[:SEEN, SEEN:]).diagonal().sqrt()
    wanted = (gain @ drawn[:SEEN]).T
    made = [forecast(loss, scale, plan, y, n, C, seed) for seed, y in enumerate(drawn[:SEEN].T)]
    means = torch.stack([one.mean(0) for one in made])
    spread = torch.stack([one.var(0) for one in made]).mean(0).sqrt()
    return float(((means - wanted).square().mean() / C[0, 0]).sqrt()), float((spread / sd).log().abs().mean().exp())


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    for recipe, rows in (("ddim", 50), ("ddpm", 100)):
        for name in LOSSES:
            for scale in (1.0,) if name == "exact" else (2.0, 4.0):
                mean, spread = judged(name, scale, rg.plan(recipe, PATH, nfe=rows), count)
                print(f"{recipe} {rows:3d}  {name:8} scale {scale:.0f}  mean {mean:.2f}  spread {spread:.2f}")
