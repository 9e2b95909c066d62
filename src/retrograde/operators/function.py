"""Any function of Python as an operator, and the physics of another library."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde.errors import BadType, BadValue, ShapeError
from retrograde.operators.operator import Linear, Operator, by_autograd


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Function(Operator):
    """y = f(x) for a differentiable function of batches [n, *shape]."""

    f: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    measured: tuple[int, ...]

    def _apply(self, x: Tensor) -> Tensor:
        return self.f(x)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class LinearFunction(Linear):
    """y = f(x) for a linear function of batches; its adjoint is given, or its vector-Jacobian product."""

    f: Callable[[Tensor], Tensor]
    shape: tuple[int, ...]
    measured: tuple[int, ...]
    transposed: Callable[[Tensor], Tensor] | None = None
    inverse: Callable[[Tensor], Tensor] | None = None
    spectrum: None = dataclasses.field(init=False, default=None)

    def _apply(self, x: Tensor) -> Tensor:
        return self.f(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return by_autograd(self.f, self.shape, y) if self.transposed is None else self.transposed(y)


def function(
    f: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    *,
    linear: bool = False,
    adjoint: Callable[[Tensor], Tensor] | None = None,
    inverse: Callable[[Tensor], Tensor] | None = None,
) -> Function | LinearFunction:
    """Return any Python function of batches [n, *shape] as an operator; its derivative comes by autograd.

    Args:
        linear: whether it is; it is tried on two random items. A linear one gets its adjoint, pseudo-inverse and solvers.
        adjoint: A^T, where it is known; otherwise it is the vector-Jacobian product.
        inverse: the pseudo-inverse of a linear one, where it is known; otherwise conjugate gradients.

    Raises:
        BadType: f is not a function, or does not return a tensor.
        ShapeError: f mixes up the batch.
        BadValue: a function said to be linear that is not.
    """
    if not callable(f):
        raise BadType(f"{type(f).__name__}", "a function from a tensor to a tensor", "function(lambda x: x[..., ::2], ...)")
    generator = torch.Generator().manual_seed(0)
    trial = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    trial = _as_wanted(f, trial)
    with torch.no_grad():
        answer = f(trial)
        if not isinstance(answer, Tensor):
            raise BadType(f"a function that returned {type(answer).__name__}", "a tensor [n, ...]", "return a tensor")
        if answer.ndim < 2 or len(answer) != 2:
            raise ShapeError(f"{list(answer.shape)} measured of 2 items", "[2, ...]", "keep the batch axis first")
        measured = tuple(answer.shape[1:])
        if not linear and adjoint is None:
            return Function(f, tuple(shape), measured)
        joined = f(3.0 * trial[:1] + 2.0 * trial[1:])
        wanted = 3.0 * answer[:1] + 2.0 * answer[1:]
        if not torch.allclose(joined, wanted, rtol=1e-4, atol=1e-4 * float(answer.abs().amax())):
            raise BadValue("a function said to be linear", "f(3 x + 2 y) = 3 f(x) + 2 f(y)", "linear=False, and no adjoint")
    return LinearFunction(f, tuple(shape), measured, adjoint, inverse)


def _as_wanted(f: Callable[[Tensor], Tensor], trial: Tensor) -> Tensor:
    """Return the trial in float64, or in float32 where the function holds weights of that type."""
    try:
        with torch.no_grad():
            f(trial)
    except RuntimeError:
        return trial.float()
    return trial


def from_deepinv(physics: Any, shape: Sequence[int]) -> Function | LinearFunction:
    """Return the operator of a deepinv physics, or of anything that has its methods.

    `physics.A(x)` measures; `physics.A_adjoint(y)` marks a linear one, and `physics.A_dagger(y)`, where it has one, is taken
    for its pseudo-inverse, to the tolerance that library solves it to.

    Raises:
        BadType: an object without A.
    """
    if not callable(getattr(physics, "A", None)):
        allowed = "an object with A(x) and, where it is linear, A_adjoint(y)"
        raise BadType(f"a physics of type {type(physics).__name__}", allowed, "pass a deepinv physics, not its class")
    adjoint: Any = getattr(physics, "A_adjoint", None)
    inverse: Any = getattr(physics, "A_dagger", None)
    if adjoint is None:
        return function(physics.A, shape)
    return function(physics.A, shape, linear=True, adjoint=adjoint, inverse=inverse)
