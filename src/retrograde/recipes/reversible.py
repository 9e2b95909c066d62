"""Reversible Heun: a method of order two that runs backwards without error, and gradients whose memory has no steps in it.

Two states are carried, the solution y and an auxiliary v, with f = f(t, v). A step of length h is

    v' = 2 y - v + h f,    f' = f(t', v'),    y' = y + h (f + f')/2,

and the same formulas with -h, from (y', v', f'), give (y, v, f) back: algebraically, so to rounding. Here y = x/a steps in
sigma with f = E[eps|x], or x in path time with the velocity where the noise end holds no signal.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Plan, Row
from retrograde.recipes.euler import flow_basis, slope
from retrograde.recipes.recipe import recipe
from retrograde.run import Memory, run


def _layout(evaluations: int) -> tuple[int, ...]:
    # the first step also asks at its start
    return (2,) + (1,) * (evaluations - 2) if evaluations > 1 else (1,) * evaluations


def _pair(path: Path, t: float, t_next: float, renoise: bool = False) -> list[Row]:
    """The two rows of a step from (y, v) with f known: to v', then to y'."""
    c_x, c_m = slope(path, t, t_next)
    move = Row(None, t_next, (2.0 * c_x, -c_x), (c_m,), renoise=renoise)
    return [move, Row(t_next, t_next, (0.0, c_x), (0.5 * c_m, 0.5 * c_m))]


@recipe(
    "reversible_heun",
    order=2,
    basis=flow_basis,
    clock="smooth",
    approximate=True,
    layout=_layout,
    summary="reversible Heun: order 2 with one evaluation per step, and `reversible.back` undoes it",
)
def reversible_heun(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = ()) -> list[Row]:
    """v' = 2 y - v + h f, y' = y + h (f + f')/2: order 2, one evaluation per step and one more in the first.

    Stable only for oscillations, not for decay: it wants steps that are short beside the scale of the flow. Kidger et al.,
    Efficient and Accurate Gradients for Neural SDEs, 2021, arXiv 2105.13493.
    """
    rows: list[Row] = []
    for i, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
        step = _pair(path, t, t_next)
        if i == 0:
            c_x, c_m = slope(path, t, t_next)
            step = [Row(t, t_next, (c_x,), (c_m,)), *(step[1:] if stages[0] == 2 else [])]
        rows += step
    return rows


def _times(plan: Plan) -> list[float]:
    if plan.recipe.partition("@")[0] != "reversible_heun" or plan.rows[-1].next_time is None:
        given = f"the plan {plan.recipe} with {len(plan)} rows"
        raise BadValue(
            given, "a reversible_heun plan without its end row", "back(rg.plan('reversible_heun', path, nfe=9)[:-1])"
        )
    stops = [row.next_time for row in plan.rows if row.time is not None and row.next_time == row.time]
    return [plan.start, *stops]  # type: ignore[list-item]


def back(plan: Plan) -> Plan:
    """Return the plan that leads from the last state of a reversible Heun plan back to its first.

    It continues the run it undoes: `run(back(plan), denoiser, state.x_t, memory=state.memory)`.

    Raises:
        BadValue: another plan, or one with its end row, which forgets the noise.
    """
    times = _times(plan)[::-1]
    rows = [row for t, t_next in zip(times, times[1:], strict=False) for row in _pair(plan.path, t, t_next, renoise=True)]
    return dataclasses.replace(plan, rows=tuple(rows), start=times[0], history=1, provenance={}, report=None)


def solve(plan: Plan, denoiser: AbstractDenoiser, x: Tensor, parameters: Sequence[Tensor] = ()) -> Tensor:
    """Return the last state of a reversible Heun plan from x [batch, *shape], differentiable in memory of one step.

    The backward pass runs the plan backwards and differentiates one step at a time; gradients are those of the steps
    themselves (discretize, then optimize), equal to unrolling the loop to rounding.

    Args:
        plan: a reversible_heun plan without its end row.
        parameters: tensors the denoiser computes with, which shall have gradients too.

    Raises:
        BadValue: another plan, or one with its end row.
    """
    _times(plan)
    return _Reversible.apply(plan, denoiser, x, *parameters)  # type: ignore[return-value]


class _Reversible(torch.autograd.Function):
    """The end of a plan, whose backward pass rebuilds each state from the next."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, denoiser: AbstractDenoiser, x: Tensor, *parameters: Tensor) -> Tensor:
        last = deque(run(plan, denoiser, x), 1)[0]  # one at a time: no state but the last is kept
        ctx.plan, ctx.denoiser, ctx.parameters = plan, denoiser, parameters
        ctx.end = tuple(t.detach() for t in (*last.memory.states[:2], last.memory.outputs[0]))
        return last.x_t

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, denoiser, parameters = ctx.plan, ctx.denoiser, ctx.parameters
        undo, tensors = back(plan), ctx.end
        owed = [gradients[0], torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0])]
        for_parameters: list[Tensor] = [torch.zeros_like(p) for p in parameters]
        count = len(plan) // 2
        for i in range(count):
            tensors = _step(undo[2 * i : 2 * i + 2], denoiser, tensors, "none")
            inputs = [t.detach().requires_grad_() for t in (tensors[:1] if i == count - 1 else tensors)]
            rows = plan[len(plan) - 2 * i - 2 : len(plan) - 2 * i]
            with torch.enable_grad():
                made = _step(rows, denoiser, inputs, "unroll")
                found = torch.autograd.grad(made, [*inputs, *parameters], owed, allow_unused=True)
            owed = [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=False)]
            for total, g in zip(for_parameters, found[len(inputs) :], strict=True):
                if g is not None:
                    total.add_(g)
        return None, None, owed[0], *for_parameters


def _step(rows: Plan, denoiser: AbstractDenoiser, tensors: Sequence[Tensor], gradient: Any) -> tuple[Tensor, ...]:
    """Return (y, v, f) after the two rows of a step, from those before it, or from y alone in the first."""
    memory = Memory(tuple(tensors[:2]), tuple(tensors[2:])) if len(tensors) > 1 else None
    last = deque(run(rows, denoiser, tensors[0], memory=memory, gradient=gradient), 1)[0]
    return (*last.memory.states[:2], last.memory.outputs[0])


systems.register(
    systems.System(
        title="On Neural Differential Equations",
        authors=("Patrick Kidger",),
        year=2022,
        arxiv="2202.02435",
        home="solvers",
        call="rg.recipes.reversible.back(plan)",
        test="tests/recipes/test_reversible.py::test_there_and_back_is_where_it_was",
    )
)
