"""Fidelity and diversity apart: nearest-neighbour precision, recall, density and coverage."""

from __future__ import annotations

import torch

from retrograde.quality.features import Features, count_in, distance_blocks, two_sets
from retrograde.quality.figure import Figure
from retrograde.systems import System, register


def precision_recall(
    samples: torch.Tensor, reference: torch.Tensor, features: Features | None = None, *, k: int = 3
) -> tuple[Figure, Figure]:
    """Precision (share of samples on the reference's manifold) and recall (share of the reference on the samples').

    A set's manifold is the union of closed balls around its items that reach to their k-th nearest neighbour in the
    same set. Sets [n, ...], [m, ...]; both figures in [0, 1]. Both depend on the counts: compare equal ones.

    Raises ShapeError, BadType, BadValue for sets that do not fit, are not finite, or hold no more than k items.
    Reference: Kynkäänniemi, Karras, Laine, Lehtinen, Aila 2019, "Improved Precision and Recall Metric for Assessing
    Generative Models", arXiv 1904.06991.
    """
    x, y = two_sets(samples, reference, features, least=count_in("k", k, 1) + 1)
    radius_x, radius_y = _radius(x, k), _radius(y, k)
    inside_y = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    inside_x = torch.zeros(len(y), dtype=torch.bool, device=x.device)
    for part, block in distance_blocks(x, y):
        inside_y[part] = (block <= radius_y).any(1)
        inside_x |= (block <= radius_x[part, None]).any(0)
    counts, settings = (len(x), len(y)), f"k={k}"
    precision = Figure("precision", float(inside_y.double().mean()), *counts, settings=settings)
    return precision, Figure("recall", float(inside_x.double().mean()), *counts, settings=settings)


def density_coverage(
    samples: torch.Tensor, reference: torch.Tensor, features: Features | None = None, *, k: int = 5
) -> tuple[Figure, Figure]:
    """Density (how many reference balls hold a sample, over k) and coverage (share of balls that hold any sample).

    Balls reach from each reference item to its k-th nearest neighbour in the reference. Equal laws: density has mean 1;
    coverage has mean 1 - prod_{i=1}^{k} (m - i) / (n + m - i). Sets [n, ...], [m, ...]; density may exceed 1.

    Raises ShapeError, BadType, BadValue for sets that do not fit, are not finite, or hold no more than k items.
    Reference: Naeem, Oh, Uh, Choi, Yoo 2020, "Reliable Fidelity and Diversity Metrics for Generative Models",
    arXiv 2002.09797.
    """
    x, y = two_sets(samples, reference, features, least=count_in("k", k, 1) + 1)
    radius = _radius(y, k)
    held = torch.zeros(len(y), dtype=torch.int64, device=x.device)
    for _, block in distance_blocks(x, y):
        held += (block <= radius).sum(0)
    counts, settings = (len(x), len(y)), f"k={k}"
    density = Figure("density", float(held.sum()) / (k * len(x)), *counts, settings=settings)
    return density, Figure("coverage", float((held > 0).double().mean()), *counts, settings=settings)


def _radius(x: torch.Tensor, k: int) -> torch.Tensor:
    """Distance [n] from each item to its k-th nearest other item."""
    radius = torch.empty(len(x), dtype=x.dtype, device=x.device)
    for part, block in distance_blocks(x, x):
        own = torch.arange(part.start, part.stop, device=x.device)
        block[own - part.start, own] = torch.inf
        radius[part] = block.kthvalue(k, dim=1).values
    return radius


register(
    System(
        title="Improved Precision and Recall Metric for Assessing Generative Models",
        authors=("Tuomas Kynkäänniemi", "Tero Karras", "Samuli Laine", "Jaakko Lehtinen", "Timo Aila"),
        year=2019,
        arxiv="1904.06991",
        home="audit",
        call="rg.quality.precision_recall(samples, reference)",
        test="tests/quality/test_manifold.py::test_precision_and_recall_by_hand",
    )
)
register(
    System(
        title="Reliable Fidelity and Diversity Metrics for Generative Models",
        authors=("Muhammad Ferjad Naeem", "Seong Joon Oh", "Youngjung Uh", "Yunjey Choi", "Jaejun Yoo"),
        year=2020,
        arxiv="2002.09797",
        home="audit",
        call="rg.quality.density_coverage(samples, reference)",
        test="tests/quality/test_manifold.py::test_density_and_coverage_of_equal_laws",
    )
)
