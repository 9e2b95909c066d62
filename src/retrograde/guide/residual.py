"""Residual guidance: the unconditional branch in closed form, from a picture of the data it stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import carried, into
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue
from retrograde.guide.branches import alone, conditions_of, counts, extrapolate, labelled
from retrograde.guide.transform import Transform

Reference = Tensor | Callable[[Tensor, Any], Tensor] | Literal["once"]

ONCE = "residual"
"""Name under which the run carries the data mean of the one unconditional evaluation."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Residual(Transform):
    """A denoiser guided away from a reference, without a second branch (see `residual`)."""

    weight: float
    delta: float
    reference: Reference
    makes: ClassVar[frozenset[str]] = frozenset({"conditional"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        told = self.inner.predict(x_t, t, condition, into(knobs, ["conditional"]), network_time)
        conditional = labelled(alone(told, "residual guidance"), "conditional")
        parts = {"conditional": conditional}
        if isinstance(self.reference, Tensor):
            known = self.reference.to(x_t).expand_as(x_t)
        elif callable(self.reference):
            known = self.reference(x_t, t)
        elif (known := carried(knobs).get(ONCE)) is None:
            null = {
                name: value.new_tensor(self.inner.conditions[name]).expand_as(value) for name, value in condition.items()
            }
            other = self.inner.predict(x_t, t, null, into(knobs, ["unconditional"]), network_time)
            parts["unconditional"] = labelled(other, "unconditional")
            known = other.data
        left = {name: tensor for part in parts.values() for name, tensor in part.carried.items()}
        if not isinstance(self.reference, Tensor) and self.reference == "once":
            left[ONCE] = known
        away = Prediction(x_t, t, self.path, known, "data", anchor=conditional.anchor)
        if self.delta != 1.0:
            away = dataclasses.replace(away, value=self.delta * away.read("noise"), kind="noise")
        guided = extrapolate(conditional, away, self.weight)
        return dataclasses.replace(guided, parts=parts, evaluations=counts(parts), carried=left, exponents={})


def residual(denoiser: AbstractDenoiser, weight: float, reference: Reference = "once", *, delta: float = 1.0) -> Residual:
    """Return the denoiser guided by the difference to a reference x_0, in place of the unconditional branch.

        eps = delta eps_ref + weight (eps_c - delta eps_ref),   eps_ref = (x_t - a(t) x_0) / s(t):

    classifier-free guidance whose unconditional mean of the data is taken to be x_0. One evaluation for each row instead of
    two, "once" one more in a run. With x_0 the unconditional mean at each (x_t, t) it is classifier-free guidance itself.

    Args:
        weight: 1 is the conditional model, where delta is 1.
        reference: x_0, [*shape] or [n, *shape] (the source of an image-to-image run); "once", the unconditional mean of
            the first row; or a function of (x_t, t).
        delta: scale of the reference's noise.

    Raises:
        BadType: the denoiser takes no condition.
        BadValue: a reference that is none of these.

    Reference: Kodaira et al., StreamDiffusion, 2023, arXiv 2312.12491 (residual classifier-free guidance; the published
    weights and delta of its "self" and "onetime negative" modes).
    """
    conditions_of(denoiser, None)
    if not (isinstance(reference, Tensor) or callable(reference) or reference == "once"):
        raise BadValue(f"reference={reference!r}", "a tensor, a function of (x_t, t), or 'once'", "reference='once'")
    if denoiser.path.anchored:
        raise BadType(
            f"residual guidance on the anchored path {denoiser.path.name!r}", "a path without anchor", "rg.guide.cfg"
        )
    return Residual(denoiser, float(weight), float(delta), reference)
