"""What measures: an operator A with y = A(x), and what a linear one can do besides.

An operator acts on a batch of items. A linear one has its adjoint, and solves with A^T A + c and A A^T + c: by its singular
value decomposition, where it has a fast one, else by conjugate gradients.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from retrograde.errors import BadValue, ShapeError

_DENSE = 4096
"""Side up to which the singular values of an operator without a fast decomposition are computed from its matrix."""


class Operator(ABC):
    """A measurement y = A(x) of items x.

    Final operators are frozen dataclasses with `_apply`.

    Attributes:
        shape: shape of one item.
        measured: shape of one measurement.
    """

    shape: tuple[int, ...]
    measured: tuple[int, ...]

    @abstractmethod
    def _apply(self, x: Tensor) -> Tensor:
        """Measure x [n, *shape]; differentiable by autograd."""

    def __call__(self, x: Tensor) -> Tensor:
        """Return A(x), [n, *measured], of items [n, *shape].

        Raises:
            ShapeError: items of another shape.
        """
        return self._apply(fitting(x, self.shape, "items"))

    def pull_back(self, x: Tensor, v: Tensor) -> Tensor:
        """Return J(x)^T v, [n, *shape], for x [n, *shape] and v [n, *measured]: by autograd; for a linear A the adjoint."""
        fitting(v, self.measured, "measurements")
        with torch.enable_grad():
            at = fitting(x, self.shape, "items").detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self._apply(at), at, v)
        return gradient


class Spectrum(ABC):
    """A singular value decomposition A = U S V^T, with V complete: its d columns span the items.

    Attributes:
        values: singular values s, [d] float64, zero for the columns of V that A does not see.
    """

    values: Tensor

    @abstractmethod
    def rotate(self, x: Tensor) -> Tensor:
        """Return V^T x, [n, d], of items [n, *shape]."""

    @abstractmethod
    def rotate_back(self, z: Tensor) -> Tensor:
        """Return V z, [n, *shape], of coordinates [n, d]."""

    @abstractmethod
    def read(self, y: Tensor) -> Tensor:
        """Return U^T y, [n, d], of measurements [n, *measured]: at the place of each singular value, 0 where it is 0."""

    @abstractmethod
    def write(self, z: Tensor) -> Tensor:
        """Return U z, [n, *measured], of coordinates [n, d]; those of singular value 0 are left out."""

    @property
    def seen(self) -> Tensor:
        """Which of the singular values are not zero, [d] bool: above 1e-9 of the greatest."""
        return self.values > 1e-9 * self.values.amax().clamp(min=1e-300)

    @property
    def basis(self) -> Tensor:
        """V as a matrix [d, d] float64, orthonormal columns."""
        return self.rotate_back(torch.eye(len(self.values), dtype=torch.float64)).flatten(1).T


class Linear(Operator):
    """A linear operator; final ones add `_adjoint`, and a `spectrum` where there is a fast one.

    Attributes:
        spectrum: singular value decomposition, or None.
        inverse: a pseudo-inverse that is known, where there is no spectrum.
    """

    spectrum: Spectrum | None
    inverse: Callable[[Tensor], Tensor] | None = None

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y of y [n, *measured]."""

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y, [n, *shape]: <A x, y> = <x, A^T y>."""
        return self._adjoint(fitting(y, self.measured, "measurements"))

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """Return the x [n, *shape] of least norm among those for which A x is nearest to y (Moore and Penrose)."""
        fitting(y, self.measured, "measurements")
        if self.spectrum is None and self.inverse is not None:
            return self.inverse(y)
        if self.spectrum is None:
            return conjugate_gradients(lambda x: self._adjoint(self._apply(x)), self._adjoint(y))
        s, seen = self.spectrum.values.to(y), self.spectrum.seen.to(y.device)
        return self.spectrum.rotate_back(torch.where(seen, self.spectrum.read(y) / torch.where(seen, s, 1.0), 0.0))

    def solve(self, b: Tensor, c: float) -> Tensor:
        """Return (A^T A + c)^-1 b, [n, *shape], for c > 0."""
        fitting(b, self.shape, "items")
        if self.spectrum is None:
            return conjugate_gradients(lambda x: self._adjoint(self._apply(x)) + c * x, b)
        return self.spectrum.rotate_back(self.spectrum.rotate(b) / (self.spectrum.values.to(b) ** 2 + c))

    def solve_measured(self, v: Tensor, c: float) -> Tensor:
        """Return (A A^T + c)^-1 v, [n, *measured]; for c = 0 the pseudo-inverse of A A^T."""
        fitting(v, self.measured, "measurements")
        if self.spectrum is None:
            # without c the part of v that A does not reach has to go first, or there is no solution
            v = v if c > 0.0 else self._apply(self.pseudo_inverse(v))
            return conjugate_gradients(lambda y: self._apply(self._adjoint(y)) + c * y, v)
        s, seen = self.spectrum.values.to(v) ** 2, self.spectrum.seen.to(v.device)
        gain = torch.where(seen, 1.0 / torch.where(seen, s + c, 1.0), 0.0)
        if c == 0.0:
            return self.spectrum.write(gain * self.spectrum.read(v))
        return v / c + self.spectrum.write((gain - seen.to(v) / c) * self.spectrum.read(v))

    def matrix(self) -> Tensor:
        """Return A as a matrix [m, d] float64."""
        units = torch.eye(math.prod(self.shape), dtype=torch.float64).reshape(-1, *self.shape)
        return self._apply(units).flatten(1).T.contiguous()


def fitting(tensor: Tensor, shape: Sequence[int], what: str) -> Tensor:
    """Return the batch, or raise a ShapeError where it is not [n, *shape]."""
    if tensor.ndim != len(shape) + 1 or tuple(tensor.shape[1:]) != tuple(shape):
        one_short = tuple(tensor.shape) == tuple(shape)
        raise ShapeError(
            f"{what} of shape {list(tensor.shape)}",
            f"[n, {', '.join(map(str, shape))}]",
            "add the batch axis: x[None]" if one_short else "make the operator for the shape of your items",
        )
    return tensor


def by_autograd(apply: Callable[[Tensor], Tensor], shape: Sequence[int], y: Tensor) -> Tensor:
    """Return A^T y of a linear function, which is its vector-Jacobian product anywhere."""
    with torch.enable_grad():
        at = y.new_zeros(len(y), *shape).requires_grad_(True)
        (gradient,) = torch.autograd.grad(apply(at), at, y, create_graph=y.requires_grad)
    return gradient


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    start: Tensor | None = None,
    tolerance: float | None = None,
    most: int | None = None,
) -> Tensor:
    """Return x with M x = b for a symmetric positive semi-definite M, each item of the batch by itself.

    Stops where every residual is below `tolerance` (by default 1e-6 in float32, 1e-12 in float64) of its right side, or
    after `most` products (by default four times the number of unknowns, at most 1000). From zero it comes to the solution
    of least norm. Hestenes and Stiefel, Methods of Conjugate Gradients for Solving Linear Systems, 1952.
    """

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).flatten(1).sum(1).reshape(-1, *(1,) * (b.ndim - 1))

    least = (1e-12 if b.dtype == torch.float64 else 1e-6) if tolerance is None else tolerance
    most = min(4 * b[0].numel() + 10, 1000) if most is None else most
    x = torch.zeros_like(b) if start is None else start
    residual = b.clone() if start is None else b - apply(start)
    direction, square = residual, dot(residual, residual)
    enough = least**2 * dot(b, b)
    for _ in range(most):
        going = square > enough
        if not bool(going.any()):
            break
        product = apply(direction)
        curvature = dot(direction, product)
        # an item that is done, or whose direction M does not see, stays where it is
        step = torch.where(going & (curvature > 0.0), square / torch.where(curvature > 0.0, curvature, 1.0), 0.0)
        x = x + step * direction
        residual = residual - step * product
        fresh = dot(residual, residual)
        direction = residual + torch.where(going, fresh / torch.where(square > 0.0, square, 1.0), 0.0) * direction
        square = torch.where(going, fresh, square)
    return x


def spectrum_of(operator: Linear) -> Spectrum:
    """Return the singular value decomposition of a linear operator: its own, or that of its matrix.

    Raises:
        BadValue: it has none of its own, and is too large for its matrix.
    """
    if operator.spectrum is not None:
        return operator.spectrum
    d, m = math.prod(operator.shape), math.prod(operator.measured)
    if max(d, m) > _DENSE:
        raise BadValue(
            f"a decomposition of an operator from {d} to {m} numbers",
            f"one that has a fast one, or at most {_DENSE} numbers",
            "a method that works by conjugate gradients, such as 'ddnm' or 'pigdm'",
        )
    from retrograde.operators.spectra import Dense

    return Dense.of(operator.matrix(), operator.shape, operator.measured)
