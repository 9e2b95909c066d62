"""A denoiser that hands out answers which were made elsewhere, for many rows or many items together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor

from retrograde.denoisers import Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.denoisers.transform import Transform

Answer = Callable[[Tensor, float | Tensor, Mapping[str, Any]], Prediction]
"""From what the loop asks, x_t, t and conditions, to the prediction it shall go on with."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Answered(Transform):
    """What a loop asks in place of a denoiser: the same to look at, but `answer` answers."""

    answer: Answer

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        return self.answer(x_t, t, condition)
