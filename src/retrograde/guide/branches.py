"""What rules that combine a conditional and an unconditional branch have in common."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction, checked_denoiser, predict_branches
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.carried import into, out_of
from retrograde.denoisers.denoiser import NOTHING, without_texts
from retrograde.errors import BadType, UnknownName
from retrograde.guide.transform import Transform
from retrograde.guide.weight import KNOB, Weight, weight_at, without


@dataclasses.dataclass(frozen=True, eq=False)
class TwoBranches(Transform):
    """A denoiser that asks for its conditional and its unconditional branch; a final class adds how to combine them.

    Attributes:
        weight: 1 is the conditional branch alone.
        negative: conditions of the second branch instead of the null ones.
    """

    weight: Weight
    negative: Mapping[str, Any]
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})
    makes: ClassVar[frozenset[str]] = frozenset({"conditional", "unconditional"})

    @abstractmethod
    def combine(
        self, conditional: Prediction, unconditional: Prediction, weight: Any, knobs: Mapping[str, Any]
    ) -> Prediction:
        """Return the guided prediction, with value, kind, heads and exponents of its own; the rest is filled in."""

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        weight, passed = weight_at(self.weight, self.path, t, knobs, x_t.ndim), without(knobs)
        if not isinstance(weight, Tensor) and weight == 1.0:
            only = self.inner.predict(x_t, t, condition, into(passed, ["conditional"]), network_time)
            law = {"conditional": 1.0} if only.exponents else {}
            return dataclasses.replace(labelled(only, "conditional"), parts={"conditional": only}, exponents=law)
        null = {name: self._null(name, value) for name, value in condition.items()}
        branches = {"conditional": condition, "unconditional": null}
        parts = predict_branches(self.inner, x_t, t, branches, passed, network_time)
        one, other = (dataclasses.replace(part, exponents={}) if part.exponents else part for part in parts.values())
        guided = self.combine(one, other, weight, knobs)
        left = {name: tensor for part in (*parts.values(), guided) for name, tensor in part.carried.items()}
        return dataclasses.replace(guided, parts=parts, evaluations=counts(parts), carried=left)

    def _null(self, name: str, like: Tensor) -> Tensor:
        if name == ANCHOR or (name in self.inner.shared and name not in self.negative):
            return like
        value = self.negative.get(name, self.inner.conditions.get(name))
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand_as(like)


def labelled(prediction: Prediction, label: str) -> Prediction:
    """Return the prediction of one branch, with its label on what it cost and on what it left to the run."""
    counted = {f"{name}:{label}": count for name, count in prediction.evaluations.items()}
    return dataclasses.replace(prediction, evaluations=counted, carried=out_of(prediction.carried, [label])[0])


def counts(parts: Mapping[str, Prediction]) -> dict[str, float]:
    """Return the evaluations of all parts; their labels tell them apart."""
    return {label: count for part in parts.values() for label, count in part.evaluations.items()}


def extrapolate(to: Prediction, away: Prediction, weight: Any) -> Prediction:
    """Return m_away + weight (m_to - m_away) in the parameterization of `to`; weight 1 is `to` bit by bit."""
    if to.heads.keys() != away.heads.keys():
        raise BadType("a network that answers with two quantities against one that does not", "two alike", "wrap both alike")
    if isinstance(weight, Tensor):
        weight = weight.to(to.value)
    heads = {kind: torch.lerp(away.heads[kind], head, weight) for kind, head in to.heads.items()}
    return dataclasses.replace(to, value=torch.lerp(away.read(to.kind), to.value, weight), heads=heads)


def alone(prediction: Prediction, what: str) -> Prediction:
    """Return the prediction, of a network that answers with one quantity.

    Raises:
        BadType: it has further heads, of which the method does not say what becomes.
    """
    if prediction.heads:
        raise BadType(
            f"{what} of a network that answers with {prediction.kind} and {', '.join(prediction.heads)}",
            "a network that answers with one quantity",
            "guide it with rg.guide.cfg, which is linear and serves every head",
        )
    return prediction


def conditions_of(denoiser: AbstractDenoiser, given: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Return conditions by name, texts read.

    Raises BadType where the denoiser takes no condition, UnknownName for one that it does not have.
    """
    if not checked_denoiser(denoiser).conditions:
        raise BadType(
            f"guidance of {denoiser.name!r}, which takes no condition",
            "a denoiser with conditions",
            "make it with Denoiser(..., conditions={'label': null_value})",
        )
    held = dict(without_texts(denoiser, given or {}))
    for name in held:
        if name not in denoiser.conditions:
            raise UnknownName("condition", str(name), denoiser.conditions)
    return held
