"""Guidance by a gradient: of a classifier's log-probability of the state, or of a loss on the data mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.denoisers.prediction import conversion
from retrograde.errors import BadValue, ShapeError
from retrograde.guide.branches import alone
from retrograde.guide.transform import Transform
from retrograde.guide.weight import KNOB, Weight, checked, weight_at, without

systems.register(
    systems.System(
        title="Diffusion Models Beat GANs on Image Synthesis",
        authors=("Prafulla Dhariwal", "Alex Nichol"),
        year=2021,
        arxiv="2105.05233",
        home="guidance",
        call="rg.guide.classifier(denoiser, log_prob, weight=1.0)",
        test="tests/guide/test_tilt.py::test_an_exact_classifier_makes_the_conditional_model",
    )
)

TiltFunction = Callable[[Tensor, float | Tensor], Tensor]
"""From [batch, *shape] and the path time to one number for each item, [batch]."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Tilted(Transform):
    """A denoiser whose score has the gradient of a function added (see `classifier` and `loss`)."""

    gain: TiltFunction
    weight: Weight
    on_mean: bool
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})
    makes: ClassVar[frozenset[str]] = frozenset({"free"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        weight, passed = weight_at(self.weight, self.path, t, knobs, x_t.ndim), without(knobs)
        at_end = not isinstance(t, Tensor) and self.path.s(t) == 0.0
        if at_end or (not isinstance(weight, Tensor) and weight == 0.0):
            return self.inner.predict(x_t, t, condition, passed, network_time)
        unrolled = torch.is_grad_enabled() and x_t.requires_grad
        with torch.enable_grad():
            at = x_t if unrolled else x_t.detach().requires_grad_(True)
            if self.on_mean:
                free = alone(self.inner.predict(at, t, condition, passed, network_time), "guidance by a loss")
                gain = self._checked(self.gain(free.data, t), x_t)
            else:
                gain = self._checked(self.gain(at, t), x_t)
            (gradient,) = torch.autograd.grad(gain.sum(), at, create_graph=unrolled)
        if not self.on_mean:
            free = alone(self.inner.predict(x_t, t, condition, passed, network_time), "guidance by a classifier")
        elif not unrolled:
            free = _detached(free, x_t)
        place: Any = t.double().reshape(-1, *(1,) * (x_t.ndim - 1)) if isinstance(t, Tensor) else t
        factor: Any = conversion(self.path, place, "score", free.kind)[1]
        value = (free.value + weight * factor * gradient).to(free.value.dtype)
        law: dict[str, Any] = {"free": 1.0} if self.on_mean or free.exponents else {}
        return dataclasses.replace(free, value=value, parts={**free.parts, "free": free}, exponents=law)

    @staticmethod
    def _checked(gain: Tensor, x_t: Tensor) -> Tensor:
        if gain.shape != x_t.shape[:1]:
            raise ShapeError(
                f"a function that returned {list(gain.shape)} for {len(x_t)} items",
                "one number for each item, [batch]",
                "sum over the axes of an item: .flatten(1).sum(1)",
            )
        return gain


def _detached(prediction: Prediction, x_t: Tensor) -> Prediction:
    """Return the prediction without its graph."""
    parts = {name: _detached(part, x_t) for name, part in prediction.parts.items()}
    held = {name: tensor.detach() for name, tensor in prediction.carried.items()}
    return dataclasses.replace(prediction, x_t=x_t, value=prediction.value.detach(), parts=parts, carried=held)


def classifier(denoiser: AbstractDenoiser, log_prob: TiltFunction, weight: Weight = 1.0) -> Tilted:
    """Return the denoiser guided by a classifier of noisy states, score + weight grad log p(y | x_t).

    weight = 0 is the denoiser itself, 1 the conditional model, where the classifier is exact. The classifier costs one
    evaluation and its gradient, which the ledger does not count. A row's knob "guidance" overrides the weight.

    Args:
        log_prob: log p(y | x_t) of states [batch, *shape] at a path time, [batch]; differentiable.
        weight: a number, or a function of the noise level.

    Raises:
        ShapeError: `log_prob` returned something other than one number for each item.
        BadType: the network answers with two quantities.
        BadValue: the weight is not finite, or asked where the path holds no signal of a network that predicts data.

    Reference: Dhariwal and Nichol, 2021, arXiv 2105.05233.
    """
    return Tilted(denoiser, log_prob, checked(weight, none="0 is no guidance"), False)


def loss(denoiser: AbstractDenoiser, function: TiltFunction, weight: Weight = 1.0) -> Tilted:
    """Return the denoiser guided by a loss on the mean of the data, score - weight grad_x L(D(x_t), t).

    The gradient goes through the denoiser. exp(-L) stands for p(y | x_t): exact where L knows the spread of x_0 given x_t
    (for Gaussian data and a measurement y = A x_0 + noise: half the square of y - A D in the metric A C_t A^T + noise
    variance, C_t the covariance of x_0 given x_t), and biased towards y where it leaves it out, as most do. weight = 0 is
    the denoiser itself.

    Args:
        function: L of means [batch, *shape] at a path time, [batch]; differentiable.
        weight: a number, or a function of the noise level.

    Raises:
        ShapeError: `function` returned something other than one number for each item.
        BadType: the network answers with two quantities.
        BadValue: as for `classifier`.
    """
    if not callable(function):
        raise BadValue(f"a loss {function!r}", "a function of the data mean and the time", "lambda data, t: ...")
    return Tilted(denoiser, lambda data, t: -function(data, t), checked(weight, none="0 is no guidance"), True)
