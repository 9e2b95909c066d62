"""Guidance to which models that were fine-tuned on single pictures each have a share: model-based guidance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction, on_path, prepare_condition
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.carried import CARRIED, into
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue, ShapeError
from retrograde.guide.branches import alone, conditions_of, counts, labelled
from retrograde.guide.cfg import ClassifierFree
from retrograde.guide.transform import Transform
from retrograde.guide.weight import KNOB, Weight, checked, weight_at, without


@final
@dataclasses.dataclass(frozen=True, eq=False)
class ModelBased(Transform):
    """A guided denoiser whose conditional branch has shares of other models (see `model_based`)."""

    tuned: tuple[AbstractDenoiser, ...]
    shares: tuple[Weight, ...]
    sources: tuple[Mapping[str, Any], ...]
    weight: Weight
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})
    makes: ClassVar[frozenset[str]] = frozenset({"conditional", "unconditional"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        guided = alone(
            ClassifierFree(self.inner, self.weight, {}).predict(x_t, t, condition, knobs, network_time),
            "model-based guidance",
        )
        weight, passed = weight_at(self.weight, self.path, t, knobs, x_t.ndim), without(knobs)
        shares = [weight_at(share, self.path, t, NOTHING, x_t.ndim) for share in self.shares]
        if all(not isinstance(share, Tensor) and share == 0.0 for share in shares):
            return guided
        target = guided.parts["conditional"]
        parts, value, law = dict(guided.parts), guided.value, {"unconditional": 1.0 - weight}
        for place, (model, source, share) in enumerate(zip(self.tuned, self.sources, shares, strict=True)):
            name = f"tuned {place}"
            told = {ANCHOR: condition[ANCHOR]} if ANCHOR in condition else {}
            given = prepare_condition(model, {**told, **source}, len(x_t), x_t.device)
            obeyed = {key: held for key, held in into(passed, [name]).items() if key in (CARRIED, *model.consumes)}
            parts[name] = labelled(alone(model.predict(x_t, t, given, obeyed), "model-based guidance"), name)
            law[name] = weight * share
            strength = torch.as_tensor(law[name]).to(value)
            value = value + strength * (parts[name].read(guided.kind) - target.read(guided.kind))
        law["conditional"] = 1.0 - sum(law.values())
        added = {name: part for name, part in parts.items() if name not in guided.parts}
        left = {**guided.carried, **{key: tensor for part in added.values() for key, tensor in part.carried.items()}}
        spent = {**guided.evaluations, **counts(added)}
        law = {name: power for name, power in law.items() if name in parts}
        return dataclasses.replace(guided, value=value, parts=parts, evaluations=spent, carried=left, exponents=law)


def model_based(
    denoiser: AbstractDenoiser,
    tuned: Sequence[AbstractDenoiser],
    weight: Weight,
    shares: Sequence[Weight],
    sources: Sequence[Mapping[str, Any]] | None = None,
) -> ModelBased:
    """Return the guided denoiser whose conditional branch is in part that of models tuned to single pictures.

        m = m_u + weight ((1 - sum_j beta_j) m_c + sum_j beta_j m_j - m_u)

    m_u and m_c are the denoiser's own branches, m_j what the j-th tuned model says under its source condition: the score is
    that of p_u^(1 - weight) (p_c^(1 - sum beta) prod p_j^beta_j)^weight. The run's condition says what the picture is to
    become. Where all shares are 0 it is `cfg`, bit by bit and at its cost; where one is 1, `cfg` of that model against the
    denoiser without condition. A row's knob "guidance" overrides the weight. Published: weight 10, a share of 0.4 at the
    noisier half of the levels, none below, 100 steps of DDIM: `lambda sigma: 0.4 * (sigma > 1.0)`.

    Args:
        tuned: models of data of one shape, on any path; each is asked where its share is not the only one at 0.
        shares: beta, a number or a function of the noise level sigma = s/a for each.
        sources: condition of each tuned model, by name; {} is none, and what is left out is at its null value.

    Raises:
        BadType: the denoiser takes no condition, or a model answers with two quantities.
        BadValue: another number of shares or sources than of models, or one that is not finite.
        ShapeError: models of different shapes.
        UnknownName: a source names a condition that its model does not have.

    Reference: Zhang, Han, Ghosh, Metaxas, Ren, SINE: SINgle Image Editing with Text-to-Image Diffusion Models, 2022, arXiv
    2212.04489.
    """
    conditions_of(denoiser, None)
    given = [{} for _ in tuned] if sources is None else list(sources)
    if not tuned or len(shares) != len(tuned) or len(given) != len(tuned):
        what = f"{len(tuned)} tuned models, {len(shares)} shares and {len(given)} sources"
        raise BadValue(what, "as many of each, at least one", "model_based(denoiser, [tuned], 7.0, [0.4])")
    for model in tuned:
        if model.shape != denoiser.shape:
            raise ShapeError(f"shapes {denoiser.shape} and {model.shape}", "one shape", "tune a copy of the model")
    held = tuple(conditions_of(model, one) if one else {} for model, one in zip(tuned, given, strict=True))
    models = tuple(on_path(model, denoiser.path) for model in tuned)
    betas = tuple(checked(share, "share", "0 is none") for share in shares)
    return ModelBased(denoiser, models, betas, held, checked(weight))
