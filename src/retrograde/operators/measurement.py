"""A measurement: what was seen, through which operator, with what noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from retrograde.errors import BadType, BadValue, ShapeError
from retrograde.operators.joined import stack
from retrograde.operators.noise import GaussianNoise, NoiseModel
from retrograde.operators.operator import Linear, Operator


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Measurement:
    """y = A(x) + noise, of one unknown item x.

    Args:
        operator: A.
        y: [*measured].
        noise: a noise model; a number is the standard deviation of Gaussian noise.

    Raises:
        ShapeError: y is not what the operator measures.
        BadValue: a y that is not finite.
    """

    operator: Operator
    y: Tensor
    noise: NoiseModel

    def __post_init__(self) -> None:
        noise = GaussianNoise(float(self.noise)) if isinstance(self.noise, int | float) else self.noise
        if not isinstance(self.operator, Operator) or not isinstance(noise, NoiseModel):
            raise BadType(
                f"{type(self.operator).__name__} and {type(noise).__name__}",
                "an operator and its noise",
                "Measurement(operators.make('blur', shape, sigma=1.5), y, 0.05)",
            )
        y = torch.as_tensor(self.y)
        measured = tuple(self.operator.measured)
        if tuple(y.shape) == (1, *measured):
            y = y[0]
        if tuple(y.shape) != measured:
            raise ShapeError(
                f"a measurement of shape {list(y.shape)}",
                f"{list(measured)}, what the operator makes of items {list(self.operator.shape)}",
                "give the operator the settings the measurement was made with",
            )
        if not bool(y.isfinite().all()):
            raise BadValue("a measurement with NaN or infinity", "finite numbers", "leave them out by the operator 'mask'")
        object.__setattr__(self, "y", y)
        object.__setattr__(self, "noise", noise)

    @property
    def std(self) -> float:
        """Standard deviation of Gaussian noise; a BadValue for another law, which only some methods can use."""
        if not isinstance(self.noise, GaussianNoise):
            raise BadValue(
                f"{type(self.noise).__name__} for a method of Gaussian noise",
                "GaussianNoise(std)",
                "method='dps', which asks for the distance to y alone; or a Gaussian of its standard deviation",
            )
        return self.noise.std

    @property
    def linear(self) -> Linear:
        """The operator, where it is linear; else a BadValue."""
        if not isinstance(self.operator, Linear):
            raise BadValue(
                f"an operator that is not linear, {type(self.operator).__name__}, for a method that needs a linear one",
                "a linear operator",
                "method='dps', which needs a gradient alone",
            )
        return self.operator

    def batch(self, x: Tensor) -> Tensor:
        """Return y as one entry that broadcasts against a batch, of x's type and device: [1, *measured]."""
        return self.y.to(x)[None]

    def residual(self, x: Tensor) -> Tensor:
        """Return y - A(x), [n, *measured]."""
        return self.batch(x) - self.operator(x)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return log p(y | x) in nats, [n]; differentiable."""
        return self.noise.log_likelihood(self.batch(x), self.operator(x))


def measure(operator: Operator, x: Tensor, noise: NoiseModel | float, seed: int = 0) -> Measurement:
    """Return a measurement of one item x [*shape], with noise drawn."""
    model = GaussianNoise(float(noise)) if isinstance(noise, int | float) else noise
    return Measurement(operator, model.corrupt(operator(x[None])[0].detach(), seed), model)


def stack_measurements(measurements: Sequence[Measurement]) -> Measurement:
    """Return several measurements of one item, with Gaussian noise of different sizes, as one with noise of size one.

    Raises:
        BadValue: nothing to stack, or one without noise.
    """
    if not measurements or any(one.std == 0.0 for one in measurements):
        raise BadValue(f"{len(measurements)} measurements", "one or more, each with noise", "give each its std > 0")
    stds = [one.std for one in measurements]
    y = torch.cat([one.y.reshape(-1) / one.std for one in measurements])
    return Measurement(stack(*(one.operator for one in measurements), scales=stds), y, GaussianNoise(1.0))
