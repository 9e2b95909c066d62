"""Two networks side by side: one is believed of the data, the other of the noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.denoisers.prediction import Prediction
from retrograde.errors import BadValue
from retrograde.paths import Path


@final
@dataclasses.dataclass(frozen=True, eq=False)
class TwoNetworks(AbstractDenoiser):
    """The data mean of one denoiser and the noise mean of another; only rows that read both ask for both.

    It answers with the first one's data (or residual) and the second one's noise, which need not agree with each other; for
    plans with the basis "data+noise", such as those of "rddm_two". Each network is told its own time. A row costs an
    evaluation of each.

    Args:
        first, second: denoisers on one path, of one shape and with the same conditions.

    Raises:
        BadValue: path, shape or conditions differ.

    Reference: Liu et al., Residual Denoising Diffusion Models, 2023, arXiv 2308.13712 (two U-Nets).
    """

    first: AbstractDenoiser
    second: AbstractDenoiser
    name: str = "two"
    path: Path = dataclasses.field(init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    predicts: str = dataclasses.field(init=False, default="data")
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    consumes: frozenset[str] = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        first, second = self.first, self.second
        for what in ("path", "shape", "conditions"):
            one, other = getattr(first, what), getattr(second, what)
            if one != other:
                raise BadValue(f"two networks with the {what} {one} and {other}", f"the same {what}", "train both alike")
            object.__setattr__(self, what, one)
        object.__setattr__(self, "consumes", first.consumes & second.consumes)

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return self.first.snap(t)

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        one, other = (each.predict(x_t, t, condition, knobs) for each in (self.first, self.second))
        spent = {f"first:{label}": count for label, count in one.evaluations.items()}
        spent |= {f"second:{label}": count for label, count in other.evaluations.items()}
        heads = {"noise": other.noise}
        return Prediction(x_t, t, self.path, one.data, "data", evaluations=spent, anchor=one.anchor, heads=heads)
