"""The loop: executes a plan.

One generator serves everything: progress bars, previews, recording and early stopping read the states it yields. Its own
state lives in the call.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.anchor import anchor_of_run
from retrograde.denoisers.carried import CARRIED
from retrograde.denoisers.prediction import Reading, readings, selected
from retrograde.errors import BadValue, PlanError, RetrogradeError, ShapeError
from retrograde.linear import Coefficient, combine
from retrograde.noise import Source, check_one_path
from retrograde.plan import Plan, Row, anchored
from retrograde.state import Back, Controller, ControllerPerRun, Ledger, Memory, Particles, Resampled, State

__all__ = [
    "Back",
    "Controller",
    "ControllerPerRun",
    "Gradient",
    "Ledger",
    "Memory",
    "NonFinite",
    "Particles",
    "Resampled",
    "State",
    "run",
]

Gradient = Literal["none", "unroll", "checkpoint"]


class NonFinite(RetrogradeError, ArithmeticError):
    """A network returned NaN or infinity.

    Attributes:
        row: number of the row.
        items: places in the batch that are not finite.
        samples: finished samples of other items, where a caller collected them.
        finished: the numbers of those items.
    """

    def __init__(self, row: int, time: float | None, items: list[int], statistics: str) -> None:
        super().__init__(
            f"NaN or infinity in row {row} at time {time} for items {items[:8]}{'...' if len(items) > 8 else ''}; "
            f"the state before it: {statistics}",
            "a network that returns finite values on every level of the plan",
            "look at its output there (denoiser(x_t, t).value), compute in float32, or start the plan at a lower level",
        )
        self.row, self.items = row, items
        self.samples: Tensor | None = None
        self.finished: list[int] = []


def run(
    plan: Plan,
    denoiser: AbstractDenoiser,
    x: Tensor,
    *,
    noise: Source | None = None,
    condition: Mapping[str, Tensor] | None = None,
    anchor: Tensor | None = None,
    controllers: Sequence[Controller | ControllerPerRun] = (),
    particles: Particles | None = None,
    gradient: Gradient = "none",
    memory: Memory | None = None,
    prediction: Prediction | None = None,
) -> Generator[State, None, Plan]:
    """Execute a plan from state x [batch, *shape] at time plan.start, yielding after every row.

    Args:
        noise: source of randomness; needed by a stochastic plan.
        condition: prepared conditions, one entry per item (see `prepare_condition`).
        anchor: y [batch, *shape] or [*shape], on an anchored path (or for a denoiser of one); the network gets it too.
        gradient: "none" records no graph; "unroll" differentiates through every evaluation; "checkpoint" recomputes each
            evaluation in the backward pass, for memory of one evaluation.
        memory: the history that a plan cut from a longer one needs (`state.memory` of the run it continues).
        prediction: the newest prediction of that run (`state.prediction`).

    Returns:
        As the generator's value, the plan that really ran.

    Raises:
        PlanError: plan and denoiser do not fit, an anchor is missing or out of place, or a knob is not consumed by
            exactly one part.
        ShapeError: the anchor does not have the state's shape.
        NonFinite: the network returned NaN or infinity.
    """
    plan = plan.bind(denoiser)
    deciders = [c.begin() if isinstance(c, ControllerPerRun) else c for c in controllers]
    _check(plan, denoiser, noise, deciders, memory, gradient)
    condition, anchor = anchor_of_run(plan.path, denoiser, x, {} if condition is None else condition, anchor)
    past = memory or Memory((x,))
    states, outputs, noises = _histories(plan, dataclasses.replace(past, states=(x, *past.states[1:])))
    ledger, visits, carried = Ledger(), past.visits, past.carried
    remaining = plan.rows
    ran: list[Row] = []
    state: State | None = None
    clock, kinds = plan.start, readings(plan.basis)
    graph = contextlib.nullcontext() if gradient != "none" else torch.no_grad()
    watched = not torch.compiler.is_compiling()  # a graph that torch.compile traces has no clock and cannot look at numbers
    while remaining:
        with graph:
            for controller in deciders:
                answer = controller.rewrite(remaining, state)
                if isinstance(answer, Back):
                    state = answer.state
                    del ran[state.index + 1 :]
                    states, outputs, noises = _histories(plan, state.memory)
                    clock, prediction, visits = state.t, state.prediction, state.memory.visits
                    carried = state.memory.carried
                    answer = answer.rows
                remaining = tuple(answer)
            if not remaining:
                break
            row, remaining = remaining[0], remaining[1:]
            if deciders:
                row = _rewritten(row, denoiser, [len(states), len(outputs), len(noises)], len(kinds), len(ran))
                if plan.path.anchored and row.anchor is None:
                    row = _completed(plan, row, ran)
            if row.time is not None:
                began = time.perf_counter() if watched else 0.0
                prediction = _ask(denoiser, states[0], row, condition, gradient, carried)
                ledger.count(prediction.evaluations, time.perf_counter() - began if watched else 0.0)
                carried = {**carried, **prediction.carried} if prediction.carried else carried
                for kind in reversed(kinds):
                    outputs.appendleft(prediction.reading(kind))
            if row.noises and noise is not None:
                interval = (-1.0 if clock is None else clock, -1.0 if row.next_time is None else row.next_time)
                shape, like = states[0].shape[1:], states[0]
                visit = visits.get(interval, 0)
                noises.appendleft(noise.draw(shape, interval, visit, like.dtype, like.device))
                visits = {**visits, interval: visit + 1}
            x_next = combine(
                (
                    *_terms(row, states, outputs),
                    *zip(row.noises, noises, strict=False),
                    *(() if anchor is None or row.anchor is None else ((row.anchor, anchor),)),
                )
            )
            if row.shift is not None:
                x_next.add_(row.shift.to(x_next))
            if row.correction is not None:
                seen = [one.made if isinstance(one, Reading) else one for one in outputs]
                x_next = x_next + row.correction(states[0], seen, condition)
            if watched and x_next.device.type == "cpu" and not math.isfinite(x_next.sum().item()):
                _refuse_non_finite(x_next, states[0], len(ran), row)  # elsewhere a look would wait for the device
            states.appendleft(x_next)
            ran.append(row)
            ledger.rows += 1
            clock = row.next_time
            memory = Memory(tuple(states), tuple(outputs), tuple(noises), visits, carried)
            state = State(x_next, clock, row, len(ran) - 1, prediction, ledger, memory, None, plan)
            for controller in deciders:
                states[0] = _corrected(controller, state)
                state = _moved(state, Memory(tuple(states), tuple(outputs), tuple(noises), visits, carried), prediction)
            if particles is not None and (answer := particles.resample(state, noise)) is not None:
                kept = state.memory
                if answer.ancestors is not None:
                    kept = kept.of(answer.ancestors)
                    prediction = None if prediction is None else selected(prediction, answer.ancestors)
                    states, outputs, noises = _histories(plan, kept)
                carried = {**kept.carried, **answer.carried}
                state = _moved(state, dataclasses.replace(kept, carried=carried), prediction, answer.ancestors)
        yield state
    if state is not None and state.x_t.device.type != "cpu" and watched:
        _refuse_non_finite(state.x_t, state.x_t, len(ran) - 1, state.row)
    return plan if tuple(ran) == plan.rows else dataclasses.replace(plan, rows=tuple(ran))


def _corrected(controller: Controller, state: State) -> Tensor:
    """Return the state a controller goes on with, of the shape it had."""
    made = controller.correct(state)
    if made.shape != state.x_t.shape:
        raise ShapeError(
            f"a state of shape {list(made.shape)} from {type(controller).__name__}, in place of {list(state.x_t.shape)}",
            "the state's own shape: what a controller knows of each item has one entry for each of this run",
            "a controller for each batch, or no batch_size",
        )
    return made


def _histories(plan: Plan, memory: Memory) -> tuple[deque[Tensor], deque[Tensor | Reading], deque[Tensor]]:
    """Return what the rows of a plan look back at, newest first."""
    # cut to their length first: built from a longer iterable a deque keeps its end, the oldest
    s, o, e = plan.depth
    return deque(memory.states[:s], s), deque(memory.kept[:o], o), deque(memory.noises[:e], e)


def _terms(row: Row, states: Sequence[Tensor], outputs: deque[Tensor | Reading]) -> Iterable[tuple[Coefficient, Tensor]]:
    """Return the terms of a row's states and readings, each tensor once: a reading is weighed as what it is read off."""
    match row.states, row.outputs:  # most rows, and the same sum
        case (float(state),), (float(output),) if isinstance(one := outputs[0], Reading) and one.x_t is states[0]:
            return (state + output * one.c_x, one.x_t), (output * one.c_value, one.value)
    tensors = [one for one in outputs if isinstance(one, Tensor)]
    if len(tensors) == len(outputs):
        return *zip(row.states, states, strict=False), *zip(row.outputs, tensors, strict=False)
    found: list[tuple[Coefficient, Tensor]] = [*zip(row.states, states, strict=False)]
    for i, (coefficient, one) in enumerate(zip(row.outputs, outputs, strict=False)):
        if not isinstance(one, Reading):
            found.append((coefficient, one))
        elif isinstance(coefficient, float):
            found += ((coefficient * one.c_x, one.x_t), (coefficient * one.c_value, one.value))
        else:  # a tensor or a map would be applied twice
            made = outputs[i] = one.made
            found.append((coefficient, made))
    terms: dict[int, tuple[Coefficient, Tensor]] = {}
    for place, (coefficient, tensor) in enumerate(found):
        if not isinstance(coefficient, float):
            terms[-1 - place] = coefficient, tensor
        elif (key := id(tensor)) in terms:
            terms[key] = terms[key][0] + coefficient, tensor  # type: ignore[operator]
        else:
            terms[key] = coefficient, tensor
    return terms.values()


