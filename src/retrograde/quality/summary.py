"""Every distributional figure in one call."""

from __future__ import annotations

import torch

from retrograde.quality.features import Features, two_sets
from retrograde.quality.figure import Figure
from retrograde.quality.frechet import frechet_distance
from retrograde.quality.kernel import kernel_distance
from retrograde.quality.manifold import density_coverage, precision_recall
from retrograde.quality.spectrum import variance_ratio
from retrograde.quality.transport import energy_distance, sliced_wasserstein


def report(
    samples: torch.Tensor, reference: torch.Tensor, features: Features | None = None, *, seed: int = 0
) -> dict[str, Figure]:
    """Compare two sets by every figure of this package that needs no pairing, by name, in the order to read them.

    Features are computed once. Sets [n, ...], [m, ...] of at least 6 items each; the kernel distance uses 10 disjoint
    subsets, or fewer where that would leave less than 10 items in one. The time is O((n + m)^2 d + d^3).

    Raises ShapeError, BadType, BadValue for sets that do not fit, are not finite, or are too small.
    """
    x, y = two_sets(samples, reference, features, least=6)
    subsets = max(1, min(10, min(len(x), len(y)) // 10))
    figures = (
        frechet_distance(x, y),
        kernel_distance(x, y, subsets=subsets, seed=seed),
        sliced_wasserstein(x, y, seed=seed),
        sliced_wasserstein(x, y, over="max", seed=seed),
        energy_distance(x, y),
        *precision_recall(x, y),
        *density_coverage(x, y),
        variance_ratio(x, y),
    )
    return {figure.name: figure for figure in figures}
