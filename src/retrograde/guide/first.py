"""A second network for the first row alone, where the state is pure noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.carried import CARRIED
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue, ShapeError
from retrograde.guide.transform import Transform

KNOB = "first"
"""Knob of the rows that ask the second network."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class FirstNetwork(Transform):
    """A denoiser with another one for rows whose state is pure noise (see `first_network`)."""

    first: AbstractDenoiser
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        asked = self.first if knobs.get(KNOB) else self.inner
        own = {name: value for name, value in condition.items() if name in (ANCHOR, *asked.conditions)}
        passed = {name: value for name, value in knobs.items() if name in (CARRIED, *asked.consumes)}
        if asked is self.inner:
            return asked.predict(x_t, t, own, passed, network_time)
        end = asked.path.t_max
        s_t: Any = self.path.s(t)
        if isinstance(s_t, Tensor):
            s_t = s_t.reshape(-1, *(1,) * len(self.shape))
        answer = asked.predict((x_t * (asked.path.s(end) / s_t)).to(x_t.dtype), end, own, passed)
        return Prediction(x_t, t, self.path, answer.data, "data", answer.parts, answer.evaluations)


def first_network(denoiser: AbstractDenoiser, first: AbstractDenoiser) -> FirstNetwork:
    """Return the denoiser that asks `first` in the rows with the knob "first", which hold nothing but noise s eps.

    There `first` is asked at the noise end of its own path, where it holds no signal, with eps: what it answers, the mean
    of the data, depends on the conditions alone. It may be guided by itself, with another weight: cfg(first, weight).

    Raises:
        BadValue: the path of `first` holds signal at its noise end.
        BadValue: one condition has two null values: what tells one network nothing is a value for the other.
        ShapeError: two networks for data of different shapes.
    """
    if first.path.a(first.path.t_max) > 1e-3:
        raise BadValue(
            f"a first network on path {first.path.name!r}, which holds signal at its end",
            "a path that ends in pure noise",
            "make it on retrograde.paths.Flow() or Trigonometric()",
        )
    if first.shape != denoiser.shape:
        raise ShapeError(f"shapes {first.shape} and {denoiser.shape}", "one shape", "take networks of one model family")
    for name in first.conditions.keys() & denoiser.conditions.keys():
        nulls = denoiser.conditions[name], first.conditions[name]
        if not torch.equal(*(torch.as_tensor(null) for null in nulls)):
            raise BadValue(
                f"condition {name!r} with the null values {nulls[0]} and {nulls[1]}", "one null value", "give both the same"
            )
    made = FirstNetwork(denoiser, first)
    # it takes the conditions of either
    object.__setattr__(made, "conditions", {**first.conditions, **denoiser.conditions})
    return made
