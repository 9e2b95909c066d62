"""Linear maps as coefficients of a plan, for methods that treat directions of the state differently."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from retrograde.errors import PlanError


@dataclasses.dataclass(frozen=True, eq=False)
class LinearMap:
    """The symmetric map L x = rest x + U diag(gains - rest) U^T x on items flattened to d numbers.

    Attributes:
        basis: U with orthonormal columns, [d, r].
        gains: factor along each column, [r].
        rest: factor along every other direction.
    """

    basis: Tensor
    gains: Tensor
    rest: float

    def __call__(self, x: Tensor) -> Tensor:
        """Return L x for x [n, *shape]."""
        basis = self.basis.to(x)
        inner = (x.flatten(1) @ basis) * (self.gains.to(x) - self.rest)
        return torch.addmm(x.flatten(1), inner, basis.T, beta=self.rest).reshape(x.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LinearMap):
            return NotImplemented
        same = torch.equal(self.basis, other.basis) and torch.equal(self.gains, other.gains)
        return same and self.rest == other.rest

    __hash__ = None  # type: ignore[assignment]

    @property
    def finite(self) -> bool:
        """Whether every number of it is finite."""
        return bool(self.basis.isfinite().all() and self.gains.isfinite().all()) and abs(self.rest) < float("inf")


Coefficient = float | Tensor | LinearMap
"""A float computed in float64, a tensor that broadcasts against one item, or a linear map."""


def combine(terms: Iterable[tuple[Coefficient, Tensor]]) -> Tensor:
    """Return the sum of coefficient times tensor, allocating one result."""
    total: Tensor | None = None
    whole: Tensor | None = None  # a first tensor whose coefficient is one: the next term is added to it in one pass
    for coefficient, tensor in terms:
        if isinstance(coefficient, (float, int)):  # the tuple: a union is made anew at each call
            if coefficient == 0.0:
                continue
            if total is not None:
                total.add_(tensor, alpha=coefficient)
            elif whole is not None:
                total = torch.add(whole, tensor, alpha=coefficient)
            elif coefficient == 1.0:
                whole = tensor
            else:
                total = torch.mul(tensor, coefficient)
            continue
        total = whole.clone() if total is None and whole is not None else total
        if isinstance(coefficient, LinearMap):
            mapped = coefficient(tensor)
            total = mapped if total is None else total.add_(mapped)
        else:
            factor = torch.as_tensor(coefficient, dtype=tensor.dtype, device=tensor.device)
            total = tensor * factor if total is None else total.addcmul_(factor, tensor)
    if total is None and whole is not None:
        return whole.clone()
    if total is None:
        raise PlanError("a row whose coefficients are all zero", "at least one nonzero coefficient", "remove the row")
    return total
