"""Several conditions at once, each with its weight."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction, predict_branches, prepare_condition
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide.branches import alone, conditions_of, counts
from retrograde.guide.transform import Transform
from retrograde.guide.weight import Weight, checked, weight_at

systems.register(
    systems.System(
        title="Compositional Visual Generation with Composable Diffusion Models",
        authors=("Nan Liu", "Shuang Li", "Yilun Du", "Antonio Torralba", "Joshua B. Tenenbaum"),
        year=2022,
        arxiv="2206.01714",
        home="guidance",
        call="rg.guide.compose(denoiser, [{'label': 3}, {'label': 8}], weights=[3.0, 1.0])",
        test="tests/guide/test_compose.py::test_the_score_is_that_of_the_weighted_product",
    )
)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Composed(Transform):
    """A denoiser guided by several conditions at once (see `compose`)."""

    terms: tuple[Mapping[str, Any], ...]
    weights: tuple[Weight, ...]
    makes: ClassVar[frozenset[str]] = frozenset({"unconditional"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        everywhere = {name: condition[name] for name in (ANCHOR, *self.inner.shared) if name in condition}
        given = [prepare_condition(self.inner, {**condition, **term}, len(x_t), x_t.device) for term in self.terms]
        null = prepare_condition(self.inner, everywhere, len(x_t), x_t.device)
        branches = {str(place): one for place, one in enumerate(given)} | {"unconditional": null}
        parts = predict_branches(self.inner, x_t, t, branches, knobs, network_time)
        away = alone(parts["unconditional"], "a composition")
        value, law = away.value, {}
        for place, weight in enumerate(self.weights):
            strength = weight_at(weight, self.path, t, NOTHING, x_t.ndim)
            law[str(place)] = strength
            strength = strength.to(value) if isinstance(strength, Tensor) else strength
            towards = parts[str(place)].value
            step = strength * (towards - away.value)
            value = torch.lerp(away.value, towards, strength) if place == 0 else value + step
        left = {name: tensor for part in parts.values() for name, tensor in part.carried.items()}
        law["unconditional"] = 1.0 - sum(law.values())
        counted = counts(parts)
        return dataclasses.replace(away, value=value, parts=parts, evaluations=counted, carried=left, exponents=law)


def compose(denoiser: AbstractDenoiser, conditions: Sequence[Mapping[str, Any]], weights: Sequence[Weight]) -> Composed:
    """Return the denoiser guided by several conditions, m = m_u + sum_i weights_i (m_i - m_u).

    The score is that of p(x_t) prod_i (p(c_i | x_t))^weights_i: all conditions at once, those of negative weight avoided. At
    each level that is the exact score of the product of the noised laws, which is not the noised product: samples are
    near the product, not from it. A name that a condition leaves out has the run's own value, so {} is the run's own
    condition, and alone it is `cfg`, bit by bit. All branches are evaluated in one call of the network, the n-th counted
    as "name:n".

    Raises:
        BadType: the denoiser takes no condition, or answers with two quantities.
        BadValue: another number of weights than of conditions, or one that is not finite.
        UnknownName: a condition the denoiser does not have.

    Reference: Liu, Li, Du, Torralba, Tenenbaum, 2022, arXiv 2206.01714.
    """
    if not conditions or len(conditions) != len(weights):
        given = f"{len(conditions)} conditions and {len(weights)} weights"
        raise BadValue(given, "as many weights as conditions, at least one", "compose(denoiser, [{}], weights=[3.0])")
    return Composed(denoiser, tuple(conditions_of(denoiser, term) for term in conditions), tuple(map(checked, weights)))
