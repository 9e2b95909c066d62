"""Weights of particles, in log space: [..., K] for independent groups of K particles, along the last axis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from retrograde.errors import BadValue

_HALVINGS = 40
"""Bisections of an exponent: to 1e-12, beyond what an effective sample size can tell."""


def normalized(log_weights: Tensor) -> Tensor:
    """Return the probabilities w_k / sum_j w_j, [..., K]; equal ones where every weight of a group is zero."""
    top = log_weights.amax(-1, keepdim=True)
    extinct = torch.isneginf(top)
    return torch.softmax(torch.where(extinct, 0.0, log_weights), -1)


def effective_size(log_weights: Tensor) -> Tensor:
    """Return the effective sample size (sum_k w_k)^2 / sum_k w_k^2, [...]: K for equal weights, 1 for a single one.

    Reference: Kong, Liu, Wong, Sequential Imputations and Bayesian Missing Data Problems, 1994.
    """
    return 1.0 / normalized(log_weights).square().sum(-1)


def log_mean(log_weights: Tensor) -> Tensor:
    """Return log((1/K) sum_k w_k), [...]: the logarithm of an unbiased estimate, where the weights are."""
    return torch.logsumexp(log_weights, -1) - math.log(log_weights.shape[-1])


def tempered(log_weights: Tensor, gains: Tensor, size: float, least: Tensor | float = 0.0) -> Tensor:
    """Return for each group the largest exponent b in [least, 1] at which w exp(b gain) keeps its effective sample size.

        ESS(log w_k + b gain_k) >= size,     [...] for log-weights and gains [..., K]

    Where not even `least` keeps it, `least` is returned. By bisection, so where the size is not monotone in b one
    crossing of several is found.

    Raises:
        BadValue: a size outside [1, K].

    Reference: Jasra, Stephens, Doucet, Tsagaris, Inference for Lévy-Driven Stochastic Volatility Models via Adaptive
    Sequential Monte Carlo, 2011.
    """
    if not 1.0 <= size <= log_weights.shape[-1]:
        raise BadValue(f"an effective size of {size}", f"1 <= size <= {log_weights.shape[-1]}", "size=0.5 * K")

    def kept(exponent: Tensor) -> Tensor:
        return effective_size(log_weights + exponent[..., None] * gains) >= size

    low = torch.as_tensor(least, dtype=gains.dtype, device=gains.device).expand(gains.shape[:-1]).clone()
    high = torch.ones_like(low)
    whole = kept(high)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        fits = kept(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return torch.where(whole, 1.0, low)
