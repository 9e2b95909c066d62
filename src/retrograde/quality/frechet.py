"""The Fréchet distance between Gaussians fitted to two sets of features."""

from __future__ import annotations

import torch

from retrograde.errors import BadValue, ShapeError
from retrograde.quality.features import Features, checked, two_sets
from retrograde.quality.figure import Figure
from retrograde.systems import System, register


def frechet_distance(samples: torch.Tensor, reference: torch.Tensor, features: Features | None = None) -> Figure:
    """Squared Fréchet distance of the Gaussians with the two sets' means and (n - 1)-normalized covariances.

    |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2}); sets [n, ...] and [m, ...], squared units of
    the features. Biased upward by O(1/n): compare only figures of equal counts. With no more items than features a
    covariance is singular; the number is still what the formula gives, and `warning` says so.

    Raises ShapeError, BadType, BadValue for sets that do not fit, are not finite, or hold fewer than 2 items.
    Reference: Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter 2017, "GANs Trained by a Two Time-Scale Update Rule
    Converge to a Local Nash Equilibrium", arXiv 1706.08500.
    """
    x, y = two_sets(samples, reference, features, least=2)
    value = frechet_from_moments(x.mean(0), _covariance(x), y.mean(0), _covariance(y))
    n, m, d = len(x), len(y), x.shape[1]
    warning = None
    if min(n, m) <= d:
        rank = min(n, m) - 1
        warning = f"a covariance of {d} features has rank {rank} at most; the distance is biased upward"
    return Figure("frechet", value, n, m, warning=warning)


def frechet_from_moments(
    mean_1: torch.Tensor, covariance_1: torch.Tensor, mean_2: torch.Tensor, covariance_2: torch.Tensor
) -> float:
    """Squared Fréchet (2-Wasserstein) distance of two Gaussians given by means [d] and covariances [d, d].

    The trace of the root is the sum of the singular values of C_1^{1/2} C_2^{1/2}, which keeps the digits that the
    eigenvalues of C_1^{1/2} C_2 C_1^{1/2} lose when a covariance is singular.

    Raises ShapeError for shapes that do not fit, BadValue for a covariance that is not symmetric and positive.
    Reference: Heusel et al. 2017, arXiv 1706.08500; Dowson, Landau 1982, "The Fréchet Distance between Multivariate
    Normal Distributions".
    """
    mu_1, mu_2 = checked(mean_1, "mean_1"), checked(mean_2, "mean_2")
    c_1, c_2 = checked(covariance_1, "covariance_1"), checked(covariance_2, "covariance_2")
    d = mu_1.numel()
    given = [tuple(part.shape) for part in (mu_1, c_1, mu_2, c_2)]
    if given != [(d,), (d, d), (d,), (d, d)]:
        raise ShapeError(f"mean, covariance, mean, covariance of shapes {given}", "[d], [d, d], [d], [d, d]", "flatten")
    root = _root(c_1, "covariance_1") @ _root(c_2, "covariance_2")
    cross = torch.linalg.svdvals(root).sum()
    value = (mu_1 - mu_2).square().sum() + c_1.trace() + c_2.trace() - 2 * cross
    # Rounding alone can bring equal sets below zero.
    return max(0.0, float(value))


def _covariance(x: torch.Tensor) -> torch.Tensor:
    centred = x - x.mean(0)
    return centred.T @ centred / (len(x) - 1)


def _root(c: torch.Tensor, what: str) -> torch.Tensor:
    tolerance = 1e-8 * float(c.abs().max())
    if float((c - c.T).abs().max()) > tolerance:
        raise BadValue(f"{what} is not symmetric", "a covariance", f"({what} + {what}.T) / 2")
    values, vectors = torch.linalg.eigh((c + c.T) / 2)
    if float(values.min()) < -tolerance * len(c):
        raise BadValue(f"{what} has the eigenvalue {float(values.min()):.3g}", "none below zero", "torch.cov(rows.T)")
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


register(
    System(
        title="GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium",
        authors=(
            "Martin Heusel",
            "Hubert Ramsauer",
            "Thomas Unterthiner",
            "Bernhard Nessler",
            "Sepp Hochreiter",
        ),
        year=2017,
        arxiv="1706.08500",
        home="audit",
        call="rg.quality.frechet_distance(samples, reference)",
        test="tests/quality/test_frechet.py::test_two_gaussians_with_commuting_covariances",
    )
)
