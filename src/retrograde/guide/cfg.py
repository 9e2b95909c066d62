"""Classifier-free guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.errors import BadValue
from retrograde.guide.branches import TwoBranches, conditions_of, extrapolate
from retrograde.guide.weight import Weight, checked

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
class ClassifierFree(TwoBranches):
    """A denoiser guided by the difference of its conditional and unconditional branch (see `cfg`)."""

    def combine(
        self, conditional: Prediction, unconditional: Prediction, weight: Any, knobs: Mapping[str, Any]
    ) -> Prediction:
        law = {"conditional": weight, "unconditional": 1.0 - weight}
        return dataclasses.replace(extrapolate(conditional, unconditional, weight), exponents=law)


def cfg(
    denoiser: AbstractDenoiser,
    weight: Weight | None = None,
    *,
    strength: float | None = None,
    negative: Mapping[str, Any] | str | None = None,
) -> ClassifierFree:
    """Return the denoiser with classifier-free guidance, m = m_u + weight (m_c - m_u).

    weight = 1 is the conditional model (one evaluation), 0 the unconditional one. The original paper writes m = m_c +
    strength (m_c - m_u): strength = weight - 1, 0 is the conditional model. A row's knob "guidance" overrides the weight.
    Linear in every parameterization, so it does not matter in which one the network predicts. Two branches are evaluated
    in one call of the network.

    Args:
        weight: a number, or a function of the noise level sigma = s/a, for instance lambda sigma: 1 + 2 * (sigma > 0.3).
        strength: the weight in the convention of the original paper, instead of `weight`.
        negative: conditions of the second branch instead of the null ones, by name; or a text, the negative prompt.

    Raises:
        BadType: the denoiser takes no condition.
        BadValue: the weight is not finite, or not exactly one of weight and strength is given.
        UnknownName: `negative` names a condition the denoiser does not have.

    Reference: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022, arXiv 2207.12598.
    """
    held = conditions_of(denoiser, negative)
    if strength is not None and weight is None:
        weight = 1.0 + strength
    elif weight is None or strength is not None:
        given = f"weight={weight}, strength={strength}"
        raise BadValue(given, "one of them; strength = weight - 1", "weight=3.0 (or strength=2.0, the same)")
    return ClassifierFree(denoiser, checked(weight), held)
