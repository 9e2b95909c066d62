"""Maximum mean discrepancy: the kernel distance of generated images, and an exact two-sample test."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch

from retrograde.errors import BadValue
from retrograde.quality.features import Features, count_in, two_sets
from retrograde.quality.figure import Figure
from retrograde.systems import System, register


def kernel_distance(
    samples: torch.Tensor,
    reference: torch.Tensor,
    features: Features | None = None,
    *,
    subsets: int = 10,
    seed: int = 0,
) -> Figure:
    """Kernel distance: unbiased MMD^2 with k(x, y) = (x.y / d + 1)^3, averaged over `subsets` disjoint parts.

    Sets [n, ...] and [m, ...]. Its expectation is zero for equal laws at every n, so it may come out negative. The
    parts share no item, so their spread over sqrt(subsets) is an honest standard error (overlapping parts would
    understate it); one part has none. What does not fill a part is left out and not counted.

    Raises ShapeError, BadType, BadValue for sets that do not fit, are not finite, or hold fewer than 2 items a part.
    Reference: Bińkowski, Sutherland, Arbel, Gretton 2018, "Demystifying MMD GANs", arXiv 1801.01401.
    """
    count_in("subsets", subsets, 1)
    x, y = two_sets(samples, reference, features, least=2 * subsets)
    generator = torch.Generator().manual_seed(seed)
    size_x, size_y = len(x) // subsets, len(y) // subsets
    parts_x = torch.randperm(len(x), generator=generator)[: size_x * subsets].reshape(subsets, size_x)
    parts_y = torch.randperm(len(y), generator=generator)[: size_y * subsets].reshape(subsets, size_y)
    values = torch.tensor([_polynomial_mmd(x[i], y[j]) for i, j in zip(parts_x, parts_y, strict=True)])
    error = float(values.std()) / math.sqrt(subsets) if subsets > 1 else None
    settings = f"{subsets} disjoint subsets" if subsets > 1 else ""
    counts = (size_x * subsets, size_y * subsets)
    return Figure("kernel", float(values.mean()), *counts, standard_error=error, settings=settings)


def _polynomial_mmd(x: torch.Tensor, y: torch.Tensor) -> float:
    d, n, m = x.shape[1], len(x), len(y)
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


@final
@dataclass(frozen=True)
class TwoSampleTest:
    """The outcome of a two-sample test; unpacks as `statistic, quantile`.

    `quantile` is the `level` quantile of the statistic when both sets have one law, and `p_value` the chance of a
    statistic as large. A true null is rejected with probability 1 - level at most, at every sample size.
    """

    statistic: float
    quantile: float
    p_value: float
    level: float
    permutations: int
    n_samples: int
    n_reference: int

    @property
    def rejects(self) -> bool:
        """Whether the laws differ, at this level."""
        return self.statistic > self.quantile

    def __iter__(self) -> Iterator[float]:
        yield self.statistic
        yield self.quantile

    def __str__(self) -> str:
        verdict = "laws differ" if self.rejects else "no difference found"
        counts = f"n={self.n_samples} vs {self.n_reference}, {self.permutations} permutations"
        return f"mmd {self.statistic:.4g}, {self.level:g} quantile {self.quantile:.4g}: {verdict} ({counts})"


def mmd_test(
    x: torch.Tensor,
    y: torch.Tensor,
    seed: int,
    *,
    bandwidths: Sequence[float] | None = None,
    permutations: int = 200,
    level: float = 0.99,
    features: Features | None = None,
) -> TwoSampleTest:
    """Test whether two sets have one law: unbiased MMD^2 with Gaussian kernels, against relabelled copies of itself.

    k(x, y) = mean_h exp(-|x - y|^2 / (2 h^2)); bandwidths h default to 1/2, 1 and 2 times the median distance of the
    pooled items, which no relabelling changes. The quantile is taken over the observed labelling and `permutations`
    random ones, which makes the level exact. Sets [n, ...], [m, ...]; memory (n + m)^2 float64.

    Raises ShapeError, BadType, BadValue for sets that do not fit, are not finite, hold fewer than 2 items, or
    are all equal, or for too few permutations for the level.
    Reference: Gretton, Borgwardt, Rasch, Schölkopf, Smola 2012, "A Kernel Two-Sample Test".
    """
    a, b = two_sets(x, y, features, least=2)
    count_in("permutations", permutations, 1)
    if not 0 < level < 1 or math.ceil(level * (permutations + 1)) > permutations:
        least = math.ceil(level / (1 - level)) if 0 < level < 1 else 199
        allowed = "a level inside (0, 1), and level / (1 - level) permutations or more"
        raise BadValue(f"level={level} with {permutations} permutations", allowed, f"permutations={max(1, least)}")
    kernel = _gaussian_kernel(torch.cat([a, b]), bandwidths)
    n, m = len(a), len(b)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.arange(n + m), *(torch.randperm(n + m, generator=generator) for _ in range(permutations))]
    first = torch.zeros(permutations + 1, n + m, dtype=torch.float64)
    for row, order in zip(first, orders, strict=True):
        row[order[:n]] = 1.0
    first = first.to(kernel.device)
    sums = first @ kernel
    total, xx = kernel.sum(), (sums * first).sum(1)
    xy = sums.sum(1) - xx
    yy = total - xx - 2 * xy
    # The diagonal of the kernel is one everywhere, so n and m take it out.
    values = (xx - n) / (n * (n - 1)) + (yy - m) / (m * (m - 1)) - 2 * xy / (n * m)
    statistic = float(values[0])
    quantile = float(values.sort().values[math.ceil(level * (permutations + 1)) - 1])
    p_value = float((values >= values[0]).double().mean())
    return TwoSampleTest(statistic, quantile, p_value, level, permutations, n, m)


def _gaussian_kernel(pooled: torch.Tensor, bandwidths: Sequence[float] | None) -> torch.Tensor:
    squares = torch.cdist(pooled, pooled, compute_mode="donot_use_mm_for_euclid_dist").square()
    if bandwidths is None:
        i, j = torch.triu_indices(len(pooled), len(pooled), 1)
        between = squares[i, j]
        median = math.sqrt(float(between[between > 0].median())) if bool((between > 0).any()) else 0.0
        if median == 0:
            raise BadValue("items that are all equal", "at least two different items", "pass bandwidths=[1.0]")
        bandwidths = [median / 2, median, 2 * median]
    if not bandwidths or min(bandwidths) <= 0:
        raise BadValue(f"bandwidths={list(bandwidths)}", "one or more, above zero", "bandwidths=[1.0]")
    kernel = torch.zeros_like(squares)
    for h in bandwidths:
        kernel += torch.exp(squares / (-2 * h * h))
    return kernel / len(bandwidths)


register(
    System(
        title="Demystifying MMD GANs",
        authors=("Mikołaj Bińkowski", "Danica J. Sutherland", "Michael Arbel", "Arthur Gretton"),
        year=2018,
        arxiv="1801.01401",
        home="audit",
        call="rg.quality.kernel_distance(samples, reference)",
        test="tests/quality/test_kernel.py::test_mean_is_zero_for_equal_laws",
    )
)
register(
    System(
        title="A Kernel Two-Sample Test",
        authors=("Arthur Gretton", "Karsten M. Borgwardt", "Malte J. Rasch", "Bernhard Schölkopf", "Alexander Smola"),
        year=2012,
        home="audit",
        call="rg.quality.mmd_test(samples, reference, seed=0)",
        test="tests/quality/test_kernel.py::test_level_of_the_two_sample_test",
    )
)
