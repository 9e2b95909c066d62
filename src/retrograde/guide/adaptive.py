"""Adaptive guidance: the unconditional branch is left out once the two branches agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import CARRIED, carried
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.guide.branches import TwoBranches
from retrograde.guide.transform import Transform
from retrograde.guide.weight import KNOB

SIMILARITY = "adaptive/similarity"
DONE = "adaptive/done"
READINGS = ("noise", "data")

systems.register(
    systems.System(
        title="Adaptive Guidance: Training-free Acceleration of Conditional Diffusion Models",
        authors=(
            "Angela Castillo",
            "Jonas Kohler",
            "Juan C. Pérez",
            "Juan Pablo Pérez",
            "Albert Pumarola",
            "Bernard Ghanem",
            "Pablo Arbeláez",
            "Ali Thabet",
        ),
        year=2023,
        arxiv="2312.12487",
        home="tune",
        call="rg.guide.adaptive(rg.guide.cfg(denoiser, weight=3.0), threshold=0.99)",
        test="tests/guide/test_adaptive.py::test_it_is_nearer_to_full_guidance_than_what_costs_the_same",
    )
)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Adaptive(Transform):
    """A guided denoiser that asks its conditional branch alone once the two agree (see `adaptive`)."""

    threshold: float
    on: str

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        n, held = len(x_t), carried(knobs)
        done = held[DONE] if DONE in held else x_t.new_zeros(n, dtype=torch.bool)
        before = held[SIMILARITY] if SIMILARITY in held else x_t.new_full((n,), torch.inf, dtype=torch.float64)
        passed = _without_own(knobs)
        if not bool(done.any()):
            return self._judged(self.inner.predict(x_t, t, condition, passed, network_time), done, before)
        plain = {**passed, KNOB: 1.0}
        if bool(done.all()):
            made = self.inner.predict(x_t, t, condition, plain, network_time)
            return dataclasses.replace(made, carried={**made.carried, DONE: done, SIMILARITY: before})
        both, alone = (
            self.inner.predict(x_t[where], _at(t, where), _rows(condition, where), _part(knobs_of, where), network_time)
            for where, knobs_of in ((~done, passed), (done, plain))
        )
        both = self._judged(both, done[~done], before[~done])
        return _joined(x_t, t, done, before, both, alone, held)

    def _judged(self, guided: Prediction, done: Tensor, before: Tensor) -> Prediction:
        """Return a prediction of both branches with the items marked whose similarity rose to the threshold."""
        similarity = before
        if {"conditional", "unconditional"} <= guided.parts.keys():
            one, other = (guided.parts[name].read(self.on).flatten(1).double() for name in ("conditional", "unconditional"))
            similarity = torch.nn.functional.cosine_similarity(one, other)
            done = done | ((similarity >= self.threshold) & (similarity > before))
        return dataclasses.replace(guided, carried={**guided.carried, DONE: done, SIMILARITY: similarity})


def _without_own(knobs: Mapping[str, Any]) -> dict[str, Any]:
    held = {name: value for name, value in carried(knobs).items() if name not in (DONE, SIMILARITY)}
    passed = {name: value for name, value in knobs.items() if name != CARRIED}
    return passed | ({CARRIED: held} if held else {})


def _part(knobs: Mapping[str, Any], where: Tensor) -> dict[str, Any]:
    """Return the knobs with what some items left."""
    held = {name: tensor[where] for name, tensor in carried(knobs).items()}
    return {**knobs, CARRIED: held} if held else dict(knobs)


def _at(t: float | Tensor, where: Tensor) -> float | Tensor:
    return t[where] if isinstance(t, Tensor) else t


def _rows(condition: Mapping[str, Tensor], where: Tensor) -> dict[str, Tensor]:
    return {name: value[where] for name, value in condition.items()}


def _joined(
    x_t: Tensor,
    t: float | Tensor,
    done: Tensor,
    before: Tensor,
    both: Prediction,
    alone: Prediction,
    held: Mapping[str, Tensor],
) -> Prediction:
    """Return one prediction for all items, of those that asked both branches and those that asked one.

    What only those that asked both leave (a momentum) is `held` for the others, who do not use it any more.
    """
    n, share = len(x_t), float(done.double().mean())

    def put(of_both: Tensor, of_alone: Tensor) -> Tensor:
        whole = of_both.new_empty(n, *of_both.shape[1:])
        whole[~done], whole[done] = of_both, of_alone.to(of_both.dtype)
        return whole

    evaluations = {
        label: both.evaluations.get(label, 0) * (1.0 - share) + alone.evaluations.get(label, 0) * share
        for label in {**both.evaluations, **alone.evaluations}
    }
    still = {name: tensor[done] for name, tensor in held.items()}
    still |= {**alone.carried, DONE: done[done], SIMILARITY: before[done]}
    kept = {name: put(left, still[name]) for name, left in both.carried.items() if name in still}
    heads = {kind: put(head, alone.heads[kind]) for kind, head in both.heads.items()}
    return dataclasses.replace(
        both,
        x_t=x_t,
        t=t,
        value=put(both.value, alone.read(both.kind)),
        heads=heads,
        parts={},
        evaluations=evaluations,
        anchor=None if both.anchor is None or alone.anchor is None else put(both.anchor, alone.anchor),
        carried=kept,
        exponents={},  # items follow different laws
    )


def adaptive(guided: AbstractDenoiser, threshold: float = 0.99, *, on: str = "noise") -> Adaptive:
    """Return the guided denoiser that asks an item's conditional branch alone once its two branches agree.

    They agree once gamma = cos(eps_c, eps_u), over all elements of the item, has risen to the threshold; from the next
    evaluation on the item costs one evaluation and not two. Rising is part of the rule: where the state is nearly pure noise
    both noise predictions are that noise, gamma is near one too, and guidance has yet to act. The memory is the run's, item
    by item, so a sample does not depend on its batch. Each evaluation waits for the device once, to know who is done; a
    pattern found beforehand (`policy`) does not.

    Args:
        guided: the outermost transform has a conditional and an unconditional branch: `cfg`, `apg`. With a negative prompt
            the second branch is that.
        threshold: above 1 nobody is ever done: the guided denoiser, bit by bit. The authors skip a quarter of the
            evaluations of a 20-step Stable Diffusion near 0.991.
        on: reading in which the branches are compared: "noise" as published, or "data".

    Raises:
        BadType: the denoiser has no two branches.
        BadValue: the threshold is not positive.
        UnknownName: another reading.

    Reference: Castillo et al., Adaptive Guidance, 2023, arXiv 2312.12487.
    """
    if not isinstance(guided, TwoBranches):
        raise BadType(
            f"adaptive guidance of {type(guided).__name__}",
            "a transform with a conditional and an unconditional branch",
            "rg.guide.adaptive(rg.guide.cfg(denoiser, 3.0), 0.99)",
        )
    if not threshold > 0.0:
        raise BadValue(f"threshold={threshold}", "a positive cosine", "threshold=0.99")
    if on not in READINGS:
        raise UnknownName("reading", on, READINGS)
    return Adaptive(guided, float(threshold), on)
