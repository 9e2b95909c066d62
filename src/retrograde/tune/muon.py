"""Descent on matrices by orthogonal steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""p(s) = a s + b s^3 + c s^5 of the reference: five times over it lifts small singular values to near one, fast."""

_MOMENTUM = 0.95


@final
class Muon:
    """Steps of equal size in all directions of a matrix: its momentum, with every singular value brought near one.

    B <- 0.95 B + G,  W <- (1 - r d) W - r sqrt(max(1, rows/columns)) orthogonal(G + 0.95 B),

    for each weight W of two axes or more (a convolution is the matrix [outputs, inputs * kernel]) with gradient G, step size
    r and weight decay d. A small network under a short course learns from directions that its gradient hardly shows, and
    that a step per element drowns in those it shows most.

    Args:
        weights: what is descended on; each needs its gradient in `step`.
        decay: weight decay d.

    Reference: Jordan, Jin, Boza, You, Cesista, Newhouse, Bernstein, 2024, "Muon: An optimizer for hidden layers in neural
    networks"; Bernstein and Newhouse, 2024, "Old Optimizer, New Norm: An Anthology", arXiv 2409.20325.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float = 0.0) -> None:
        self.weights, self.decay = list(weights), decay
        self._momenta = [torch.zeros_like(weight) for weight in self.weights]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Move every weight by one step of size r = `rate`, and forget its gradient."""
        for weight, momentum in zip(self.weights, self._momenta, strict=True):
            if weight.grad is None:
                continue
            momentum.mul_(_MOMENTUM).add_(weight.grad)
            matrix = (weight.grad + _MOMENTUM * momentum).flatten(1)
            size = rate * max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            weight.mul_(1 - rate * self.decay).add_(orthogonal(matrix).reshape(weight.shape), alpha=-size)
            weight.grad = None


def orthogonal(matrix: Tensor, rounds: int = 5) -> Tensor:
    """Return a matrix with the singular vectors of the given one and singular values near one, shaped alike.

    X <- a X + b (X X') X + c (X X')^2 X, from X = matrix/|matrix|: Newton and Schulz' iteration, whose values end between
    0.7 and 1.2, which is as good as one for a step. A matrix of zeros stays.
    """
    a, b, c = _QUINTIC
    x = matrix / matrix.norm().clamp(min=1e-30)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
