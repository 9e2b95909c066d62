"""Classifier-free guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction, predict_branches
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.guide.transform import Transform

systems.register(
    systems.System(
        title="Classifier-Free Diffusion Guidance",
        authors=("Jonathan Ho", "Tim Salimans"),
        year=2022,
        arxiv="2207.12598",
        home="guidance",
        call="rg.guide.cfg(denoiser, weight=3.0)",
        test="tests/guide/test_cfg.py::test_guided_score_is_the_tilted_score",
    )
)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class ClassifierFree(Transform):
    """A denoiser guided by the difference of its conditional and unconditional branch (see `cfg`)."""

    weight: float
    negative: Mapping[str, Any]
    obeys: ClassVar[frozenset[str]] = frozenset({"guidance"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        weight = float(knobs.get("guidance", self.weight))
        passed = {k: v for k, v in knobs.items() if k != "guidance"}
        if weight == 1.0:
            only = self.inner.predict(x_t, t, condition, passed, network_time)
            counted = {f"{label}:conditional": count for label, count in only.evaluations.items()}
            return dataclasses.replace(only, evaluations=counted, parts={"conditional": only})
        null = {name: value if name == ANCHOR else self._null(name, value) for name, value in condition.items()}
        branches = {"conditional": condition, "unconditional": null}
        parts = predict_branches(self.inner, x_t, t, branches, passed, network_time)
        conditional, unconditional = parts["conditional"], parts["unconditional"]
        value = torch.lerp(unconditional.value, conditional.value, weight)
        heads = {kind: torch.lerp(unconditional.heads[kind], head, weight) for kind, head in conditional.heads.items()}
        evaluations = {k: v for part in parts.values() for k, v in part.evaluations.items()}
        return dataclasses.replace(conditional, value=value, parts=parts, evaluations=evaluations, heads=heads)

    def _null(self, name: str, like: Tensor) -> Tensor:
        value = self.negative.get(name, self.inner.conditions[name])
        return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand_as(like)


def cfg(denoiser: AbstractDenoiser, weight: float, *, negative: Mapping[str, Any] | None = None) -> ClassifierFree:
    """Return the denoiser with classifier-free guidance, m = m_u + weight (m_c - m_u).

    weight = 1 is the conditional model (one evaluation), 0 the unconditional one. The original paper's strength w is
    weight - 1. A row's knob "guidance" overrides the weight. Linear in every parameterization, so it does not matter in
    which one the network predicts. Two branches are evaluated in one call of the network.

    Args:
        negative: conditions of the second branch instead of the null ones (a negative prompt), by name.

    Raises:
        BadType: the denoiser takes no condition.
        BadValue: the weight is not finite.
        UnknownName: `negative` names a condition the denoiser does not have.

    Reference: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv 2207.12598.
    """
    if not denoiser.conditions:
        raise BadType(
            f"guidance of {denoiser.name!r}, which takes no condition",
            "a denoiser with conditions",
            "make it with Denoiser(..., conditions={'label': null_value})",
        )
    if not torch.isfinite(torch.tensor(float(weight))):
        raise BadValue(f"weight={weight}", "a finite number; 1 is no guidance", "weight=3.0")
    for name in negative or {}:
        if name not in denoiser.conditions:
            raise UnknownName("condition", str(name), denoiser.conditions)
    return ClassifierFree(denoiser, float(weight), dict(negative or {}))
