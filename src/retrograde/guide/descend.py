"""Guidance by moving where the network is asked: down the gradient of a loss, the state itself staying where it is."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue, ShapeError
from retrograde.guide.branches import alone
from retrograde.guide.tilt import TiltFunction
from retrograde.guide.transform import Transform


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Descended(Transform):
    """A denoiser that is asked where a loss of its data mean is lower (see `descend`)."""

    function: TiltFunction
    steps: int
    rate: float

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        if self.steps == 0 or self.rate == 0.0:
            return self.inner.predict(x_t, t, condition, knobs, network_time)
        a: Any = self.path.a(t)
        a = a.reshape(-1, *(1,) * (x_t.ndim - 1)) if isinstance(a, Tensor) else a
        unrolled = torch.is_grad_enabled() and x_t.requires_grad
        asked, spent = x_t if unrolled else x_t.detach(), Counter[str]()
        for _ in range(self.steps):
            with torch.enable_grad():
                at = asked if unrolled else asked.requires_grad_(True)
                mean = alone(self.inner.predict(at, t, condition, knobs, network_time), "guidance by descent")
                value = self.function(mean.data, t)
                if value.shape != x_t.shape[:1]:
                    raise ShapeError(
                        f"a loss that returned {list(value.shape)} for {len(x_t)} items",
                        "one number for each item, [batch]",
                        "average over the axes of an item: .flatten(1).mean(1)",
                    )
                (gradient,) = torch.autograd.grad(value.sum(), at, create_graph=unrolled)
            spent.update(mean.evaluations)
            asked = ((at if unrolled else at.detach()) - self.rate * a * a * gradient).to(x_t.dtype)
        moved = alone(self.inner.predict(asked, t, condition, knobs, network_time), "guidance by descent")
        spent.update(moved.evaluations)
        held = Prediction(x_t, t, self.path, moved.data, "data", moved.parts, dict(spent), moved.anchor)
        return dataclasses.replace(held, carried=moved.carried)


def descend(denoiser: AbstractDenoiser, function: TiltFunction, steps: int = 5, rate: float = 1.0) -> Descended:
    """Return the denoiser asked at a state that went down the gradient of a loss L of its data mean.

        z = x_t/a;   `steps` times: z <- z - rate grad_z L(D(a z, t), t);   answer: D(a z, t), as the data mean at x_t

    The recipe goes on from x_t, which did not move, and so the answer is no score of any law: `loss` adds a gradient to the
    score instead. steps = 0 or rate = 0 is the denoiser itself. A row costs `steps` evaluations more, which the ledger
    counts, and as many gradients through the network.

    Args:
        function: L of means [batch, *shape] at a path time, [batch]; differentiable.

    Raises:
        BadValue: steps below 0 or a rate that is not finite.
        ShapeError: `function` returned something other than one number for each item.
        BadType: the network answers with two quantities.

    Reference: Yu et al., PromptFix: You Prompt and We Fix the Photo, 2024, arXiv 2405.16785.
    """
    if steps < 0 or not math.isfinite(rate):
        raise BadValue(f"steps={steps}, rate={rate}", "steps >= 0, a finite rate", "steps=5, rate=1.0")
    if not callable(function):
        raise BadValue(f"a loss {function!r}", "a function of the data mean and the time", "lambda data, t: ...")
    return Descended(denoiser, function, int(steps), float(rate))
