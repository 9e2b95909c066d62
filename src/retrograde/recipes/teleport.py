"""Teleportation: the first part of the way in closed form, for data of which only mean and covariance matter there.

Near the noise end a denoiser knows little more of the data than its mean m and its covariance, and the probability flow of
Gaussian data is known: along a principal axis of variance v the distance of x from a m scales with sqrt(a^2 v + s^2). So
one row without an evaluation carries the prior to the level where more begins to matter, and any plan goes on from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from retrograde import grids, laws, systems
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.denoisers.oracles import GaussianMixture
from retrograde.errors import BadValue
from retrograde.linear import LinearMap
from retrograde.noise import Noise
from retrograde.paths import Path
from retrograde.plan import Plan, Row

_STREAM = (-148.0, -148.0)  # of its own: data sampled with the same seed must not be correlated with these draws


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
    """What a Gaussian knows of data: mean, the largest principal axes, and one variance for all other directions.

    Attributes:
        mean: [*shape].
        basis: principal axes, orthonormal columns [d, r].
        variances: the variance along each, [r].
        rest: mean variance of the other directions, [].
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: Tensor

    @classmethod
    def of(cls, samples: Tensor, rank: int = 64, weights: Tensor | None = None) -> Moments:
        """Return the moments of samples [n, *shape], with at most `rank` axes and no more than half of n.

        `weights` [n], not negative, say how much each sample counts (all one: left out).

        Raises:
            BadValue: fewer than two samples.
        """
        if len(samples) < 2:
            raise BadValue(f"{len(samples)} samples", "two or more, better hundreds", "sample some from a quick plan")
        shape = samples.shape[1:]
        if weights is not None:
            samples, weights = samples[weights > 1e-6], weights[weights > 1e-6, None]
        flat = samples.flatten(1)
        counts = torch.ones_like(flat[:, :1]) if weights is None else weights.to(flat)
        total = float(counts.sum())
        mean = (counts * flat).sum(0) / total
        n, d = total**2 / float(counts.square().sum()), flat.shape[1]
        r = min(rank, int(n) // 2, d)
        scaled = (flat - mean) * (counts / (total - total / n)).sqrt()
        _, singular, axes = torch.linalg.svd(scaled, full_matrices=False)
        variances = singular**2
        rest = variances[r:].sum() / max(d - r, 1)
        return cls(mean.reshape(shape), axes[:r].T.contiguous(), variances[:r], rest)

    @property
    def emergence(self) -> Tensor:
        """Noise levels sigma [r] at which an axis comes forth: half of its variance is in the data mean, sqrt(variances)."""
        return self.variances.sqrt()

    def denoiser(self, path: Path) -> GaussianMixture:
        """Return the exact denoiser of Gaussian data with these moments; its answer at the prior is a preview for free."""
        return GaussianMixture(path, self.mean[None], (self.basis[None], self.variances[None], self.rest[None]))


def carry(path: Path, moments: Moments, start: float, end: float | None) -> Row:
    """Return the row from time start to time end (None: the data), exact for Gaussian data of these moments.

    x' = a' m + M (x - a m), M with the gain sqrt((a'^2 v + s'^2)/(a^2 v + s^2)) along the axis of variance v.
    """
    a, s = path.a(start), path.s(start)
    a_end, s_end = (1.0, 0.0) if end is None else (path.a(end), path.s(end))

    def gain(variance: Tensor) -> Tensor:
        return ((a_end**2 * variance + s_end**2) / (a**2 * variance + s**2)).sqrt()

    move = LinearMap(moments.basis, gain(moments.variances), float(gain(moments.rest)))
    shift = a_end * moments.mean - a * move(moments.mean[None])[0]
    return Row(None, end, (move,), shift=shift)


def teleport(plan: Plan, moments: Moments, sigma: float) -> Plan:
    """Return a plan that goes from its start to its first level not above `sigma` without evaluations.

    The steps above are dropped, not replaced: `plan.nfe` falls by as many. sigma = 0 carries to the data itself. Where to
    stop is said by `departure`; data of several classes has moments, and a plan, for each.

    Raises:
        BadValue: no level of the plan is at or below sigma, or a plan that starts in the middle of another.
    """
    if plan.start is None or plan.history:
        raise BadValue("a plan cut from a longer one", "a plan that starts by itself", "teleport the whole plan")
    rest = plan.from_noise(sigma) if sigma > 0.0 else None
    first = carry(plan.path, moments, plan.start, None if rest is None else rest.start)
    rows = (first, *(() if rest is None else rest.rows))
    recipe, misses = f"teleport({plan.recipe})", tuple(dict.fromkeys((*plan.misses, laws.POINT_MASS)))
    provenance = {**plan.provenance, "teleport": {"sigma": sigma}}
    return dataclasses.replace(
        plan, rows=rows, start=plan.start, recipe=recipe, misses=misses, provenance=provenance, report=None
    )


class Fit(Protocol):
    """Anything fitted to data that has an exact denoiser: `Moments`, or a `mixture.Mixture` of them."""

    def denoiser(self, path: Path) -> GaussianMixture: ...


def translated(closed: AbstractDenoiser, denoiser: AbstractDenoiser, condition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions that a closed form takes, with its own null value where the denoiser's stands."""
    known = {name: condition[name] for name in closed.conditions if name in condition}
    return {k: torch.where(v == denoiser.conditions[k], closed.conditions[k], v) for k, v in known.items()}


def explained(
    denoiser: AbstractDenoiser,
    moments: Fit,
    data: Tensor,
    sigma: float,
    *,
    condition: Any = None,
    seed: int = 0,
    batch_size: int = 256,
) -> float:
    """Return the part of a denoiser's score at level sigma that the Gaussian of these moments, or a mixture, explains.

    1 - E|E - E_G|^2/E|E|^2 with the noise means of both on noised data [n, *shape]; one evaluation of each item.
    """
    path = denoiser.path
    t = denoiser.snap(path.time_of_sigma(sigma))
    gaussian, told = moments.denoiser(path), denoiser.network_time(t)
    prepared = prepare_condition(denoiser, condition, len(data), data.device)
    eps = Noise.first(len(data), seed).draw(data.shape[1:], _STREAM, 0, data.dtype, data.device)
    x = path.a(t) * data + path.s(t) * eps
    missed = total = 0.0
    with torch.no_grad():
        for low in range(0, len(x), batch_size):
            part = slice(low, low + batch_size)
            chosen = {name: value[part] for name, value in prepared.items()}
            own = denoiser.predict(x[part], t, chosen, {}, told).noise.double()
            said = gaussian.predict(x[part].double(), t, translated(gaussian, denoiser, chosen))
            missed += float((own - said.noise).square().sum())
            total += float(own.square().sum())
    return 1.0 - missed / total


def departure(
    denoiser: AbstractDenoiser,
    moments: Fit,
    data: Tensor,
    share: float = 0.99,
    *,
    levels: int = 24,
    **options: Any,
) -> float:
    """Return the lowest level sigma down to which the Gaussian (or a mixture) explains `share` of the denoiser's score.

    Looks at `levels` levels even in log-SNR, from the noise end down to the first that falls short; takes what
    `explained` takes.

    Raises:
        BadValue: already the noise end falls short, or a share outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise BadValue(f"share={share}", "0 < share < 1", "share=0.99")
    found: float | None = None
    for t in grids.log_snr(denoiser.path, levels):
        sigma = min(denoiser.path.sigma(t), grids.levels(denoiser.path)[1])
        if explained(denoiser, moments, data, sigma, **options) < share:
            break
        found = sigma
    if found is None:
        raise BadValue(f"share={share}", "what the moments explain at the noise end", "moments of this denoiser's data")
    return found


for _title, _authors, _year, _arxiv, _home, _number, _test in (
    (
        "The Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its Applications",
        ("Binxu Wang", "John J. Vastola"),
        2024,
        "2412.09726",
        "accelerate",
        148,
        "test_a_third_of_the_steps_is_skipped_for_nothing",
    ),
    (
        "Diffusion Models Generate Images Like Painters: an Analytical Theory of Outline First, Details Later",
        ("Binxu Wang", "John J. Vastola"),
        2023,
        "2303.02490",
        "audit",
        58,
        "test_the_closed_form_is_the_flow_of_gaussian_data",
    ),
):
    systems.register(
        systems.System(
            title=_title,
            authors=_authors,
            year=_year,
            arxiv=_arxiv,
            home=_home,
            number=_number,
            call="rg.recipes.teleport.teleport(plan, rg.recipes.teleport.Moments.of(data), sigma=5.0)",
            test=f"tests/recipes/test_teleport.py::{_test}",
        )
    )
