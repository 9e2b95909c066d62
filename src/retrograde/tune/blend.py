"""Plans between plans: tables on the same levels, their coefficients interpolated."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from retrograde.errors import PlanError
from retrograde.linear import LinearMap
from retrograde.plan import Plan, Row


def blend(one: Plan, other: Plan, share: float) -> Plan:
    """Return the plan whose coefficients are (1 - share) those of one plan and share those of the other.

    Raises:
        PlanError: the plans differ in more than coefficients (levels, basis, length), have corrections, or an anchor.
    """
    if one == other:
        return one
    if one.path.anchored or any(row.correction is not None for row in (*one.rows, *other.rows)):
        raise PlanError(f"{one.recipe} with corrections, or with an anchor", "rows of coefficients alone", "fit without")
    same = (one.path, one.basis, one.start, len(one)) == (other.path, other.basis, other.start, len(other))
    if not same or any(_bones(a) != _bones(b) for a, b in zip(one.rows, other.rows, strict=True)):
        raise PlanError(f"{one.recipe} and {other.recipe}", "two plans on the same levels", "fit both on common levels")
    rows = tuple(_row(a, b, share) for a, b in zip(one.rows, other.rows, strict=True))
    return dataclasses.replace(one, rows=rows, report=None)


def _bones(row: Row) -> tuple[Any, ...]:
    """Return what rows must have in common."""
    kinds = [[isinstance(one, LinearMap) for one in part] for part in (row.states, row.outputs, row.noises)]
    return row.time, row.next_time, row.network_time, kinds, dict(row.knobs), row.renoise, row.shift is None


def _row(one: Row, other: Row, share: float) -> Row:
    parts: dict[str, Any] = {}
    for name in ("states", "outputs", "noises"):
        pairs = zip(getattr(one, name), getattr(other, name), strict=True)
        parts[name] = tuple(_coefficient(a, b, share) for a, b in pairs)
    if one.shift is not None:
        parts["shift"] = _coefficient(one.shift, other.shift, share)
    return dataclasses.replace(one, **parts)


def _coefficient(one: Any, other: Any, share: float) -> Any:
    """Return the blend of two floats, of two tensors (or one and a float), or of two maps."""
    return _map(one, other, share) if isinstance(one, LinearMap) else (1.0 - share) * one + share * other


def _map(one: LinearMap, other: LinearMap, share: float) -> LinearMap:
    """Return the blend of two maps: U diag(g - rest) U^T of both, diagonal again in the span of both bases."""
    shares = (1.0 - share, share)
    rest = sum(w * part.rest for w, part in zip(shares, (one, other), strict=True))
    basis, triangle = torch.linalg.qr(torch.cat([one.basis, other.basis], 1).double())
    weights = torch.cat([w * (part.gains - part.rest) for w, part in zip(shares, (one, other), strict=True)]).double()
    values, axes = torch.linalg.eigh(triangle * weights @ triangle.T)
    return LinearMap((basis @ axes).to(one.basis), (rest + values).to(one.gains), rest)
