"""The exact product of powers of Gaussian mixtures, where it is one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retrograde.denoisers.oracles import GaussianMixture
from retrograde.errors import BadValue, ShapeError

_MOST = 4096
"""Components that a product may have."""


def multiplied(models: Sequence[GaussianMixture], exponents: Sequence[float]) -> GaussianMixture:
    """Return the mixture with the density prod_i q_i^{w_i}, up to its norm; see `oracles.product`.

    A component for each choice k of one component of every factor, with

        Lambda_k = sum_i w_i Lambda_{i,k},      eta_k = sum_i w_i Lambda_{i,k} mu_{i,k}

    as its precision and Lambda_k times its mean; a whole power of a mixture is that many factors.
    """
    first = models[0]
    if odd := [one for one in models if one.shape != first.shape]:
        raise ShapeError(f"a product of items {list(first.shape)} and {list(odd[0].shape)}", "one shape", "embed them alike")
    factors: list[tuple[GaussianMixture, float]] = []
    for model, exponent in zip(models, exponents, strict=True):
        if len(model.means) == 1:
            factors.append((model, float(exponent)))
        elif exponent >= 0.0 and float(exponent).is_integer():
            factors += [(model, 1.0)] * int(exponent)
        else:
            raise BadValue(
                f"the power {exponent:g} of a mixture of {len(model.means)} components",
                "whole powers from 0, or any power of a single Gaussian",
                "weigh particles: rg.guide.product(...) with particles=rg.particles.Weighted(count)",
            )
    count = math.prod(len(model.means) for model, _ in factors)
    if not 1 <= count <= _MOST:
        raise BadValue(f"a product of {count} components", f"1 to {_MOST}", "fewer factors, or mixtures of fewer components")
    d = first.means[0].numel()
    precision, eta, constant = torch.zeros(1, d, d).double(), torch.zeros(1, d).double(), torch.zeros(1).double()
    for model, exponent in factors:
        parts = _natural(model)
        precision, eta, constant = (
            (held[:, None] + exponent * part[None]).flatten(0, 1)
            for held, part in zip((precision, eta, constant), parts, strict=True)
        )
    least = float(torch.linalg.eigvalsh(precision).min())
    if not least > 0.0:
        given = f"a product whose precision falls to {least:.3g}"
        raise BadValue(given, "powers under which the product has a norm", "smaller negative exponents")
    covariances = torch.linalg.inv(precision)
    means = torch.einsum("kde,ke->kd", covariances, eta)
    log_weights = constant + 0.5 * (eta * means).sum(1) - 0.5 * torch.logdet(precision)
    return dataclasses.replace(
        first,
        means=means.reshape(-1, *first.shape),
        covariances=0.5 * (covariances + covariances.transpose(1, 2)),
        weights=torch.softmax(log_weights, 0).clamp(min=1e-300),
        labels=None,
        name="product",
    )


def _natural(model: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Return precisions [K, d, d], precisions times means [K, d] and log q_k(0) w_k [K], up to a number."""
    covariances, means = model.covariance(), model.means.flatten(1)
    if not bool((torch.linalg.eigvalsh(covariances)[:, 0] > 0.0).all()):
        given = f"a product with {model.name!r}, which has a component without spread"
        raise BadValue(given, "positive definite covariances", "give its points a variance: rg.oracles.GaussianMixture")
    precision = torch.linalg.inv(covariances)
    eta = torch.einsum("kde,ke->kd", precision, means)
    return precision, eta, model.log_weights - 0.5 * (eta * means).sum(1) + 0.5 * torch.logdet(precision)
