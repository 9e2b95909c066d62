"""Thresholding: the predicted data is kept in the range of the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide.transform import Transform

systems.register(
    systems.System(
        title="Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
        authors=("Chitwan Saharia", "William Chan", "Saurabh Saxena", "Lala Li", "Jay Whang", "et al."),
        year=2022,
        arxiv="2205.11487",
        home="guidance",
        call="rg.guide.threshold(denoiser, quantile=0.995)",
        test="tests/guide/test_threshold.py::test_dynamic_thresholding_is_that_of_the_schedulers",
    )
)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Thresholded(Transform):
    """A denoiser whose data mean is kept in a range (see `threshold`)."""

    quantile: float | None
    limit: float

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        free = self.inner.predict(x_t, t, condition, knobs, network_time)
        if math.isinf(self.limit):
            return free
        data = free.data
        if self.quantile is None:
            return free.derive(data.clamp(-self.limit, self.limit), "data", {**free.parts, "free": free})
        size = torch.quantile(data.flatten(1).abs().float(), self.quantile, dim=1).to(data.dtype)
        size = size.clamp_(min=self.limit).reshape(-1, *(1,) * (data.ndim - 1))
        return free.derive(data.clamp(-size, size).mul_(self.limit / size), "data", {**free.parts, "free": free})


def threshold(denoiser: AbstractDenoiser, quantile: float | None = 0.995, limit: float = 1.0) -> Thresholded:
    """Return the denoiser whose data mean stays in [-limit, limit], by dynamic or static thresholding.

    Dynamic: for each item s = max(limit, quantile of |x_0|), x_0 <- limit clip(x_0, -s, s)/s. An item of which at most the
    share 1 - quantile lies outside is clipped, one that is off altogether is shrunk: strong guidance saturates no more.
    Static (quantile=None): x_0 <- clip(x_0, -limit, limit). Both read and answer in the data mean, whatever the network
    predicts. For models whose data lies in [-limit, limit], such as pixels; a latent model has no such range. limit =
    infinity is no threshold: the prediction itself.

    Args:
        quantile: part of each item's elements that stays below s, in (0, 1]; None for static thresholding.
        limit: largest absolute value of the data.

    Raises:
        BadValue: a quantile or limit outside its range.

    References: Saharia et al., 2022, arXiv 2205.11487, section 2.3; with fast solvers: Lu et al., DPM-Solver++, 2022, arXiv
    2211.01095.
    """
    if quantile is not None and not 0.0 < quantile <= 1.0:
        raise BadValue(f"quantile={quantile}", "0 < quantile <= 1, or None for static thresholding", "quantile=0.995")
    if not limit > 0.0:
        raise BadValue(f"limit={limit}", "limit > 0: the largest absolute value of the data", "limit=1.0")
    return Thresholded(denoiser, quantile, float(limit))
