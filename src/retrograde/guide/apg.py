"""Adaptive projected guidance: strong guidance without its part along the prediction, which saturates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, final

import torch

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import carried
from retrograde.errors import BadValue
from retrograde.guide.branches import TwoBranches, alone, conditions_of, extrapolate
from retrograde.guide.weight import Weight, checked

MOMENTUM = "apg"
"""Name of the momentum among what a run carries."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Projected(TwoBranches):
    """A denoiser with adaptive projected guidance (see `apg`)."""

    momentum: float
    radius: float
    parallel: float

    def combine(
        self, conditional: Prediction, unconditional: Prediction, weight: Any, knobs: Mapping[str, Any]
    ) -> Prediction:
        if self.momentum == 0.0 and math.isinf(self.radius) and self.parallel == 1.0:
            return extrapolate(conditional, unconditional, weight)
        data = alone(conditional, "projected guidance").data
        towards, update = data.double(), (data - unconditional.data).double()
        left = dict(conditional.carried)
        if self.momentum != 0.0:
            before = carried(knobs).get(MOMENTUM)
            update = update if before is None else update + self.momentum * before.double()
            left[MOMENTUM] = update.to(data.dtype)
        axes = tuple(range(1, data.ndim))
        if not math.isinf(self.radius):
            size = update.square().sum(axes, keepdim=True).sqrt()
            update = update * (self.radius / size.clamp(min=self.radius))
        if self.parallel != 1.0:
            square = towards.square().sum(axes, keepdim=True)
            share = (update * towards).sum(axes, keepdim=True) / torch.where(square > 0, square, 1.0)
            update = update - (1.0 - self.parallel) * share * towards
        guided = dataclasses.replace(conditional, value=(towards + (weight - 1.0) * update).to(data.dtype), kind="data")
        return dataclasses.replace(guided, carried=left)


def apg(
    denoiser: AbstractDenoiser,
    weight: Weight,
    *,
    momentum: float = -0.5,
    radius: float = math.inf,
    parallel: float = 0.0,
    negative: Mapping[str, Any] | str | None = None,
) -> Projected:
    """Return the denoiser with adaptive projected guidance, in the data mean D whatever the network predicts.

        U <- D_c - D_u + momentum U_before,   U' = U min(1, radius/|U|),   P = (<U', D_c>/|D_c|^2) D_c
        D = D_c + (weight - 1) (U' - P + parallel P)

    Norms and products over all elements of an item, in float64. The part of the guidance along D_c makes pictures
    saturated; a negative momentum pushes towards what is new in each step. weight = 1 is the conditional model;
    momentum 0, infinite radius and parallel 1 are `cfg`, bit by bit.

    The momentum lives in the run, for each item: it begins with every run, continues in a continued one, and goes with the
    item where particles are resampled. It counts evaluations, not levels, so a few long steps are not many short
    ones: measure it at your own budget. Every evaluation updates it, of two-stage recipes both; where nothing is guided it
    waits.

    Args:
        weight: a number, or a function of the noise level, as for `cfg`.
        momentum: in (-1, 1); the authors use -0.75 to -0.5.
        radius: largest norm of the update, which grows with the size of the data; published 2.5 for EDM2, 5 for DiT-XL/2,
            7.5 for Stable Diffusion 2.1, 15 for XL.
        parallel: share of the part along D_c that is kept; the authors use 0.
        negative: conditions of the second branch instead of the null ones.

    Raises:
        BadType: the denoiser takes no condition, or answers with two quantities.
        BadValue: a setting outside its range.
        UnknownName: `negative` names a condition the denoiser does not have.

    Reference: Sadat, Hilliges, Weber, 2024, arXiv 2410.02416.
    """
    held = conditions_of(denoiser, negative)
    if not -1.0 < momentum < 1.0 or not radius > 0.0 or not math.isfinite(parallel):
        given = f"momentum={momentum}, radius={radius}, parallel={parallel}"
        raise BadValue(given, "-1 < momentum < 1, radius > 0, a finite parallel", "momentum=-0.5, parallel=0.0")
    return Projected(denoiser, checked(weight), held, float(momentum), float(radius), float(parallel))


systems.register(
    systems.System(
        title="Eliminating Oversaturation and Artifacts of High Guidance Scales in Diffusion Models",
        authors=("Seyedmorteza Sadat", "Otmar Hilliges", "Romann M. Weber"),
        year=2024,
        arxiv="2410.02416",
        home="guidance",
        call="rg.guide.apg(denoiser, weight=7.5, momentum=-0.5)",
        test="tests/guide/test_apg.py::test_on_digits_it_saturates_less_recalls_more_and_tells_the_same_class",
    )
)
