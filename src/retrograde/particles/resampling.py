"""Resampling: from weights to ancestors, each scheme with E[offspring of k] = K w_k.

Probabilities and uniform numbers are [S, K] for S independent groups of K particles; ancestors are places within the group.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from retrograde.errors import UnknownName

Scheme = Callable[[Tensor, Tensor], Tensor]


def _inverse(probabilities: Tensor, at: Tensor) -> Tensor:
    """Return the place k at which the distribution function reaches each of the numbers `at` in [0, 1)."""
    reached = probabilities.cumsum(-1)
    reached = reached / reached[..., -1:]
    return torch.searchsorted(reached, at.contiguous(), right=True).clamp(max=probabilities.shape[-1] - 1)


def _steps(probabilities: Tensor) -> Tensor:
    return torch.arange(probabilities.shape[-1], dtype=probabilities.dtype, device=probabilities.device)


def multinomial(probabilities: Tensor, u: Tensor) -> Tensor:
    """K independent draws: the control, of the largest variance."""
    return _inverse(probabilities, u.sort(-1).values)


def stratified(probabilities: Tensor, u: Tensor) -> Tensor:
    """One draw from each of K equal parts, (k + u_k)/K (Kitagawa, 1996): fewer than two offspring off K w."""
    return _inverse(probabilities, (_steps(probabilities) + u) / probabilities.shape[-1])


def systematic(probabilities: Tensor, u: Tensor) -> Tensor:
    """One uniform number for all parts, (k + u)/K: offspring are K w rounded up or down (Carpenter et al., 1999)."""
    return _inverse(probabilities, (_steps(probabilities) + u[..., :1]) / probabilities.shape[-1])


def residual(probabilities: Tensor, u: Tensor) -> Tensor:
    """floor(K w) offspring for sure, the rest drawn independently from what is left (Liu and Chen, 1998)."""
    expected = probabilities * probabilities.shape[-1]
    # a weight of exactly j/K may round to below j
    sure = torch.floor(expected + 1e-9)
    rest = (expected - sure).clamp(min=0.0)
    reached = sure.cumsum(-1)
    places = _steps(probabilities).expand_as(expected).contiguous()
    kept = torch.searchsorted(reached, places, right=True).clamp(max=probabilities.shape[-1] - 1)
    left = torch.where(rest.sum(-1, keepdim=True) > 1e-9, rest, torch.ones_like(rest))
    return torch.where(places < reached[..., -1:], kept, _inverse(left, u)).sort(-1).values


def one(probabilities: Tensor, u: Tensor) -> Tensor:
    """One draw, whose copies fill the group: what chooses among candidates of one particle."""
    return _inverse(probabilities, u[..., :1]).expand_as(probabilities)


def best(probabilities: Tensor, u: Tensor) -> Tensor:
    """Copies of the heaviest particle; no law but the greatest weight, so not unbiased."""
    return probabilities.argmax(-1, keepdim=True).expand_as(probabilities)


SCHEMES: dict[str, Scheme] = {
    scheme.__name__: scheme for scheme in (systematic, stratified, residual, multinomial, one, best)
}
"""The schemes by name; all but "best" are unbiased."""


def scheme(name: str) -> Scheme:
    """Return a scheme of resampling.

    Raises:
        UnknownName: no such scheme.
    """
    if name not in SCHEMES:
        raise UnknownName("scheme of resampling", name, SCHEMES)
    return SCHEMES[name]


def branched(ancestors: Tensor) -> Tensor:
    """Return sorted ancestors [S, K] in an order in which every survivor keeps its place and copies take those of the dead.

    A particle that lives on keeps the noise of its place, and only what branches is copied: the jumps of a birth and death
    process.
    """
    places = torch.arange(ancestors.shape[-1], device=ancestors.device).expand_as(ancestors)
    copies = torch.zeros_like(ancestors, dtype=torch.bool)
    copies[..., 1:] = ancestors[..., 1:] == ancestors[..., :-1]
    alive = torch.zeros_like(copies).scatter_(-1, ancestors, True)
    from_ = ancestors.gather(-1, (~copies).to(torch.uint8).sort(dim=-1, stable=True).indices)
    dead = alive.to(torch.uint8).sort(dim=-1, stable=True).indices
    filled = torch.where(places < copies.sum(-1, keepdim=True), from_, dead)
    return places.scatter(-1, dead, filled)
