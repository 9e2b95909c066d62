"""Reversible Heun: a method of order two that runs backwards without error, and gradients whose memory has no steps in it.

Two states are carried, the solution y and an auxiliary v, with f = f(t, v). A step of length h is

    v' = 2 y - v + h f,    f' = f(t', v'),    y' = y + h (f + f')/2,

and the same formulas with -h, from (y', v', f'), give (y, v, f) back: algebraically, so to rounding. Here y = x/a steps in
sigma with f = E[eps|x], or x in path time with the velocity where the noise end holds no signal. For the reverse SDE y is
x over its own decay, f the data mean, and both states also move by the same increment of a Brownian path, which the way
back takes off again.

The backward pass of `solve` therefore visits the very states of the forward pass, so that its gradient is the one of the
steps that ran. The continuous adjoint solves the flow backwards with a method that does not undo itself, and differentiates
at states that the forward pass never saw: its gradient errs by the error of the steps.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde import laws, systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.noise import Source
from retrograde.paths import Path
from retrograde.plan import Plan, Row
from retrograde.recipes.euler import flow_basis, slope
from retrograde.recipes.recipe import level, recipe
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


def _noisy_pair(path: Path, t: float, t_next: float, eta: float, first: bool = False, back: bool = False) -> list[Row]:
    """The two rows of a step of the SDE, in x = c z: to v' = 2 z - v + h D + B, then to z' = v' - z + v + h (D' - D)/2."""
    here, there = level(path, t), level(path, t_next)
    decay = (there.sigma / here.sigma) ** eta
    keep = decay * there.s / here.s
    gain, fresh = there.a - here.a * keep, there.s * math.sqrt(abs(1.0 - decay**2)) * (-1.0 if back else 1.0)
    noises = (fresh,) if eta else ()
    if first:  # v = z; the zero keeps v', from which the way back begins
        return [Row(t, t_next, (keep,), (gain,), noises), Row(t_next, t_next, (1.0, 0.0), (0.5 * gain, -0.5 * gain))]
    move = Row(None, t_next, (2.0 * keep, -keep), (gain,), noises, renoise=back)
    return [move, Row(t_next, t_next, (1.0, -keep, keep), (0.5 * gain, -0.5 * gain))]


@recipe(
    "reversible_heun_sde",
    order=2,
    stochastic=True,
    layout=_layout,
    summary="reversible Heun on the reverse SDE: strong order 1, and `reversible.back` undoes it, noise and all",
)
def reversible_heun_sde(path: Path, times: tuple[float, ...], stages: tuple[int, ...] = (), eta: float = 1.0) -> list[Row]:
    """v' = 2 z - v + h D + B, z' = z + h (D + D')/2 + B: one evaluation per step and one more in the first, weak order 2.

    z = x/(s sigma^eta) turns the reverse SDE into dz = D du + dW, with u = sigma^-(1 + eta) and a W whose variance is
    sigma^-(2 eta); at eta = 1 both are the signal-to-noise ratio. There the flow grows, and the method is stable; a step of
    order one is DDPM's. The noise does not depend on the state, so that the SDE of Stratonovich is that of Ito, and the
    strong order is 1, not the 1/2 of state-dependent noise: draw from `noise.Brownian`, and steps of any length follow one
    path. eta = 0 draws nothing. Kidger et al., Efficient and Accurate Gradients for Neural SDEs, 2021, arXiv 2105.13493.

    Raises:
        BadValue: eta outside [0, 1].
    """
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from the flow to the reverse SDE", "eta=1.0")
    rows: list[Row] = []
    for i, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
        step = _noisy_pair(path, t, t_next, eta, first=i == 0)
        rows += step[:1] if i == 0 and stages[0] == 1 else step
    return rows


def _times(plan: Plan) -> list[float]:
    if plan.recipe.partition("@")[0] not in ("reversible_heun", "reversible_heun_sde") or plan.rows[-1].next_time is None:
        given = f"the plan {plan.recipe} with {len(plan)} rows"
        raise BadValue(
            given, "a reversible_heun plan without its end row", "back(rg.plan('reversible_heun', path, nfe=9)[:-1])"
        )
    stops = [row.next_time for row in plan.rows if row.time is not None and row.next_time == row.time]
    return [plan.start, *stops]  # type: ignore[list-item]


def back(plan: Plan) -> Plan:
    """Return the plan that leads from the last state of a reversible Heun plan back to its first.

    It continues the run it undoes: `run(back(plan), denoiser, state.x_t, memory=state.memory)`, and on an SDE with the noise
    of that run, `noise=Undone(noise)`.

    Raises:
        BadValue: another plan, or one with its end row, which forgets the noise.
    """
    times = _times(plan)[::-1]
    noisy = plan.recipe.startswith("reversible_heun_sde@")
    if noisy and plan.path.a(times[-1]) == 0.0:
        given = f"a plan that starts at t={times[-1]:g}, where path {plan.path.name} holds no signal"
        raise BadValue(given, "a start with a(t) > 0: the first step forgets a state without signal", "start=100.0")
    eta = float(plan.provenance.get("options", {}).get("eta", 1.0))
    rows: list[Row] = []
    for t, t_next in zip(times, times[1:], strict=False):
        rows += _noisy_pair(plan.path, t, t_next, eta, back=True) if noisy else _pair(plan.path, t, t_next, renoise=True)
    misses = (laws.POINT_MASS,)  # it takes off noise that the state holds, where the law sees noise that is added
    return dataclasses.replace(plan, rows=tuple(rows), start=times[0], history=1, provenance={}, report=None, misses=misses)


@final
@dataclasses.dataclass(frozen=True)
class Undone:
    """The noise of a run for the run that undoes it: on the way from t' up to t, the draw of the way from t down to t'."""

    source: Source

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Return the draw of the source for the interval the other way round."""
        return self.source.draw(shape, (interval[1], interval[0]), occurrence, dtype, device)


def solve(
    plan: Plan,
    denoiser: AbstractDenoiser,
    x: Tensor,
    parameters: Sequence[Tensor] = (),
    noise: Source | None = None,
) -> Tensor:
    """Return the last state of a reversible Heun plan from x [batch, *shape], differentiable in memory of one step.

    The backward pass runs the plan backwards and differentiates one step at a time; gradients are those of the steps
    themselves (discretize, then optimize), equal to unrolling the loop to rounding.

    Args:
        plan: a reversible_heun or reversible_heun_sde plan without its end row.
        parameters: tensors the denoiser computes with, which shall have gradients too.
        noise: what a plan of the SDE draws from; the backward pass asks it for the same draws again.

    Raises:
        BadValue: another plan, or one with its end row.
    """
    _times(plan)
    return _Reversible.apply(plan, denoiser, noise, x, *parameters)  # type: ignore[return-value]


class _Reversible(torch.autograd.Function):
    """The end of a plan, whose backward pass rebuilds each state from the next."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, denoiser: AbstractDenoiser, noise: Source | None, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        last = deque(run(plan, denoiser, x, noise=noise), 1)[0]  # one at a time: no state but the last is kept
        ctx.plan, ctx.denoiser, ctx.parameters, ctx.noise = plan, denoiser, parameters, noise
        ctx.end = tuple(t.detach() for t in (*last.memory.states[:2], last.memory.outputs[0]))
        return last.x_t

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan, denoiser, parameters, noise = ctx.plan, ctx.denoiser, ctx.parameters, ctx.noise
        undo, tensors = back(plan), ctx.end
        undone = None if noise is None else Undone(noise)
        owed = [gradients[0], torch.zeros_like(gradients[0]), torch.zeros_like(gradients[0])]
        for_parameters: list[Tensor] = [torch.zeros_like(p) for p in parameters]
        count = len(plan) // 2
        for i in range(count):
            tensors = _step(undo[2 * i : 2 * i + 2], denoiser, tensors, "none", undone)
            inputs = [t.detach().requires_grad_() for t in (tensors[:1] if i == count - 1 else tensors)]
            rows = plan[len(plan) - 2 * i - 2 : len(plan) - 2 * i]
            with torch.enable_grad():
                made = _step(rows, denoiser, inputs, "unroll", noise)
                found = torch.autograd.grad(made, [*inputs, *parameters], owed, allow_unused=True)
            owed = [torch.zeros_like(t) if g is None else g for t, g in zip(inputs, found, strict=False)]
            for total, g in zip(for_parameters, found[len(inputs) :], strict=True):
                if g is not None:
                    total.add_(g)
        return None, None, None, owed[0], *for_parameters


def _step(
    rows: Plan, denoiser: AbstractDenoiser, tensors: Sequence[Tensor], gradient: Any, noise: Source | None
) -> tuple[Tensor, ...]:
    """Return (y, v, f) after the two rows of a step, from those before it, or from y alone in the first."""
    memory = Memory(tuple(tensors[:2]), tuple(tensors[2:])) if len(tensors) > 1 else None
    last = deque(run(rows, denoiser, tensors[0], memory=memory, gradient=gradient, noise=noise), 1)[0]
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
