"""Guidance in an interval of noise levels alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.carried import CARRIED, into, out_of
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue
from retrograde.guide.transform import Transform

systems.register(
    systems.System(
        title="Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in Diffusion Models",
        authors=("Tuomas Kynkäänniemi", "Miika Aittala", "Tero Karras", "Samuli Laine", "Timo Aila", "Jaakko Lehtinen"),
        year=2024,
        arxiv="2404.07724",
        home="guidance",
        call="rg.guide.interval(rg.guide.cfg(denoiser, weight=3.0), 0.2, 5.0)",
        test="tests/guide/test_interval.py::test_it_guides_inside_and_costs_one_evaluation_outside",
    )
)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Within(Transform):
    """A transform that acts in an interval of noise levels alone (see `interval`)."""

    low: float
    high: float

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        if not isinstance(t, Tensor):
            asked = self.inner.predict if self.low < self.path.sigma(t) <= self.high else self._plain
            return asked(x_t, t, condition, knobs, network_time)
        sigmas: Any = self.path.sigma(t.double())
        inside = ((self.low < sigmas) & (sigmas <= self.high)).reshape(-1, *(1,) * (x_t.ndim - 1))
        guided, plain = (asked(x_t, t, condition, knobs) for asked in (self.inner.predict, self._plain))
        heads = {kind: torch.where(inside, head, plain.read(kind)) for kind, head in guided.heads.items()}
        value = torch.where(inside, guided.value, plain.read(guided.kind))
        evaluations = {f"{label}:outside": count for label, count in plain.evaluations.items()}
        return dataclasses.replace(guided, value=value, heads=heads, evaluations={**guided.evaluations, **evaluations})

    def _plain(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any],
        knobs: Mapping[str, Any],
        network_time: float | None = None,
    ) -> Prediction:
        """Ask what the transform wraps, with the conditions and knobs that it has."""
        plain: AbstractDenoiser = self.inner.inner  # type: ignore[attr-defined]
        own = {name: value for name, value in condition.items() if name in (ANCHOR, *plain.conditions)}
        kept = {name: value for name, value in into(knobs, ["outside"]).items() if name in (CARRIED, *plain.consumes)}
        made = plain.predict(x_t, t, own, kept, network_time)
        return dataclasses.replace(made, carried=out_of(made.carried, ["outside"])[0]) if made.carried else made


def interval(guided: AbstractDenoiser, low: float = 0.0, high: float = math.inf) -> Within:
    """Return the denoiser whose outermost transform acts at noise levels low < sigma <= high alone, sigma = s/a.

    At other levels what it wraps is asked: the conditional model for `cfg(denoiser)`, at half its cost. Noise levels, not
    parts of the schedule or of the steps: the interval means the same for every plan and path. The authors guide
    EDM2-S on ImageNet-512 in (0.28, 2.90]: guidance at high levels collapses the distribution, at low ones it does
    nothing. Items at levels of their own are asked both ways.

    Raises:
        BadType: the denoiser is no transform of another one.
        BadValue: not 0 <= low < high.

    Reference: Kynkäänniemi et al., 2024, arXiv 2404.07724.
    """
    if not isinstance(guided, Transform):
        raise BadType(
            f"an interval for {guided.name!r}, which is not guided",
            "a transform, such as rg.guide.cfg(denoiser, 3.0)",
            f"rg.guide.interval(rg.guide.cfg(denoiser, 3.0), {low:g}, {high:g})",
        )
    if not 0.0 <= low < high:
        raise BadValue(f"the interval ({low}, {high}]", "noise levels 0 <= low < high", "interval(guided, 0.2, 5.0)")
    return Within(guided, float(low), float(high))
