"""A multistep table as tensors one can descend on: levels, times told to the network, and coefficients.

Everything is in y = x/a, where a state is data plus sigma times noise on every path:

    y_(i+1) = sum_(j <= i) A_ij y_j + sum_(j <= i) B_ij m_j,   m_j = E[x_0 | y_j] asked at sigma_j,

the last row leading to the data.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde import laws
from retrograde.baselines.gits import asked_at, trajectories
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.plan import Plan, Row
from retrograde.recipes import level
from retrograde.recipes.ipndm import ADAMS_BASHFORTH

_STEP = 0.02
"""Half the distance, in log sigma, over which a prediction is differenced in its level."""


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """A table in y = x/a.

    Attributes:
        level: log sigma of the rows, falling, [N].
        told: log sigma of the times the network is told, [N]; the same tensor where they are the levels themselves.
        states: A, [N, N], lower triangular; outputs: B, [N, N].
    """

    level: Tensor
    told: Tensor
    states: Tensor
    outputs: Tensor


class _Asked(torch.autograd.Function):
    """A prediction with gradients in the state, by back-propagation, and in its two levels, by central differences.

    Nothing is kept of the forward pass but the state, so a long table costs no more memory than one evaluation. Where the
    network is told the level itself (`told` None), the two are moved together: half as many evaluations.
    """

    @staticmethod
    def forward(
        ctx: Any, y: Tensor, at: Tensor, told: Tensor | None, ask: Callable[[Tensor, float, float], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(y, at, told)
        ctx.ask = ask
        return ask(y, float(at), float(at if told is None else told))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        (y, at, told), ask = ctx.saved_tensors, ctx.ask
        here, says = float(at), float(at if told is None else told)
        moved = [None, None]
        for k in range(2):
            if ctx.needs_input_grad[1 + k]:
                shifts = (_STEP, _STEP) if told is None else ((_STEP, 0.0), (0.0, _STEP))[k]
                above = ask(y, here + shifts[0], says + shifts[1])
                above -= ask(y, here - shifts[0], says - shifts[1])
                moved[k] = (grad.double() * above.double()).sum().div(2 * _STEP).to(at)
        with torch.enable_grad():
            leaf = y.detach().requires_grad_()
            (into,) = torch.autograd.grad(ask(leaf, here, says), leaf, grad)
        return into, *moved, None


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """Noise items with the end points to reach, and how a denoiser is asked about them in y = x/a."""

    denoiser: AbstractDenoiser
    start: Tensor
    goal: Tensor
    condition: Mapping[str, Tensor]

    def part(self, items: Tensor) -> Lesson:
        """Return some items."""
        condition = {name: value[items] for name, value in self.condition.items()}
        return dataclasses.replace(self, start=self.start[items], goal=self.goal[items], condition=condition)

    def ask(self, y: Tensor, at: float, told: float) -> Tensor:
        """Return the data mean at y [n, d], log sigma `at`, the network being told that of log sigma `told`."""
        denoiser, path = self.denoiser, self.denoiser.path
        t, says = path.time_of_sigma(math.exp(at)), path.time_of_sigma(math.exp(told))
        x = (path.a(t) * y).reshape(-1, *denoiser.shape)
        return denoiser.predict(x, t, self.condition, {}, denoiser.network_time(says)).data.flatten(1).to(y.dtype)

    def errors(self, table: Table, moved: Tensor | None = None) -> Tensor:
        """Return each item's mean squared distance from its goal, [n]; `moved` is added to the start."""
        states = [self.start if moved is None else self.start + moved]
        means: list[Tensor] = []
        for i, at in enumerate(table.level):
            told = None if table.told is table.level else table.told[i]
            means.append(_Asked.apply(states[i], at, told, self.ask))  # type: ignore[arg-type]
            both = zip((table.states[i], table.outputs[i]), (states, means), strict=True)
            states.append(sum((w.to(z) * z for row, zs in both for w, z in zip(row, zs, strict=False)), torch.zeros(())))
        return (states[-1] - self.goal).pow(2).mean(1)


def lessons(
    denoiser: AbstractDenoiser, n: int, held: int, seed: int, levels: int, condition: Any
) -> tuple[Lesson, Lesson, int]:
    """Return n items to learn from, `held` to validate on, and the evaluations the reference cost."""
    teacher = trajectories(denoiser, n + held, seed, levels, condition)
    start = teacher.states[0] / denoiser.path.a(teacher.times[0])
    whole = Lesson(denoiser, start, teacher.end, prepare_condition(denoiser, condition, n + held))
    parts = torch.arange(n + held).split([n, held])
    return whole.part(parts[0]), whole.part(parts[1]), teacher.evaluations * (n + held)


