"""A batch whose items are at different levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde.denoisers.denoiser import NOTHING
from retrograde.denoisers.prediction import Prediction
from retrograde.denoisers.transform import Transform
from retrograde.errors import BadValue

KNOB = "times"


@final
@dataclasses.dataclass(frozen=True, eq=False)
class AtOwnTimes(Transform):
    """The denoiser that asks every item at its own level: a row's knob "times" lists them, one for each item.

    The row's own time is then the clock of the table only. Rows without the knob are asked as always.

    Raises:
        BadValue: a row with another number of times than there are items.
    """

    obeys = frozenset({KNOB})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        if KNOB not in knobs:
            return self.inner.predict(x_t, t, condition, knobs, network_time)
        own: Sequence[float] = knobs[KNOB]
        if len(own) != len(x_t):
            raise BadValue(f"{len(own)} times for {len(x_t)} items", "one for each", f"run it with n={len(own)}")
        passed = {name: value for name, value in knobs.items() if name != KNOB}
        return self.inner.predict(x_t, torch.tensor(own, dtype=torch.float64, device=x_t.device), condition, passed)
