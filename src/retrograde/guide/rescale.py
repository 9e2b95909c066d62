"""Rescaled guidance: the guided prediction keeps the spread of the conditional one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue
from retrograde.guide.branches import alone
from retrograde.guide.transform import Transform

systems.register(
    systems.System(
        title="Common Diffusion Noise Schedules and Sample Steps are Flawed",
        authors=("Shanchuan Lin", "Bingchen Liu", "Jiashi Li", "Xiao Yang"),
        year=2023,
        arxiv="2305.08891",
        home="guidance",
        call="rg.guide.rescale(rg.guide.cfg(denoiser, weight=7.5), 0.7)",
        test="tests/guide/test_rescale.py::test_the_spread_is_that_of_the_conditional_prediction",
    )
)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Rescaled(Transform):
    """A guided denoiser whose prediction has the spread of the conditional one (see `rescale`)."""

    share: float
    kind: str | None

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        guided = self.inner.predict(x_t, t, condition, knobs, network_time)
        if self.share == 0.0 or "conditional" not in guided.parts:
            return guided
        target = alone(guided.parts["conditional"], "rescaling")
        kind = self.kind or target.kind
        value = guided.read(kind)
        wanted, had = (one.flatten(1).std(1, correction=0) for one in (target.read(kind), value))
        ratio = torch.where(had > 0, wanted / torch.where(had > 0, had, 1.0), 1.0).reshape(-1, *(1,) * (value.ndim - 1))
        return guided.derive(torch.lerp(value, value * ratio, self.share), kind)


def rescale(guided: AbstractDenoiser, share: float = 0.7, kind: str | None = None) -> Rescaled:
    """Return the guided denoiser whose predictions have, in part, the spread of the conditional branch.

    m <- (1 - share) m + share m std(m_c)/std(m), the standard deviations over all elements of an item. Strong guidance
    makes predictions too large, and pictures overexposed. share = 0 is no rescaling. It serves every rule with a
    conditional part, and leaves alone what was not guided.

    Args:
        kind: the parameterization it is done in; None is that of the network, as published. Unlike guidance itself the
            result depends on it: "data" does the same for every network.

    Raises:
        BadType: nothing inside makes a conditional part, or the network answers with two quantities.
        BadValue: a share outside [0, 1].

    Reference: Lin, Liu, Li, Yang, 2023, arXiv 2305.08891, section 3.4.
    """
    if not 0.0 <= share <= 1.0:
        raise BadValue(f"share={share}", "0 <= share <= 1; 0 is no rescaling", "share=0.7")
    inside: Any = guided
    while inside is not None and "conditional" not in getattr(inside, "makes", ()):
        inside = getattr(inside, "inner", None)
    if inside is None:
        raise BadType(
            f"rescaling of {guided.name!r}, which has no conditional branch to compare with",
            "a denoiser guided by its conditions",
            "rg.guide.rescale(rg.guide.cfg(denoiser, 7.5), 0.7)",
        )
    return Rescaled(guided, float(share), kind)