def _moved(state: State, memory: Memory, prediction: Prediction | None, ancestors: Tensor | None = None) -> State:
    """Return the state after a correction or a resampling: what it remembers moves with it."""
    return dataclasses.replace(state, x_t=memory.states[0], prediction=prediction, memory=memory, ancestors=ancestors)


def _rewritten(row: Row, denoiser: AbstractDenoiser, kept: list[int], each: int, index: int) -> Row:
    """Return a row that may come from a controller, with what the network is told; its laws were not checked before."""
    kept[1] += each * (row.time is not None)
    kept[2] += bool(row.noises)
    for name, had in zip(("states", "outputs", "noises"), kept, strict=True):
        if len(getattr(row, name)) > had:
            raise PlanError(
                f"row {index}, rewritten by a controller, uses {len(getattr(row, name))} {name}",
                f"at most {had}: what the planned rows keep",
                "rewrite it with a shorter history",
            )
    if row.time is None or row.network_time is not None:
        return row
    return dataclasses.replace(row, network_time=denoiser.network_time(row.time))


def _completed(plan: Plan, row: Row, ran: Sequence[Row]) -> Row:
    """Return a controller's row with the coefficient on the anchor that the times of the rows before it ask."""
    asked = [one.time for one in (*ran, row) if one.time is not None]
    return anchored(plan.path, plan.basis, row, [*(one.next_time for one in reversed(ran)), plan.start], asked[::-1])


