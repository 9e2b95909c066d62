"""Adaptive steps: an embedded pair proposes, the difference of its two methods decides, the run returns what stood."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast, final

import torch
from torch import Tensor

from retrograde import grids, laws, systems
from retrograde.controllers.pairs import Pair, Step, asking, get
from retrograde.controllers.step_size import StepSize
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadType, BadValue, PlanError, RetrogradeError
from retrograde.linear import combine
from retrograde.paths import Path
from retrograde.plan import Plan, Row
from retrograde.recipes.recipe import end_row, level
from retrograde.run import Back, Controller, State


class Stalled(RetrogradeError, ArithmeticError):
    """An adaptive run whose steps became too many or too short."""


@final
@dataclasses.dataclass(frozen=True)
class Adaptive:
    """The settings of an adaptive run (see `adaptive`), and the plan to run it on: one step over the whole range.

    Attributes:
        plan: what to hand to the run; the controller refines its step.
        pair: what proposes steps.
        rtol, atol: tolerances.
        h_init: first step, in the clock of the pair.
        step_size: the rule that accepts and proposes.
        most: steps tried at most.
    """

    plan: Plan
    pair: Pair
    rtol: float
    atol: float
    h_init: float
    step_size: StepSize
    most: int

    def begin(self) -> Controller:
        """Return the controller of one run."""
        return _Stepper(self)


def adaptive(
    path: Path | AbstractDenoiser,
    pair: str = "dpm_23",
    *,
    rtol: float | None = None,
    atol: float | None = None,
    h_init: float | None = None,
    step_size: StepSize = StepSize(),
    start: float | None = None,
    end: float | None = None,
    most: int = 10_000,
) -> Adaptive:
    """Return the controller whose steps are as long as the tolerance allows, for the whole batch together.

    It runs on its own plan, `record(denoiser, it.plan, n=4, controllers=[it])`. The error of an item is sqrt(mean(
    (difference/max(atol, rtol max(|x|, |x_before|)))^2)), with x and x_before the states of the pair's other method now and
    one step ago; a step stands if the largest error of the batch passes `step_size`. So an item's steps depend on its
    batch, unlike everything else a run does.

    The plan of the recording holds the steps that stood. A rejected one is no part of it: its rows touched no state that
    was kept, so that replaying the plan gives the same samples, bit by bit. The ledger counts what the rejected steps cost;
    the prediction a step begins with is not asked for again. A stochastic pair needs `noise=Brownian`: of that path a
    shorter step sees a part of what the rejected one has seen, so that rejecting does not choose the noise.

    Judging an error reads a number off the device: one wait per step.

    Args:
        pair: one of `controllers.names()`.
        rtol, atol: tolerances, relative and absolute; the pair's own by default.
        h_init: first step, in the clock of the pair: 0.05 in log-SNR, by default, and a hundredth of the range elsewhere.
        step_size: the rule that accepts and proposes.
        start, end: noise levels s/a between which it steps; the ends of the path by default.
        most: steps tried at most.

    Raises:
        UnknownName: no such pair.
        BadValue: tolerances or steps that are not positive.
        PlanError: by the run, where a stochastic pair draws noise that is not of one path.

    References: Lu et al., DPM-Solver, 2022, arXiv 2206.00927 (DPM-Solver-12 and -23); Song et al., 2020, arXiv 2011.13456
    (the probability flow by an adaptive Runge-Kutta method).
    """
    chosen = get(pair)
    path = path.path if isinstance(path, AbstractDenoiser) else path
    if not isinstance(path, Path):
        raise BadType(f"path={path!r}", "a path or a denoiser", "adaptive(denoiser, 'dpm_23')")
    if not isinstance(step_size, StepSize):
        raise BadType(f"step_size={step_size!r}", "a rule of step sizes", "step_size=StepSize(accept=0.9)")
    rtol, atol = (own if given is None else given for given, own in ((rtol, chosen.rtol), (atol, chosen.atol)))
    plan = _plan(path, chosen, start, end, {"pair": pair, "rtol": rtol, "atol": atol})
    if h_init is None:
        span = chosen.at(path, plan.times[-1]) - chosen.at(path, plan.times[0])
        h_init = 0.05 if chosen.clock == "log_snr" else 0.01 * span
    if not (rtol >= 0.0 and atol > 0.0 and h_init > 0.0 and most >= 1):
        given = f"rtol={rtol}, atol={atol}, h_init={h_init}, most={most}"
        raise BadValue(given, "rtol >= 0, atol > 0, h_init > 0, most >= 1", f"rtol={chosen.rtol}, atol={chosen.atol}")
    return Adaptive(plan, chosen, rtol, atol, h_init, step_size, most)


def _plan(path: Path, pair: Pair, start: float | None, end: float | None, provenance: dict[str, Any]) -> Plan:
    """Return one step of the pair over the whole range."""
    low, high = grids.levels(path, end, start)
    first = path.t_max if start is None else path.time_of_sigma(high)
    last = path.t_min if end is None else path.time_of_sigma(low)
    if path.a(first) == 0.0 and pair.clock != "time":
        first = path.time_of_sigma(high)  # without signal the clock is not finite: start just below
    step = pair.write(path, level(path, first), level(path, last))
    tail = () if pair.reuses else (asking(last),)
    # one step over everything is no sampler: without the controller that refines it, a run is refused
    opening = dataclasses.replace(asking(first), knobs={"adaptive": pair.name})
    rows = (opening, *step.rows, *tail, _closing(path, last, pair.basis))
    fields = {"basis": pair.basis, "recipe": f"adaptive_{pair.name}@1", "start": first, "provenance": provenance}
    try:
        return Plan(path, rows, **fields)
    except PlanError as error:
        if laws.POINT_MASS not in error.given:
            raise
    return Plan(path, rows, misses=(laws.POINT_MASS,), **fields)


def _closing(path: Path, t: float, basis: str) -> Row:
    """Return the last row where the network has been asked at t already."""
    return dataclasses.replace(end_row(path, t, basis), time=None)


@dataclasses.dataclass(frozen=True)
class _Tried:
    """A step under trial: the state it left, the length of the step in the pair's clock, and its table."""

    base: State
    h: float
    step: Step


