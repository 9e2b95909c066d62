"""What a row's coefficients may depend on beyond theory: elements, channels, or bands of spatial frequency.

Each family solves what the scalar coefficients leave, on the same regressors, in groups of coordinates; it is pulled towards
adding nothing, so that the scalar fit is always a member.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from retrograde.errors import BadValue, ShapeError
from retrograde.linear import LinearMap


def per_element(regressors: Sequence[Tensor], residual: Tensor, ridge: float) -> tuple[list[Tensor], Tensor]:
    """Return w_i and b, each [d], that minimize |residual - sum_i w_i z_i - b|^2 in every element, pulled towards zero.

    The penalty on a coefficient is `ridge` times the mean energy of its regressor over all elements, so that elements in
    which nothing happens keep the coefficients of the whole.
    """
    groups = torch.arange(residual.shape[1], device=residual.device)
    *weights, shift = per_group([*regressors, torch.ones_like(residual)], residual, groups, ridge)
    return weights, shift


def per_group(regressors: Sequence[Tensor], residual: Tensor, groups: Tensor, ridge: float) -> list[Tensor]:
    """Return w_i [count], a coefficient for each group of coordinates, that minimize |residual - sum_i w_i[g] z_i|^2.

    Args:
        regressors, residual: each [n, d].
        groups: number of each coordinate's group, [d]: 0, 1, ...
        ridge: penalty on a coefficient, relative to the energy of its regressor in a group of mean size.
    """
    count = int(groups.max()) + 1
    columns = torch.stack([*regressors], -1).double()
    gram = _gathered(torch.einsum("ndp,ndq->dpq", columns, columns), groups, count)
    moment = _gathered(torch.einsum("ndp,nd->dp", columns, residual.double()), groups, count)
    penalty = ridge * gram.diagonal(dim1=1, dim2=2).mean(0)
    return [*torch.linalg.solve(gram + torch.diag(penalty), moment).to(residual.dtype).unbind(-1)]


def per_band(
    regressors: Sequence[Tensor],
    residual: Tensor,
    shape: Sequence[int],
    bands: int,
    ridge: float,
    scalar: Sequence[float],
) -> list[LinearMap]:
    """Return coefficients with a factor for each band of spatial frequency, from scalar ones and what they leave.

    The highest band holds every frequency above half of the highest, the next those above a quarter, and so on, the lowest
    all that are left: most numbers lie in the highest, which costs a map nothing.
    """
    basis, groups = cosines(tuple(shape), bands)
    basis, groups = basis.to(residual), groups.to(residual.device)
    weights = per_group([z @ basis for z in regressors], residual @ basis, groups, ridge)
    low = groups < bands - 1
    factors = [w + one for w, one in zip(weights, scalar, strict=True)]
    return [LinearMap(basis[:, low], w[groups[low]], float(w[-1])) for w in factors]


@functools.lru_cache(maxsize=2)
def cosines(shape: tuple[int, ...], bands: int) -> tuple[Tensor, Tensor]:
    """Return the orthonormal cosine basis of items of a shape [channels, *sides], [d, d], and each column's band, [d].

    Raises:
        ShapeError: items without a side, or of more than 4096 numbers, for which the basis is too large.
        BadValue: fewer than two bands, or more than the sides have.
    """
    if len(shape) < 2 or torch.Size(shape).numel() > MAX_BANDED:
        raise ShapeError(
            f"items of shape {list(shape)}",
            f"[channels, *sides] of at most {MAX_BANDED} numbers",
            "fit without: Effort(bands=())",
        )
    most = max(2, int(math.log2(max(shape[1:]))))
    if not 2 <= bands <= most:
        raise BadValue(f"bands={bands}", f"2 to {most}", "bands=2")
    basis, radius = torch.eye(shape[0], dtype=torch.float64), torch.zeros(shape[0], dtype=torch.float64)
    for side in shape[1:]:
        k = torch.arange(side, dtype=torch.float64)
        one = torch.cos(math.pi / side * (k[:, None] + 0.5) * k) * torch.where(k == 0, 1.0, 2.0).div(side).sqrt()
        basis = torch.kron(basis, one)
        radius = torch.maximum(radius[:, None], k / side).flatten()
    groups = torch.zeros(len(radius), dtype=torch.long)
    for band in range(1, bands):
        groups += radius >= 0.5 ** (bands - band)
    return basis.float(), groups


MAX_BANDED = 4096
"""Largest items, in numbers, whose frequencies are told apart."""


def _gathered(parts: Tensor, groups: Tensor, count: int) -> Tensor:
    return parts.new_zeros(count, *parts.shape[1:]).index_add_(0, groups, parts)
