"""A denoiser of one path, used on another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from retrograde.denoisers.anchor import ANCHOR, given_anchor
from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser, checked_denoiser
from retrograde.denoisers.prediction import Prediction
from retrograde.errors import BadValue
from retrograde.paths import Path, checked


@dataclasses.dataclass(frozen=True, eq=False)
class OnPath(AbstractDenoiser):
    """A denoiser trained on one path, asked on another at equal signal-to-noise ratio.

    With s'(t')/a'(t') = s(t)/a(t), the state x_t a'(t')/a(t) is what the inner denoiser knows, and the mean of the data is
    the same in both. Of an anchored path this holds for x_t - b y; an anchor serves whichever of the two paths has one.

    Raises:
        BadValue: asked at a noise level outside the range of the inner path.
    """

    inner: AbstractDenoiser
    path: Path
    shape: tuple[int, ...] = dataclasses.field(init=False)
    predicts: str = dataclasses.field(init=False, default="data")
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    consumes: frozenset[str] = dataclasses.field(init=False)
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for field in ("shape", "conditions", "consumes", "name", "reads", "codec", "shared"):
            object.__setattr__(self, field, getattr(self.inner, field))

    def _inner_time(self, t: float) -> float:
        low, high = (self.inner.path.sigma(e) for e in (self.inner.path.t_min, self.inner.path.t_max))
        sigma = self.path.sigma(t)
        if not low * (1 - 1e-3) <= sigma <= high * (1 + 1e-3):
            raise BadValue(
                f"noise level sigma={sigma:.4g} (t={t:.4g} on {self.path.name})",
                f"{low:.4g} <= sigma <= {high:.4g}, the range of the denoiser's own path {self.inner.path.name}",
                f"grid=retrograde.grids.karras(path, n, sigma_min={low:.4g}, sigma_max={high:.4g})",
            )
        return self.inner.path.time_of_sigma(sigma)

    def network_time(self, t: float) -> float:
        return self.inner.network_time(self._inner_time(t))

    def snap(self, t: float) -> float:
        return self.path.time_of_sigma(self.inner.path.sigma(self.inner.snap(self._inner_time(t))))

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        anchor = condition.get(ANCHOR)
        if anchor is None and (self.path.anchored or self.inner.path.anchored):
            anchor = given_anchor(self.path if self.path.anchored else self.inner.path, anchor)
        if isinstance(t, Tensor):
            inner_t: Any = t.new_tensor([self._inner_time(one) for one in t.double().tolist()])
            outer: Any
            outer, inner = (one.double().reshape(-1, *(1,) * (x_t.ndim - 1)) for one in (t, inner_t))
        else:
            inner_t = self._inner_time(t)
            outer, inner = t, inner_t
        centred = x_t - self.path.b(outer) * anchor if anchor is not None and self.path.anchored else x_t
        inner_x = centred * (self.inner.path.s(inner) / self.path.s(outer))
        if anchor is not None and self.inner.path.anchored:
            inner_x = inner_x + self.inner.path.b(inner) * anchor
        elif anchor is not None:
            condition = {name: value for name, value in condition.items() if name != ANCHOR}
        prediction = self.inner.predict(inner_x.to(x_t.dtype), inner_t, condition, knobs, network_time)
        kept = anchor if self.path.anchored else None
        if prediction.heads:
            raise BadValue(
                f"a denoiser of {self.inner.path.name!r} that does not know its anchor, on path {self.path.name!r}",
                "the denoiser's own path: the two laws mix differently on another",
                "make the plan for denoiser.path",
            )
        return self._restated(prediction, x_t, t, kept)

    def _restated(self, prediction: Prediction, x_t: Tensor, t: float | Tensor, anchor: Tensor | None) -> Prediction:
        """Return the prediction for the state of this path, and those of the laws that it is made of."""
        parts = dict(prediction.parts)
        for name in prediction.exponents:
            parts[name] = self._restated(parts[name], x_t, t, anchor)
        made = Prediction(x_t, t, self.path, prediction.data, "data", parts, prediction.evaluations, anchor)
        kept = ("log_weight", "exponents", "carried")
        return dataclasses.replace(made, **{name: getattr(prediction, name) for name in kept})


def on_path(denoiser: AbstractDenoiser, path: Path) -> AbstractDenoiser:
    """Return the denoiser as one of another path, at equal signal-to-noise ratio; itself where the paths agree.

    Raises:
        BadValue: the noise of the two paths has different laws, and with it the mean of the data.
    """
    if checked_denoiser(denoiser).path.degrees != checked(path).degrees:
        raise BadValue(
            f"a denoiser of path {denoiser.path.name!r} on path {path.name!r}, whose noise has another law",
            f"a path with {denoiser.path.degrees:g} degrees of freedom of the noise",
            "make the plan for the denoiser's own path",
        )
    return denoiser if denoiser.path == path else OnPath(denoiser, path)
