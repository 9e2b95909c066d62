"""A batch whose items are at different levels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde.denoisers.denoiser import NOTHING, AbstractDenoiser
from retrograde.denoisers.prediction import Prediction
from retrograde.errors import BadValue
from retrograde.paths import Path

KNOB = "times"


@final
@dataclasses.dataclass(frozen=True, eq=False)
class AtOwnTimes(AbstractDenoiser):
    """The denoiser that asks every item at its own level: a row's knob "times" lists them, one for each item.

    The row's own time is then the clock of the table only. Rows without the knob are asked as always.

    Raises:
        BadValue: a row with another number of times than there are items.
    """

    inner: AbstractDenoiser
    path: Path = dataclasses.field(init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    predicts: str = dataclasses.field(init=False)
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    consumes: frozenset[str] = dataclasses.field(init=False)
    name: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        for field in ("path", "shape", "predicts", "conditions", "name", "reads", "codec", "shared"):
            object.__setattr__(self, field, getattr(self.inner, field))
        object.__setattr__(self, "consumes", self.inner.consumes | {KNOB})

    def network_time(self, t: float) -> float:
        return self.inner.network_time(t)

    def snap(self, t: float) -> float:
        return self.inner.snap(t)

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
