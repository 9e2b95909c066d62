"""Products of powers of the laws of several models: annealing, products of experts, geometric averages."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction, Transform, on_path
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.carried import CARRIED, into
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue, ShapeError
from retrograde.guide.branches import alone, counts, labelled


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Powers(Transform):
    """A product of powers of the laws of models (see `product`)."""

    others: tuple[AbstractDenoiser, ...]
    exponents: tuple[float, ...]
    makes: ClassVar[frozenset[str]] = frozenset({"0"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        parts = {}
        for place, model in enumerate((self.inner, *self.others)):
            held = into(knobs, [str(place)])
            own = {name: value for name, value in condition.items() if name in (ANCHOR, *model.conditions)}
            obeyed = {name: value for name, value in held.items() if name in (CARRIED, *model.consumes)}
            told = network_time if place == 0 else None
            asked = alone(model.predict(x_t, t, own, obeyed, told), "a product of laws")
            parts[str(place)] = labelled(asked, str(place))
        first = parts["0"]
        kind = first.kind if math.isclose(sum(self.exponents), 1.0) or first.kind == "score" else "noise"
        value = torch.zeros_like(first.value)
        for exponent, part in zip(self.exponents, parts.values(), strict=True):
            value = torch.add(value, part.read(kind), alpha=exponent)
        left = {name: tensor for part in parts.values() for name, tensor in part.carried.items()}
        law = dict(zip(parts, self.exponents, strict=True))
        made = Prediction(x_t, t, self.path, value, kind, parts, counts(parts), first.anchor, exponents=law)
        return dataclasses.replace(made, carried=left)


def product(denoisers: Sequence[AbstractDenoiser], exponents: Sequence[float] | None = None) -> Powers:
    """Return the denoiser led by sum_i w_i grad log q_i, towards the law prod_i q_i^{w_i} of several models.

    Exponents (1, 1) are a product of experts, (0.5, 0.5) a geometric average, (w, 1 - w) the law that classifier-free
    guidance names. By the scores alone the samples are not from that law, at any number of steps: at each level the score
    is that of the product of the noised laws, which is not the noised product. Weighted particles correct it; run with
    `particles=rg.particles.Weighted(count)` the samples are from the product as the count grows. Where the exponents do
    not sum to 1, the run has to start from the product's own noise, `rg.particles.start_of(plan, total)`.

    The first model gives the path; others are asked on it at equal signal-to-noise ratio. Each is given those of the run's
    conditions that it has, and is counted as "name:n".

    Args:
        denoisers: models of data of one shape.
        exponents: finite numbers, one for each; all 1 when left out. They must be the same at every level: a weight that
            changes with the level asks for the densities themselves.

    Raises:
        BadValue: no model, another number of exponents, or one that is not finite.
        ShapeError: models of different shapes.
        BadType: a model that answers with two quantities.
    """
    powers = tuple(float(w) for w in (exponents if exponents is not None else (1.0,) * len(denoisers)))
    if not denoisers or len(powers) != len(denoisers) or not all(map(math.isfinite, powers)):
        given = f"{len(denoisers)} models and the exponents {list(powers)}"
        raise BadValue(given, "as many finite exponents as models, at least one", "product([one, other], [1.0, 1.0])")
    first, *others = denoisers
    for other in others:
        if other.shape != first.shape:
            given = f"a product of {first.name!r} of shape {first.shape} and {other.name!r} of shape {other.shape}"
            raise ShapeError(given, "data of one shape", "bring the models to one shape")
    return Powers(first, tuple(on_path(other, first.path) for other in others), powers)


def anneal(denoiser: AbstractDenoiser, exponent: float) -> Powers:
    """Return the denoiser led towards q^exponent, the law of the data at temperature 1/exponent (see `product`).

    Raises:
        BadValue: an exponent that is not positive.
    """
    if not exponent > 0.0:
        raise BadValue(f"exponent={exponent}", "a number above 0; 1 is the model itself", "anneal(denoiser, 2.0)")
    return product([denoiser], [exponent])