def _ask(
    denoiser: AbstractDenoiser,
    x: Tensor,
    row: Row,
    condition: Mapping[str, Tensor],
    gradient: Gradient,
    carried: Mapping[str, Tensor],
) -> Prediction:
    t: Any = row.time
    knobs = {**row.knobs, CARRIED: carried} if carried else row.knobs
    if gradient != "checkpoint":
        return denoiser.predict(x, t, condition, knobs, row.network_time)
    kept: list[Prediction] = []

    def evaluate(x: Tensor) -> Tensor:
        kept.append(denoiser.predict(x, t, condition, knobs, row.network_time))
        return kept[-1].value

    value = checkpoint(evaluate, x, use_reentrant=False)
    return dataclasses.replace(kept[0], x_t=x, value=value, parts={}, exponents={})


def _refuse_non_finite(x_next: Tensor, x: Tensor, index: int, row: Row) -> None:
    bad = (~torch.isfinite(x_next)).flatten(1).any(1)
    if bad.any():
        kept = x.detach().double()
        statistics = f"mean {kept.mean():.4g}, std {kept.std():.4g}, min {kept.min():.4g}, max {kept.max():.4g}"
        raise NonFinite(index, row.time, bad.nonzero().flatten().tolist(), statistics)


def _check(
    plan: Plan,
    denoiser: AbstractDenoiser,
    noise: Source | None,
    controllers: Sequence[Controller],
    memory: Memory | None,
    gradient: str,
) -> None:
    if plan.stochastic and noise is None:
        raise PlanError(
            f"the stochastic plan {plan.recipe} without noise", "a source of noise", "noise=Noise.first(n, seed)"
        )
    if plan.stochastic and any(getattr(c, "takes_back", False) for c in controllers):
        check_one_path(noise, plan.recipe)
    if plan.history and memory is None:
        raise PlanError(
            f"a plan that needs {plan.history} earlier predictions, without them",
            "memory= of the run it continues",
            "steps(plan[k:], denoiser, state=state), or plan.from_noise(sigma) for a plan that starts by itself",
        )
    if gradient not in ("none", "unroll", "checkpoint"):
        raise BadValue(f"gradient={gradient!r}", "'none', 'unroll', 'checkpoint'", "gradient='none'")
    parts = [denoiser.consumes, *(c.consumes for c in controllers)]
    for knob in sorted({knob for row in plan.rows for knob in row.knobs}):
        takers = sum(knob in part for part in parts)
        if takers != 1:
            raise PlanError(
                f"knob {knob!r} of {plan.recipe}, consumed by {takers} parts of this run",
                "each knob is consumed by exactly one transform or controller",
                f"add the part that obeys {knob!r}, or remove the knob from the rows",
            )
