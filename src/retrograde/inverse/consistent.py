"""The state itself is moved until the data mean agrees with y, and noised anew: SITCOM."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide import Transform
from retrograde.guide.branches import alone
from retrograde.inverse.guided import level
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Measurement
from retrograde.recipes import plan


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Agreeing(Transform):
    """A denoiser asked where it agrees with y: D' = D(v), v near argmin |y - A(D(v))|^2 + lam |x_t - v|^2 (see `sitcom`).

    Steps of Adam from v = x_t, of size lr in units of the state, sqrt(a^2 + s^2); items whose misfit has come to `enough`
    stay where they are.
    """

    measurement: Measurement
    iterations: int
    lam: float
    lr: float
    enough: float

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        t, a, s = level(self.path, t)
        start = x_t.detach()
        v, first, second, rate = start, torch.zeros_like(start), torch.zeros_like(start), self.lr * math.hypot(a, s)
        spent = Counter[str]()
        for k in range(1, self.iterations + 1):
            with torch.enable_grad():
                at = v.detach().requires_grad_(True)
                free = alone(self.inner.predict(at, t, condition, knobs, network_time), "a state that agrees with y")
                misfit = self.measurement.residual(free.data).flatten(1).square().sum(1)
                loss = misfit + self.lam * (at - start).flatten(1).square().sum(1)
                (gradient,) = torch.autograd.grad(loss.sum(), at)
            spent.update(free.evaluations)
            spent[f"{next(iter(free.evaluations), 'network')}:backward"] += 1
            going = (misfit.detach() > self.enough).reshape(-1, *(1,) * (x_t.ndim - 1))
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            size = (second / (1.0 - 0.999**k)).sqrt() + 1e-8
            v = torch.where(going, v - rate * (first / (1.0 - 0.9**k)) / size, v)
        free = alone(self.inner.predict(v, t, condition, knobs, network_time), "a state that agrees with y")
        spent.update(free.evaluations)
        data = free.data
        made = dataclasses.replace(free, x_t=x_t, value=data, kind="data", parts={}, heads={}, exponents={})
        return dataclasses.replace(made, evaluations=dict(spent))


@method("sitcom", "the state is moved until its data mean agrees with y, then noised anew; any differentiable operator")
def sitcom(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    inner: int = 9,
    lam: float = 0.0,
    lr: float = 0.05,
    stop: float = 1.0,
) -> Posed:
    """Step-wise triply-consistent sampling: at each level the network's input is optimized, and its answer noised anew.

        v ~ argmin_v |y - A(D(v))|^2 + lam |x_t - v|^2, by Adam from x_t;   x' = a' D(v) + s' eps

    so that the estimate agrees with y, is an answer of the network, and its input is near the state. Small `inner` or
    lam > 0 keep v near x_t. It finds items that explain y rather than draws of the posterior: on Gaussian
    data both moments are off.

    Args:
        inner: steps of Adam for each row; a row costs inner + 1 evaluations and inner gradients, and as many whole rows are
            made as `nfe` has room for: what is left over is not asked.
        lam: weight of the distance from the state (the authors' code leaves it out and counts on few steps).
        lr: of Adam, in units of the state, sqrt(a^2 + s^2).
        stop: an item is done where its misfit is below stop std sqrt(m), m the numbers of y; 0 never stops.

    Reference: Alkhouri, Liang, Huang, Dai, Qu, Ravishankar and Wang, SITCOM: Step-wise Triple-Consistent Diffusion Sampling
    for Inverse Problems, 2024, arXiv 2410.04479.
    """
    if inner < 1 or not lam >= 0.0 or not lr > 0.0 or not stop >= 0.0:
        given = f"inner={inner}, lam={lam}, lr={lr}, stop={stop}"
        raise BadValue(given, "inner >= 1, lam >= 0, lr > 0, stop >= 0", "inner=9, lam=0.0, lr=0.05, stop=1.0")
    if task.nfe <= inner:
        given = f"nfe={task.nfe} for rows of {inner + 1} evaluations (inner={inner})"
        mend = f"nfe={inner + 1}" if task.nfe < 2 else f"nfe={inner + 1}, or inner={task.nfe - 1}"
        raise BadValue(given, f"nfe >= {inner + 1}", mend)
    rounds = task.nfe // (inner + 1)
    table = plan("ddim", denoiser, nfe=rounds, grid=task.grid, eta=0.0)
    rows = []
    for row in table.rows:
        if row.next_time is not None:
            fresh = (table.path.s(row.next_time),)
            row = dataclasses.replace(row, states=(0.0,), outputs=(table.path.a(row.next_time),), noises=fresh)
        rows.append(row)
    enough = 0.0 if stop == 0.0 else measurement.y.numel() * (stop * measurement.std) ** 2
    agreeing = Agreeing(denoiser, measurement, inner, lam, lr, enough)
    return Posed(agreeing, dataclasses.replace(table, rows=tuple(rows), recipe="sitcom@1"))


systems.register(
    systems.System(
        title="SITCOM: Step-wise Triple-Consistent Diffusion Sampling for Inverse Problems",
        authors=(
            "Ismail Alkhouri",
            "Shijun Liang",
            "Cheng-Han Huang",
            "Jimmy Dai",
            "Qing Qu",
            "Saiprasad Ravishankar",
            "Rongrong Wang",
        ),
        year=2024,
        arxiv="2410.04479",
        home="inverse",
        call="rg.inverse.solve(denoiser, measurement, method='sitcom', n=16, nfe=100)",
        test="tests/inverse/test_consistent.py::test_the_state_settles_where_the_linear_system_says",
    )
)
