"""An estimate that is improved step by step, with the denoiser as its regularizer: RED-diff."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from retrograde import grids, laws, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, UnknownName
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Linear, Measurement
from retrograde.plan import Plan, Row
from retrograde.run import Controller
from retrograde.state import State

_WEIGHTS: dict[str, Callable[[float], float]] = {
    "linear": lambda sigma: sigma,
    "sqrt": math.sqrt,
    "square": lambda sigma: sigma * sigma,
    "log": math.log1p,
    "clip": lambda sigma: min(sigma, 1.0),
    "constant": lambda sigma: 1.0,
}


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """Settings of the controller that takes a step of Adam after every evaluation (see `reddiff`)."""

    measurement: Measurement
    lam: float
    weight: str
    lr: float

    def begin(self) -> Controller:
        """Return the controller of one run."""
        return _Descending(self)


@final
class _Descending:
    consumes: frozenset[str] = frozenset()

    def __init__(self, settings: Descent) -> None:
        self.settings = settings
        self.moments: tuple[Tensor, Tensor] | None = None
        self.steps = 0

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        return remaining

    def correct(self, state: State) -> Tensor:
        if state.row.time is None or state.prediction is None:
            return state.x_t
        mu, asked = state.x_t, self.settings
        path, t = state.prediction.path, float(state.row.time)
        weight = asked.lam * _WEIGHTS[asked.weight](path.sigma(t))
        pull = weight / mu[0].numel() * (state.prediction.noise - state.memory.noises[0])
        residual = asked.measurement.residual(mu)
        gradient = pull - asked.measurement.operator.pull_back(mu, residual) / residual[0].numel()
        first, second = self.moments or (torch.zeros_like(mu), torch.zeros_like(mu))
        self.steps += 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient.square()
        self.moments = first, second
        size = (second / (1.0 - 0.99**self.steps)).sqrt() + 1e-8
        return mu - asked.lr * (first / (1.0 - 0.9**self.steps)) / size


@method("reddiff", "an estimate by Adam on the misfit, with the denoiser as regularizer; any operator, no spread")
def reddiff(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    lam: float = 0.25,
    lr: float = 0.1,
    weight: str = "linear",
) -> Posed:
    """Regularization by denoising diffusion: mu from its start down the gradient of misfit and denoising error.

        g = lam w(sigma_t) (E(x_t) - eps)/d - J_A(mu)^T (y - A(mu))/m,   x_t = a mu + s eps,   mu <- Adam(mu, g; lr)

    one level of the grid after another, noisiest first; d and m are the numbers of x and y, and there is no gradient through
    the network. In the mean over eps the pull of Gaussian data N(m, C) is s a (a^2 C + s^2)^-1 (mu - m), so that mu settles
    where a linear system says: an estimate, like that of regularized least squares, and not a draw. What spread its
    samples have is that of eps and means nothing.

    Args:
        lam: strength of the regularizer.
        lr: step of Adam, in units of the data; decays 0.9 and 0.99.
        weight: w: "linear" (sigma, the paper's), "sqrt", "square", "log", "clip" or "constant".

    Reference: Mardani, Song, Kautz and Vahdat, A Variational Perspective on Solving Inverse Problems with Diffusion Models,
    2023, arXiv 2305.04391.
    """
    if weight not in _WEIGHTS:
        raise UnknownName("weight", weight, _WEIGHTS)
    if not lam >= 0.0 or not lr > 0.0:
        raise BadValue(f"lam={lam}, lr={lr}", "lam >= 0, lr > 0", "lam=0.25, lr=0.1")
    path, data = denoiser.path, denoiser.path.t_min
    grid = "karras" if task.grid is None else task.grid
    times = grids.make(path, task.nfe, grid) if isinstance(grid, str) else tuple(grid)
    rows: list[Row] = []
    for k, t in enumerate(denoiser.snap(t) for t in times):
        rows.append(Row(None, t, (path.a(t),), (), (path.s(t),), renoise=True))
        rows.append(Row(t, None if k == len(times) - 1 else data, (0.0, 1.0), (0.0,)))
    settings: dict[str, Any] = {"lam": lam, "lr": lr, "weight": weight}
    provenance = {"recipe": "reddiff", "times": list(times), "options": settings}
    table = Plan(
        path, tuple(rows), "noise", start=data, recipe="reddiff@1", provenance=provenance, misses=(laws.POINT_MASS,)
    )
    operator = measurement.operator
    y = measurement.y.to(device=task.device, dtype=task.dtype)[None]
    start = operator.pseudo_inverse(y) if isinstance(operator, Linear) else y.new_zeros(1, *operator.shape)
    begun = start.expand(task.n, *operator.shape).clone()
    return Posed(denoiser, table, (Descent(measurement, lam, weight, lr),), start=begun)


systems.register(
    systems.System(
        title="A Variational Perspective on Solving Inverse Problems with Diffusion Models",
        authors=("Morteza Mardani", "Jiaming Song", "Jan Kautz", "Arash Vahdat"),
        year=2023,
        arxiv="2305.04391",
        home="inverse",
        call="rg.inverse.solve(denoiser, measurement, method='reddiff', n=1, nfe=100)",
        test="tests/inverse/test_variational.py::test_the_estimate_settles_where_the_linear_system_says",
    )
)