@final
class _Stepper:
    """One adaptive run: how long the next step is, the errors it has seen, the step it is trying."""

    consumes: frozenset[str] = frozenset({"adaptive"})
    takes_back = True

    def __init__(self, own: Adaptive) -> None:
        self._own = own
        self._last = own.plan.times[-1]
        self._end = (own.plan.rows[-1],)
        self._h = own.h_init
        self._tried: _Tried | None = None
        self._errors: tuple[float, float] | None = None
        self._before: Tensor | None = None
        self._count = 0

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...] | Back:
        """Leave the rows of a step alone; between steps judge the last and propose the next."""
        if state is None:
            if list(map(_table, remaining)) != list(map(_table, self._own.plan.rows)):
                given, allowed = "a plan that is not the controller's own", "its plan, which its steps refine"
                raise PlanError(given, allowed, "record(denoiser, it.plan, controllers=[it])")
            return (dataclasses.replace(remaining[0], knobs={}), *self._end)
        if len(remaining) != 1 or state.t is None:
            return remaining
        return self._go_on(state) if self._tried is None else self._judged(state, self._tried)

    def correct(self, state: State) -> Tensor:
        """Leave the state as it is."""
        return state.x_t

    def _go_on(self, base: State) -> tuple[Row, ...]:
        """Propose a step from a state at which the network has been asked; the end where there is none to take."""
        if base.t == self._last:
            self._tried = None
            return self._end
        path, pair, t = self._own.plan.path, self._own.pair, cast(float, base.t)
        here, goal = pair.at(path, t), pair.at(path, self._last)
        # what would be left over at the end is taken along: a sliver of a step costs as much as a step
        final = here + self._h >= goal - 1e-5 * (goal - here)
        t_next = self._last if final else pair.time(path, here + self._h)
        self._count += 1
        if self._count > self._own.most or not t_next < t:
            given = f"{self._count - 1} steps tried, the next of {self._h:.3g} in {pair.clock} from time {t:.6g}"
            allowed = f"at most {self._own.most} steps, none too short to be told apart"
            raise Stalled(given, allowed, "a larger rtol or atol, or the state in float64")
        step = pair.write(path, level(path, t), level(path, t_next))
        self._tried = _Tried(base, goal - here if final else self._h, step)
        return (*step.rows, *self._end)

    def _judged(self, state: State, tried: _Tried) -> tuple[Row, ...] | Back:
        """Keep the step or take it back; the length of the next follows from its error."""
        difference = combine(zip(tried.step.difference, state.memory.outputs, strict=False))
        other = state.x_t - difference
        before = tried.base.x_t if self._before is None else self._before
        size = torch.maximum(other.abs(), before.abs()).mul_(self._own.rtol).clamp_(min=self._own.atol)
        error = math.sqrt(float((difference / size).square().flatten(1).mean(1).max()))
        past = (error, error) if self._errors is None else self._errors
        stands, factor = self._own.step_size.judge(error, past, self._own.pair.q)
        self._h, self._errors = tried.h * factor, past
        if not stands:
            return Back(tried.base, self._go_on(tried.base))
        self._errors, self._before, self._tried = (error, past[0]), other, None
        return self._go_on(state) if self._own.pair.reuses else (asking(cast(float, state.t)), *self._end)


def _table(row: Row) -> tuple[Any, ...]:
    return row.time, row.next_time, row.states, row.outputs, row.noises


def _cite(title: str, authors: tuple[str, ...], year: int, arxiv: str, pair: str, test: str) -> None:
    test = f"tests/controllers/test_embedded.py::{test}"
    call = f"rg.controllers.adaptive(path, {pair!r})"
    systems.register(systems.System(title, authors, year, "solvers", call, test, arxiv))


_cite(
    "DPM-Solver: A Fast ODE Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
    ("Cheng Lu", "Yuhao Zhou", "Fan Bao", "Jianfei Chen", "Chongxuan Li", "Jun Zhu"),
    2022,
    "2206.00927",
    "dpm_23",
    "test_dpm_adaptive_is_the_published_loop",
)
_cite(
    "Score-Based Generative Modeling through Stochastic Differential Equations",
    ("Yang Song", "Jascha Sohl-Dickstein", "Diederik P. Kingma", "Abhishek Kumar", "Stefano Ermon", "Ben Poole"),
    2020,
    "2011.13456",
    "dp_54_time",
    "test_the_probability_flow_ends_where_an_independent_integrator_ends",
)
