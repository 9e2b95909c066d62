"""The exact denoiser of a finite data set under the noise of PFGM++."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.denoisers.prediction import Prediction
from retrograde.errors import ShapeError
from retrograde.paths import Path


@dataclasses.dataclass(frozen=True, eq=False)
class PoissonData(AbstractDenoiser):
    """E[x_0 | x_t] of points [n, *shape] with noise of `path.degrees` = D degrees of freedom.

    The posterior of point k has log-weight -(N + D)/2 log(1 + |x_t - a x_0k|^2/(D s^2)), -|x_t - a x_0k|^2/(2 s^2) for
    infinite D; N is the number of elements of an item. Computed in float64.

    Raises:
        ShapeError: points without a batch axis.

    Reference: Xu et al., PFGM++, 2023, arXiv 2302.04265.
    """

    path: Path
    points: Tensor
    predicts: str = "data"
    name: str = "poisson_data"
    consumes: frozenset[str] = frozenset()
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shape: tuple[int, ...] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        points = torch.as_tensor(self.points).double()
        if points.ndim < 2:
            raise ShapeError(f"points of shape {list(points.shape)}", "[n, *shape]", "add the axis of items: points[None]")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "shape", tuple(points.shape[1:]))

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        points = self.points.to(x_t.device).flatten(1)
        at = torch.as_tensor(t, dtype=torch.float64, device=x_t.device).reshape(-1, 1)
        a, s = self.path.a(at), self.path.s(at)
        x = x_t.double().flatten(1)
        square = (x[:, None] - a[..., None] * points).square().sum(-1) / s**2
        degrees = self.path.degrees
        n = points.shape[1]
        log = -0.5 * (n + degrees) * torch.log1p(square / degrees) if math.isfinite(degrees) else -0.5 * square
        mean = (torch.softmax(log, dim=-1) @ points).to(x_t.dtype).reshape(x_t.shape)
        value = Prediction(x_t, t, self.path, mean, "data").read(self.predicts)
        return Prediction(x_t, t, self.path, value, self.predicts, evaluations={self.name: 1})
