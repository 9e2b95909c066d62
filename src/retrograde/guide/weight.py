"""How strongly to guide: a number, or a function of the noise level."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde.errors import BadValue
from retrograde.paths import Path

KNOB = "guidance"
"""Knob of a row that overrides the weight of the outermost transform that has one."""

Weight = float | Callable[[float], float]
"""A number, or a function from the noise level sigma = s/a to one."""


def checked(weight: Weight, name: str = "weight", none: str = "1 is no guidance") -> Weight:
    """Return the weight, a number as a float.

    Raises:
        BadValue: what is no number, or not a finite one.
    """
    if callable(weight):
        return weight
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(weight, str) or not math.isfinite(number):
        raise BadValue(f"{name}={weight}", f"a finite number; {none}", f"{name}=3.0")
    return number


def weight_at(weight: Weight, path: Path, t: float | Tensor, knobs: Mapping[str, Any], ndim: int) -> Any:
    """Return the weight at path time t: a float, or [batch, 1, ...] where each item has its own level.

    Args:
        ndim: number of axes of a state, the batch included.

    Raises:
        BadValue: the function returned a number that is not finite.
    """
    if KNOB in knobs:
        return float(knobs[KNOB])
    if not callable(weight):
        return weight
    if not isinstance(t, Tensor):
        return checked(float(weight(path.sigma(t))))
    values = [checked(float(weight(path.sigma(one)))) for one in t.double().tolist()]
    return torch.tensor(values, dtype=torch.float64, device=t.device).reshape(-1, *(1,) * (ndim - 1))


def without(knobs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the knobs that a transform with a weight passes on."""
    return {name: value for name, value in knobs.items() if name != KNOB}
