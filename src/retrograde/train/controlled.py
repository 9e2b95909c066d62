"""Variational inference of SDEs with fractional noise: paths under a control, and what the control costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadValue, ShapeError
from retrograde.paths import MarkovFractional

Coefficient = Callable[[Tensor, float], Tensor]
"""From states x [n, d] and a time to one number for each coordinate, [n, d]."""
Control = Callable[[Tensor, Tensor, float], Tensor]
"""From states x [n, d], processes [n, d, K] and a time to the control u, [n, d]."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Controlled:
    """Paths x [len(times), n, d] of a controlled SDE, and for each the cost of its control in nats, [n]."""

    x: Tensor
    cost: Tensor

    def bound(self, log_likelihood: Tensor) -> Tensor:
        """Return for each path a draw of the evidence lower bound, log p(observations | x) - cost, [n]."""
        if log_likelihood.shape != self.cost.shape:
            raise ShapeError(
                f"log-likelihoods {list(log_likelihood.shape)} of {len(self.cost)} paths",
                "one number for each path, [n]",
                "sum over observations and coordinates",
            )
        return log_likelihood - self.cost


def controlled(
    process: MarkovFractional,
    times: Sequence[float],
    start: Tensor,
    *,
    drift: Coefficient | None = None,
    diffusion: Coefficient | None = None,
    control: Control | None = None,
    seed: int = 0,
) -> Controlled:
    """Simulate dx = b(x, t) dt + s(x, t) dB, B the process sum_k w_k Y_k, whose Brownian motion is pushed: dW + u dt.

    dY_k = -g_k Y_k dt + dW + u dt is solved exactly for a control that is held over a step, and x with the b and s of the
    step's begin: what is left is exact for b = 0 and constant s. Since only dW is pushed,

        log p(o) >= E[log p(o | x) - 1/2 int |u|^2 dt],

    whatever the control; with the best one they are equal. So maximize the mean of `Controlled.bound` over the weights of a
    control, and of b and s: everything is differentiable in them. The Hurst index is not among these, since weights and
    speeds come from a fit: compare the bounds of several.

    Args:
        times: rising, from 0 to at most the horizon of the process; observations are at some of them.
        start: x at time 0, [n, d]; each coordinate has a Brownian motion of its own.
        drift: b; none is 0.
        diffusion: s; none is 1.
        control: u; none is the prior.
        seed: of the noise.

    Raises:
        BadValue: times that do not rise from 0 or leave the horizon.
        ShapeError: a start that is not [n, d].

    Reference: Daems, Opper, Crevecoeur, Birdal, Variational Inference for SDEs Driven by Fractional Noise, 2023, arXiv
    2310.12975.
    """
    if start.ndim != 2:
        raise ShapeError(f"a start of shape {list(start.shape)}", "[n, d]", "start[:, None] for one coordinate")
    rises = all(early < late for early, late in zip(times, times[1:], strict=False))
    if len(times) < 2 or times[0] != 0.0 or not rises or times[-1] > process.horizon * (1 + 1e-9):
        raise BadValue(
            f"times {list(times)[:4]}...", f"0 and rising times up to {process.horizon:g}", "torch.linspace(0, 1, 60)"
        )
    speeds, weights = (torch.from_numpy(part).to(start) for part in (process.speeds, process.weights))
    generator = torch.Generator().manual_seed(seed)
    x, y, cost = start, start.new_zeros(*start.shape, len(speeds)), start.new_zeros(len(start))
    path = [x]
    for t, later in zip(times, times[1:], strict=False):
        h = later - t
        draws = torch.randn(y.shape, dtype=torch.float64, generator=generator).to(start)
        moved = torch.exp(-speeds * h) * y + draws @ _root(process, h).to(start).T
        if control is not None:
            u = control(x, y, t)
            moved = moved + u[..., None] * (-torch.expm1(-speeds * h) / speeds)
            cost = cost + 0.5 * h * u.square().sum(1)
        change = (moved - y) @ weights
        x = x + (change if diffusion is None else diffusion(x, t) * change)
        x = x if drift is None else x + h * drift(path[-1], t)
        y = moved
        path.append(x)
    return Controlled(torch.stack(path), cost)


def _root(process: MarkovFractional, h: float) -> Tensor:
    """A root of the covariance (1 - e^(-(g_i + g_j) h))/(g_i + g_j) of what the shared noise of a step adds to the Y_k."""
    speeds = torch.from_numpy(process.speeds)
    rates = speeds[:, None] + speeds[None, :]
    values, basis = torch.linalg.eigh(-torch.expm1(-rates * h) / rates)
    return basis * values.clamp(min=0.0).sqrt()


systems.register(
    systems.System(
        title="Variational Inference for SDEs Driven by Fractional Noise",
        authors=("Rembert Daems", "Manfred Opper", "Guillaume Crevecoeur", "Tolga Birdal"),
        year=2023,
        arxiv="2310.12975",
        home="paths",
        call="rg.train.controlled(process, times, start, control=control).bound(log_likelihood)",
        test="tests/train/test_controlled.py::test_the_best_control_reaches_the_likelihood",
    )
)
