"""Distances that see a whole law: sliced Wasserstein and energy."""

from __future__ import annotations

import math
from typing import Literal

import torch

from retrograde.errors import BadValue
from retrograde.quality.features import Features, count_in, distance_blocks, two_sets
from retrograde.quality.figure import Figure
from retrograde.systems import System, register


def sliced_wasserstein(
    samples: torch.Tensor,
    reference: torch.Tensor,
    features: Features | None = None,
    *,
    p: Literal[1, 2] = 2,
    slices: int = 256,
    over: Literal["mean", "max"] = "mean",
    seed: int = 0,
) -> Figure:
    """Sliced Wasserstein distance along random directions theta on the unit sphere.

    W_p(theta)^p = int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du, with the step quantile functions of the projections, which
    is exact for equal and unequal sizes. "mean": (mean_theta W_p^p)^{1/p}; "max": max_theta W_p, a lower bound of the
    maximum over all directions. Sets [n, ...], [m, ...]; units of the features. Not zero for equal laws at finite n.

    Raises ShapeError, BadType, BadValue for sets that do not fit or are not finite, another p, another `over`.
    Reference: Bonneel, Rabin, Peyré, Pfister 2015, "Sliced and Radon Wasserstein Barycenters of Measures"; for the
    maximum Deshpande et al. 2019, "Max-Sliced Wasserstein Distance and its use for GANs", arXiv 1904.05877.
    """
    if p not in (1, 2):
        raise BadValue(f"p={p!r}", "1 or 2", "p=2")
    if over not in ("mean", "max"):
        raise BadValue(f"over={over!r}", "'mean' or 'max'", "over='mean'")
    count_in("slices", slices, 1)
    x, y = two_sets(samples, reference, features, least=1)
    generator = torch.Generator().manual_seed(seed)
    theta = torch.randn(slices, x.shape[1], generator=generator, dtype=torch.float64)
    theta = (theta / theta.norm(dim=1, keepdim=True)).to(x.device)
    powers = _transport(theta @ x.T, theta @ y.T, p)
    value = float(powers.mean() if over == "mean" else powers.max()) ** (1 / p)
    name = "sliced_wasserstein" if over == "mean" else "max_sliced_wasserstein"
    return Figure(name, value, len(x), len(y), settings=f"p={p}, {slices} slices")


def _transport(x: torch.Tensor, y: torch.Tensor, p: int) -> torch.Tensor:
    """W_p^p [k] between the rows of x [k, n] and y [k, m]."""
    x, y = x.sort(dim=1).values, y.sort(dim=1).values
    n, m = x.shape[1], y.shape[1]
    if n == m:
        return (x - y).abs().pow(p).mean(1)
    # Both quantile functions are constant between the levels i/n and j/m; in units of 1/(nm) these are integers.
    levels = torch.cat([torch.arange(1, n + 1) * m, torch.arange(1, m + 1) * n]).unique().to(x.device)
    widths = torch.diff(levels, prepend=levels.new_zeros(1)).double() / (n * m)
    return ((x[:, (levels - 1) // m] - y[:, (levels - 1) // n]).abs().pow(p) * widths).sum(1)


def energy_distance(samples: torch.Tensor, reference: torch.Tensor, features: Features | None = None) -> Figure:
    """Energy distance sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|), expectations over all pairs of the sets.

    Zero only for equal laws; pairs of an item with itself count, so the figure is never negative and is biased
    upward by O(1/n) in its square. Sets [n, ...], [m, ...]; square root of the units of the features.

    Raises ShapeError, BadType, BadValue for sets that do not fit or are not finite.
    Reference: Székely, Rizzo 2013, "Energy statistics: A class of statistics based on distances".
    """
    x, y = two_sets(samples, reference, features, least=1)
    square = 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    # Rounding alone can bring equal sets below zero.
    return Figure("energy", math.sqrt(max(0.0, square)), len(x), len(y))


def _mean_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return sum(float(block.sum()) for _, block in distance_blocks(x, y)) / (len(x) * len(y))


register(
    System(
        title="Sliced and Radon Wasserstein Barycenters of Measures",
        authors=("Nicolas Bonneel", "Julien Rabin", "Gabriel Peyré", "Hanspeter Pfister"),
        year=2015,
        home="audit",
        call="rg.quality.sliced_wasserstein(samples, reference)",
        test="tests/quality/test_transport.py::test_sliced_distance_of_a_shift",
    )
)
register(
    System(
        title="Max-Sliced Wasserstein Distance and its use for GANs",
        authors="Ishan Deshpande et al.",
        year=2019,
        arxiv="1904.05877",
        home="audit",
        call="rg.quality.sliced_wasserstein(samples, reference, over='max')",
        test="tests/quality/test_transport.py::test_maximum_approaches_the_length_of_a_shift",
    )
)
register(
    System(
        title="Energy statistics: A class of statistics based on distances",
        authors=("Gábor J. Székely", "Maria L. Rizzo"),
        year=2013,
        home="audit",
        call="rg.quality.energy_distance(samples, reference)",
        test="tests/quality/test_transport.py::test_energy_against_scipy",
    )
)
