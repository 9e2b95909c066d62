"""Autoguidance: led away from what a worse model predicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction, on_path
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.carried import CARRIED, into
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import ShapeError
from retrograde.guide.branches import counts, extrapolate, labelled
from retrograde.guide.transform import Transform
from retrograde.guide.weight import KNOB, Weight, checked, weight_at, without

systems.register(
    systems.System(
        title="Guiding a Diffusion Model with a Bad Version of Itself",
        authors=("Tero Karras", "Miika Aittala", "Tuomas Kynkäänniemi", "Jaakko Lehtinen", "Timo Aila", "Samuli Laine"),
        year=2024,
        arxiv="2406.02507",
        home="guidance",
        call="rg.guide.autoguide(denoiser, worse, weight=2.0)",
        test="tests/guide/test_autoguide.py::test_between_gaussians_it_is_the_gaussian_in_closed_form",
    )
)

GOOD, WORSE = "good", "worse"


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Autoguided(Transform):
    """A denoiser led away from a worse one (see `autoguide`)."""

    worse: AbstractDenoiser
    weight: Weight
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})
    makes: ClassVar[frozenset[str]] = frozenset({GOOD, WORSE})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        weight, passed = weight_at(self.weight, self.path, t, knobs, x_t.ndim), without(knobs)
        good = labelled(self.inner.predict(x_t, t, condition, into(passed, [GOOD]), network_time), GOOD)
        if not isinstance(weight, Tensor) and weight == 1.0:
            return dataclasses.replace(good, parts={**good.parts, GOOD: good})
        own = {name: value for name, value in condition.items() if name in (ANCHOR, *self.worse.conditions)}
        obeyed = {name: value for name, value in into(passed, [WORSE]).items() if name in (CARRIED, *self.worse.consumes)}
        worse = labelled(self.worse.predict(x_t, t, own, obeyed), WORSE)
        parts = {GOOD: good, WORSE: worse}
        guided = extrapolate(good, worse, weight)
        left = {**good.carried, **worse.carried}
        law = {GOOD: weight, WORSE: 1.0 - weight}
        all_parts = {**good.parts, **parts}
        return dataclasses.replace(guided, parts=all_parts, evaluations=counts(parts), carried=left, exponents=law)


def autoguide(denoiser: AbstractDenoiser, worse: AbstractDenoiser, weight: Weight) -> Autoguided:
    """Return the denoiser with autoguidance, m = m_worse + weight (m - m_worse), under the same conditions.

    The worse model is a smaller or shorter trained one of the same data: where the two disagree the good one is likely
    wrong in the same direction. weight = 1 is the good model alone, at its cost. A row's knob "guidance" overrides the
    weight. Both may be on paths of their own, and may be guided themselves; a worse model without conditions makes this
    classifier-free guidance with another network.

    Raises:
        ShapeError: two networks for data of different shapes.
        BadValue: the weight is not finite, or noise of different laws.

    Reference: Karras et al., 2024, arXiv 2406.02507.
    """
    if denoiser.shape != worse.shape:
        raise ShapeError(f"shapes {denoiser.shape} and {worse.shape}", "one shape", "take networks of one model family")
    return Autoguided(denoiser, on_path(worse, denoiser.path), checked(weight))
