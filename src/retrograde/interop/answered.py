"""A run whose network somebody else asks: the loop inside out, for frameworks that own the loop and call a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping
from typing import Any, Protocol, final

from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import PlanError
from retrograde.noise import Source
from retrograde.paths import Flow, Path, VPDiscrete
from retrograde.plan import Plan, Row
from retrograde.run import Back, State, run


class Told(Protocol):
    """From a path time to what the network is told there."""

    def __call__(self, t: float, /) -> float: ...


def told_on(path: Path, steps: int, whole: bool = False) -> Told:
    """Return what networks of a path with so many trained steps are told: the index of the step, or `steps` t on a flow.

    Args:
        whole: rounded down on a flow, as some schedulers tell it.

    Raises:
        PlanError: another path; the rows of its plans have to say it themselves.
    """
    if isinstance(path, VPDiscrete):
        n = len(path.alphas_cumprod)
        return lambda t: float(min(max(round(t * n), 1), n) - 1)
    if isinstance(path, Flow):
        return (lambda t: float(int(steps * t + 1e-4))) if whole else (lambda t: steps * t)
    raise PlanError(
        f"a plan on path {path.fingerprint} whose rows do not say what the network is told",
        "plans on a discrete or a flow path, or bound to a denoiser",
        "plan.bind(denoiser)",
    )


def check_answerable(plan: Plan) -> None:
    """Refuse a plan that asks for more than one answer of the network per step.

    Raises:
        PlanError: rows with knobs, corrections told conditions, an anchor, history of another run, noise that is not
            Gaussian, or a first row that moves the state before the network is asked; the message names the line that runs
            such a plan.
    """
    denoiser = "rg.Denoiser(network, plan.path, predicts, shape, conditions)"
    loop = f"rg.sample({denoiser}, plan"
    knobs = sorted({knob for row in plan.rows for knob in row.knobs})
    if knobs:
        raise PlanError(
            f"a plan whose rows ask for {', '.join(knobs)}",
            "rows without knobs: a scheduler sees one prediction per step, after guidance is combined",
            f"run it here: rg.sample(rg.guide.cfg({denoiser}, weight), plan)",
        )
    told = sorted({name for row in plan.rows if row.correction is not None for name in row.correction.conditions})
    if told:
        raise PlanError(
            f"a plan whose corrections are told {', '.join(told)}",
            "corrections of state and predictions alone: a scheduler is not told the conditions",
            f"run it here: {loop}, condition=...)",
        )
    if plan.path.anchored or plan.path.degrees != float("inf"):
        raise PlanError(
            f"a plan on path {plan.path.name}",
            "paths from Gaussian noise to data: a pipeline draws the start itself and hands over no anchor",
            f"run it here: {loop}, anchor=y)" if plan.path.anchored else f"run it here: {loop})",
        )
    if plan.history:
        raise PlanError(
            f"a plan that needs {plan.history} earlier predictions", "a plan that starts by itself", "plan.from_noise(sigma)"
        )
    if plan.rows[0].time is None:
        raise PlanError(
            "a plan whose first row moves the state before the network is asked",
            "plans that begin with an evaluation: a pipeline asks the network first",
            f"run it here: {loop})",
        )


@final
class Answered(AbstractDenoiser):
    """A denoiser that hands on the answer it was given: `answer`, to be set before each question."""

    def __init__(self, path: Path, predicts: str, shape: tuple[int, ...]) -> None:
        self.path, self.predicts, self.shape = path, predicts, shape
        self.conditions: Mapping[str, Any] = {}
        self.consumes: frozenset[str] = frozenset()
        self.name = "network"
        self.answer: Tensor | None = None

    def network_time(self, t: float) -> float:
        return t

    def snap(self, t: float) -> float:
        return t

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        answer, self.answer = self.answer, None
        if answer is None:
            raise PlanError("a row that asks the network twice", "one answer per row", "remove the part that asks again")
        return Prediction(x_t, t, self.path, answer, self.predicts, evaluations={self.name: 1})


@final
class _Replaced:
    """A controller that goes on from a state which the framework put in place of the run's own."""

    consumes: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.state: Tensor | None = None

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...] | Back:
        given, self.state = self.state, None
        if given is None or state is None:
            return remaining
        memory = dataclasses.replace(state.memory, states=(given, *state.memory.states[1:]))
        return Back(dataclasses.replace(state, x_t=given, memory=memory), remaining)

    def correct(self, state: State) -> Tensor:
        return state.x_t


@final
class AnsweredRun:
    """One run of a plan, driven from outside: `step` takes what the network said and returns the next state to ask at.

    Rows that do not ask run with the row before them. The loop is that of `run`; this object is the memory of one call.
    """

    def __init__(self, plan: Plan, predicts: str, noise: Source | None = None) -> None:
        self.plan = plan
        self._predicts, self._noise = predicts, noise
        self._replaced = _Replaced()
        self._denoiser: Answered | None = None
        self._loop: Generator[State, None, Plan] | None = None
        self._rows = _rows_per_answer(plan)
        self.answered = 0

    @property
    def finished(self) -> bool:
        """Whether the plan has ended."""
        return self.answered == len(self._rows)

    def step(self, answer: Tensor, replaced: Tensor | None = None) -> State:
        """Run the row that asked, and those up to the next question.

        Args:
            answer: what the network said of the current state, in its own parameterization [batch, *shape].
            replaced: the state it said it of, where that is not the run's own (always for the first step).
        """
        if self._loop is None or self._denoiser is None:
            if replaced is None:
                raise PlanError("a first step without a state", "the initial state", "step(answer, x)")
            self._denoiser = Answered(self.plan.path, self._predicts, tuple(replaced.shape[1:]))
            self._loop = run(self.plan, self._denoiser, replaced, noise=self._noise, controllers=[self._replaced])
        else:
            self._replaced.state = replaced
        self._denoiser.answer = answer
        for _ in range(self._rows[self.answered] - 1):
            next(self._loop)
        state = next(self._loop)
        self.answered += 1
        if self.finished:
            next(self._loop, None)
        return state


def _rows_per_answer(plan: Plan) -> list[int]:
    counts: list[int] = []
    for row in plan.rows:
        if row.time is None:
            counts[-1] += 1
        else:
            counts.append(1)
    return counts
