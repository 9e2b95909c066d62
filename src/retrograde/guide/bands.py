"""Guidance with a weight of its own for what a lower resolution cannot show."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue
from retrograde.guide.branches import alone
from retrograde.guide.transform import Transform


def high_band(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return what of images [n, c, h, w] is lost on the way to another size and back, both bilinear."""
    down = functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
    return x - functional.interpolate(down, size=x.shape[-2:], mode="bilinear", align_corners=False)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Banded(Transform):
    """A guided denoiser that guides the high band further (see `bands`)."""

    extra: float
    size: tuple[int, int]

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        guided = self.inner.predict(x_t, t, condition, knobs, network_time)
        if self.extra == 0.0 or not {"conditional", "unconditional"} <= guided.parts.keys():
            return guided
        to, away = (guided.parts[part].read(guided.kind) for part in ("conditional", "unconditional"))
        further = torch.add(alone(guided, "guidance by bands").value, high_band(to - away, self.size), alpha=self.extra)
        return dataclasses.replace(guided, value=further, exponents={})


def bands(guided: AbstractDenoiser, extra: float, size: Sequence[int]) -> Banded:
    """Return the guided denoiser whose high band is guided by `extra` more than its low band.

        m + extra H(m_c - m_u),   H d = d - up(down(d)),

    down and up bilinear, to a lower resolution and back. With classifier-free guidance of weight w inside, w is the weight
    of the low band and w + extra that of the high one (published for SDXL: 7.5 and 35). extra = 0 is what is inside, bit by
    bit; so is what was not guided (weight 1).

    Args:
        guided: a rule with a conditional and an unconditional part.
        size: height and width of the lower resolution; in a cascade that of the stage before.

    Raises:
        BadType: nothing inside makes both parts, or the network answers with two quantities.
        BadValue: a weight that is not finite, a size that is not positive, or states that are no images.

    Reference: Zhang, Li, Zhang, FreCaS, 2024, arXiv 2410.18410 (frequency-aware guidance).
    """
    if not math.isfinite(extra) or len(size) != 2 or min(size) < 1 or len(guided.shape) != 3:
        given = f"extra={extra}, size={tuple(size)}, for states {list(guided.shape)}"
        raise BadValue(given, "a number, and a height and width for images", "bands(guided, 27.5, (14, 14))")
    inside: Any = guided
    while inside is not None and not {"conditional", "unconditional"} <= getattr(inside, "makes", frozenset()):
        inside = getattr(inside, "inner", None)
    if inside is None:
        raise BadType(
            f"bands of {guided.name!r}, which has no two branches",
            "a denoiser guided by its conditions",
            "rg.guide.bands(rg.guide.cfg(denoiser, 7.5), 27.5, (14, 14))",
        )
    return Banded(guided, float(extra), (int(size[0]), int(size[1])))
