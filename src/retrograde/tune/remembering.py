"""Predictions that several runs have in common."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde.denoisers.denoiser import NOTHING
from retrograde.denoisers.prediction import Prediction
from retrograde.denoisers.transform import Transform

MOST = 128
"""Predictions kept: more than the rows between two runs on one grid in a race of recipes."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Remembering(Transform):
    """Answers a question it was asked before without the network, and counts the items of all others in `asked`.

    Solvers on one grid begin alike: all with the same noise at the same level, most of them with the same first step.
    What hangs on knobs, and what is asked at a time for each item, goes to the network.
    """

    kept: OrderedDict[tuple[Any, ...], Prediction] = dataclasses.field(default_factory=OrderedDict)
    calls: list[int] = dataclasses.field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many items the network was asked for."""
        return sum(self.calls)

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        if knobs or isinstance(t, Tensor):
            return self._ask(x_t, t, condition, knobs, network_time)
        key = t, network_time, digest(x_t), *((name, digest(value)) for name, value in sorted(condition.items()))
        if key in self.kept:
            self.kept.move_to_end(key)
            return dataclasses.replace(self.kept[key], x_t=x_t, evaluations={})
        self.kept[key] = made = self._ask(x_t, t, condition, knobs, network_time)
        if len(self.kept) > MOST:
            self.kept.popitem(last=False)
        return made

    def _ask(self, x_t: Tensor, *given: Any) -> Prediction:
        self.calls.append(len(x_t))
        return self.inner.predict(x_t, *given)


def digest(value: Tensor) -> bytes:
    """Return what tells a tensor from others of its shape: all its numbers."""
    content = value.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