@dataclasses.dataclass(frozen=True, eq=False)
class Descent:
    """Stochastic gradient descent on a table, the best on validation kept.

    Attributes:
        rates: learning rate of each parameter, the last ones of its cosine decay being near zero.
        steps, batch: how many steps, on how many items each.
        look: validate after so many steps.
        relax: radius, in standard deviations per element of the noise, within which each item's noise may move to meet its
            goal (the relaxed objective of LD3: the student need only start near, not at, the reference's noise).
    """

    rates: Mapping[str, float]
    steps: int = 100
    batch: int = 32
    look: int = 10
    relax: float = 0.0

    def run(
        self,
        table_of: Callable[[Mapping[str, Tensor]], Table],
        start: Mapping[str, Tensor],
        taught: Lesson,
        held: Lesson,
        seed: int,
    ) -> tuple[dict[str, Tensor], float, int]:
        """Return the best parameters, their root mean square error on validation, and the evaluations spent."""
        values = {name: value.clone().double().requires_grad_(name in self.rates) for name, value in start.items()}
        optimizer = torch.optim.Adam([{"params": [values[name]], "lr": rate} for name, rate in self.rates.items()])
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        best, least = {name: value.detach().clone() for name, value in values.items()}, _root(table_of(values), held)
        rows, scale = len(table_of(values).level), float(taught.start.pow(2).mean().sqrt())
        # a step asks forward, again for the gradient, and twice more for each level it descends on
        first = table_of(values)
        asked = 2 + 2 * len({id(levels) for levels in (first.level, first.told) if levels.requires_grad})
        spent, moved = rows * len(held.goal), torch.zeros_like(taught.start)
        for k, items in zip(range(self.steps), _batches(len(taught.goal), self.batch, seed), strict=False):
            own = moved[items].requires_grad_(self.relax > 0.0)
            loss = taught.part(items).errors(table_of(values), own if self.relax else None).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            spent += asked * rows * len(items)
            if own.grad is not None:
                moved[items] = _within(own.detach() - 0.25 * self.relax * scale * _unit(own.grad), self.relax * scale)
            if (k + 1) % self.look == 0 or k + 1 == self.steps:
                error = _root(table_of(values), held)
                spent += rows * len(held.goal)
                if error < least:
                    best, least = {name: value.detach().clone() for name, value in values.items()}, error
        return best, least, spent


def _root(table: Table, lesson: Lesson) -> float:
    with torch.no_grad():
        return float(lesson.errors(table).mean().sqrt())


def _batches(n: int, size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(n, generator=generator).split(size)


def _unit(x: Tensor) -> Tensor:
    """Return each item scaled to mean square one."""
    return x / x.pow(2).mean(1, keepdim=True).sqrt().clamp(min=1e-30)


def _within(x: Tensor, radius: float) -> Tensor:
    size = x.pow(2).mean(1, keepdim=True).sqrt()
    return x * (radius / size.clamp(min=radius))


def even(denoiser: AbstractDenoiser, nfe: int, grid: str) -> Tensor:
    """Return log sigma where a published grid asks (see `asked_at`), [nfe]."""
    return torch.tensor([math.log(denoiser.path.sigma(t)) for t in asked_at(denoiser, nfe, grid)], dtype=torch.float64)


def adams_bashforth(level: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return A and B of iPNDM of an order on levels, Adams-Bashforth in sigma with the coefficients of an even grid."""
    n, sigma = len(level), torch.cat([level.exp(), level.new_zeros(1)])
    states, outputs = [[level.new_zeros(())] * n for _ in range(n)], [[level.new_zeros(())] * n for _ in range(n)]
    for i in range(n):
        # the last step is Euler's: it returns the data mean
        weights = ADAMS_BASHFORTH[0 if i + 1 == n else min(order, i + 1) - 1]
        states[i][i] = level.new_ones(())
        for k, c in enumerate(weights):
            slope = c * (sigma[i + 1] - sigma[i]) / sigma[i - k]
            states[i][i - k] = states[i][i - k] + slope
            outputs[i][i - k] = -slope
    return tuple(torch.stack([torch.stack(row) for row in table]) for table in (states, outputs))  # type: ignore[return-value]


def as_plan(denoiser: AbstractDenoiser, table: Table, recipe: str, provenance: Mapping[str, Any], report: Any) -> Plan:
    """Return a table as a plan of the denoiser's path."""
    path = denoiser.path
    times = [path.time_of_sigma(math.exp(u)) for u in table.level.tolist()]
    here = [level(path, t) for t in times]
    rows = []
    for i, t in enumerate(times):
        gain, end = (here[i + 1].a, times[i + 1]) if i + 1 < len(times) else (1.0, None)
        states = [gain * w / here[j].a for j, w in enumerate(table.states[i, : i + 1].tolist())]
        outputs = [gain * w for w in table.outputs[i, : i + 1].tolist()]
        says = denoiser.network_time(path.time_of_sigma(math.exp(float(table.told[i]))))
        rows.append(Row(t, end, _newest_first(states), _newest_first(outputs), network_time=says))
    return Plan(path, tuple(rows), "data", recipe, times[0], (laws.POINT_MASS,), provenance=provenance, report=report)


def _newest_first(weights: Sequence[float]) -> tuple[float, ...]:
    """Return the weights newest first, without the oldest ones that are zero."""
    first = next((k for k, w in enumerate(weights) if w), len(weights) - 1)
    return tuple(reversed(weights[first:]))
