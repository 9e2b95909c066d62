"""Mixture fits: what a few Gaussians know of data, to answer for a network at levels where one Gaussian does not suffice."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.denoiser import NOTHING
from retrograde.denoisers.oracles import GaussianMixture
from retrograde.denoisers.transform import Transform
from retrograde.errors import BadValue, ShapeError
from retrograde.paths import EDM, Path
from retrograde.recipes.teleport import Moments, translated


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Moments of the parts of a data set, with the weight of each and, where the data had labels, its class.

    Attributes:
        parts: the moments, K of them.
        weights: [K], positive.
        labels: the class of each part, or None.

    Reference: Wang, Vastola, The Unreasonable Effectiveness of Gaussian Score Approximation, 2024, arXiv 2412.09726.
    """

    parts: tuple[Moments, ...]
    weights: Tensor
    labels: tuple[int, ...] | None = None

    @classmethod
    def of(
        cls,
        samples: Tensor,
        components: int = 16,
        rank: int = 8,
        *,
        labels: Tensor | None = None,
        rounds: int = 20,
        seed: int = 0,
    ) -> Mixture:
        """Return the mixture that expectation-maximization finds for samples [n, *shape], `components` for each label [n].

        Each part has `rank` principal axes and one variance for all other directions. It begins at clusters of near items;
        a part of fewer than 2 (rank + 1) items is given up.

        Raises:
            BadValue: too few samples for one part, or counts that are not positive.
        """
        if components < 1 or rank < 0 or rounds < 1:
            given = f"components={components}, rank={rank}, rounds={rounds}"
            raise BadValue(given, "components >= 1, rank >= 0, rounds >= 1", "components=16, rank=8")
        if labels is None:
            return cls(*_fitted(samples, components, rank, rounds, seed))
        classes = [int(label) for label in labels.unique()]
        fits = [_fitted(samples[labels == label], components, rank, rounds, seed) for label in classes]
        counts = [float((labels == label).sum()) for label in classes]
        weights = torch.cat([count * own for count, (_, own) in zip(counts, fits, strict=True)])
        named = tuple(label for label, (parts, _) in zip(classes, fits, strict=True) for _ in parts)
        return cls(tuple(one for parts, _ in fits for one in parts), weights / weights.sum(), named)

    def denoiser(self, path: Path) -> GaussianMixture:
        """Return the exact denoiser of such data; with labels it takes the condition "label" (null value -1)."""
        means = torch.stack([one.mean for one in self.parts])
        bases, variances, rests = (
            torch.stack([getattr(one, name) for one in self.parts]) for name in ("basis", "variances", "rest")
        )
        return GaussianMixture(path, means, (bases, variances, rests), self.weights, self.labels)


def _fitted(samples: Tensor, components: int, rank: int, rounds: int, seed: int) -> tuple[tuple[Moments, ...], Tensor]:
    least = 2 * (rank + 1)
    if len(samples) < least:
        raise BadValue(f"{len(samples)} samples of rank {rank}", f"{least} or more", f"rank={max(0, len(samples) // 2 - 1)}")
    exact, path = samples.double(), EDM()
    # densities are compared a little blurred: an axis without spread would decide alone
    blur = 0.05 * float(exact.flatten(1).var(0).mean().sqrt())
    shares = _clusters(exact.flatten(1), min(components, len(samples) // least), seed)
    parts: tuple[Moments, ...] = ()
    for _ in range(rounds):
        counts = shares.sum(0)
        kept = counts >= least if bool((counts >= least).any()) else counts >= counts.max()
        shares, counts = shares[:, kept], counts[kept]
        parts = tuple(Moments.of(exact, rank, shares[:, k]) for k in range(len(counts)))
        density = [one.denoiser(path).log_prob(exact, blur) for one in parts]
        shares = torch.softmax(torch.stack(density, 1) + counts.log(), dim=1)
    return parts, counts / counts.sum()


def _clusters(flat: Tensor, components: int, seed: int, rounds: int = 10) -> Tensor:
    """Return the clusters that k-means finds, one-hot [n, K]; each begins at an item far from those before."""
    generator = torch.Generator().manual_seed(seed)
    centres = flat[torch.randint(len(flat), (1,), generator=generator)]
    while len(centres) < components:
        far = torch.cdist(flat, centres).amin(1).square() + 1e-12
        centres = torch.cat([centres, flat[torch.multinomial(far, 1, generator=generator)]])
    shares = flat.new_zeros(len(flat), components)
    for _ in range(rounds):
        shares = torch.nn.functional.one_hot(torch.cdist(flat, centres).argmin(1), components).to(flat)
        centres = torch.where(shares.sum(0)[:, None] > 0, (shares.T @ flat) / shares.sum(0).clamp(min=1)[:, None], centres)
    return shares


@final
@dataclasses.dataclass(frozen=True, eq=False)
class StandIn(Transform):
    """A denoiser for which a closed form answers at high noise levels (see `stand_in`)."""

    closed: AbstractDenoiser
    sigma: float

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        levels = self.path.sigma(t)
        above = levels > self.sigma
        if not isinstance(above, Tensor):
            return self._closed(x_t, t, condition) if above else self.inner.predict(x_t, t, condition, knobs, network_time)
        made, closed = self.inner.predict(x_t, t, condition, knobs, network_time), self._closed(x_t, t, condition)
        value = torch.where(above.reshape(-1, *(1,) * len(self.shape)), closed.read(made.kind), made.value)
        return dataclasses.replace(made, value=value, evaluations={**made.evaluations, **closed.evaluations})

    def _closed(self, x_t: Tensor, t: float | Tensor, condition: Mapping[str, Any]) -> Prediction:
        anchor = {ANCHOR: condition[ANCHOR]} if ANCHOR in condition else {}
        return self.closed.predict(x_t, t, {**translated(self.closed, self.inner, condition), **anchor})


def stand_in(denoiser: AbstractDenoiser, fit: Moments | Mixture, sigma: float) -> StandIn:
    """Return the denoiser whose answers above the level `sigma` are those of a fit in closed form, free of the network.

    The flow of a mixture is not known as that of one Gaussian is, so a plan's upper rows ask the fit instead of being
    skipped; the ledger counts them apart, as "mixture". `departure(denoiser, fit, data)` says how far down it may answer.

    Raises:
        ShapeError: a fit of items of another shape.
        BadValue: a sigma that is not positive.
    """
    closed = fit.denoiser(denoiser.path)
    if closed.shape != tuple(denoiser.shape):
        raise ShapeError(
            f"a fit of items {closed.shape} for a denoiser of {tuple(denoiser.shape)}", "one shape", "fit its data"
        )
    if not sigma > 0.0:
        raise BadValue(f"sigma={sigma}", "sigma > 0", "sigma=departure(denoiser, fit, data)")
    return StandIn(denoiser, closed, float(sigma))


systems.register(
    systems.System(
        title="The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its Applications",
        authors=("Binxu Wang", "John J. Vastola"),
        year=2024,
        arxiv="2412.09726",
        home="accelerate",
        number=148,
        call="rg.recipes.mixture.stand_in(denoiser, rg.recipes.mixture.Mixture.of(data), sigma=1.0)",
        test="tests/recipes/test_mixture.py::test_a_mixture_answers_for_a_network_of_digits_further_down",
    )
)
