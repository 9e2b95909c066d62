"""What a run holds after each row, and the three seams that read it.

The state of a run lives in the call: everything here is made by the loop and handed out, nothing is kept in an object of
the user's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from retrograde.denoisers import Prediction
from retrograde.denoisers.prediction import Reading
from retrograde.noise import Source
from retrograde.plan import Plan, Row


@dataclasses.dataclass
class Ledger:
    """What a run has cost so far.

    Attributes:
        evaluations: network evaluations per item, by network and branch.
        rows: rows executed.
        seconds: time spent inside the denoiser.
        verdicts: answers of what judges and is no denoiser (potentials, verifiers), per item, a mean where items differ;
            `nfe` does not hold them.
    """

    evaluations: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0
    verdicts: float = 0

    @property
    def nfe(self) -> float:
        """Network evaluations per item, over all networks and branches; a mean where items differ."""
        return sum(self.evaluations.values())

    def count(self, evaluations: Mapping[str, float], seconds: float) -> None:
        """Add the evaluations of a row, and the time they took."""
        for label, number in evaluations.items():
            self.evaluations[label] = self.evaluations.get(label, 0) + number
        self.seconds += seconds


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """The past a multistep row looks at, newest first: states, predictions in the plan's basis, noise draws.

    A prediction that only needs weighing is kept as what it is read off (`Reading`); `outputs` makes tensors of all.
    `visits` counts the draws on each interval, so that a continued run goes on with fresh noise where it comes back.
    `carried` is what transforms and particles remember from one row to the next (a momentum, log-weights), by name, each
    with one entry per item.
    """

    states: tuple[Tensor, ...]
    kept: tuple[Tensor | Reading, ...] = ()
    noises: tuple[Tensor, ...] = ()
    visits: Mapping[tuple[float, float], int] = dataclasses.field(default_factory=dict)
    carried: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The predictions in the plan's basis, newest first, each [batch, *shape]."""
        return tuple(one.made if isinstance(one, Reading) else one for one in self.kept)

    def of(self, places: Tensor | list[int]) -> Memory:
        """Return the past of the items at these places of the batch, in this order."""
        moved: dict[int, Tensor] = {}  # a tensor that is kept twice stays one

        def at(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = tensor[places]
            return moved[id(tensor)]

        states, noises = (tuple(at(t) for t in part) for part in (self.states, self.noises))
        kept = tuple(
            Reading(one.c_x, at(one.x_t), one.c_value, at(one.value)) if isinstance(one, Reading) else at(one)
            for one in self.kept
        )
        carried = {name: tensor[places] for name, tensor in self.carried.items()}
        return Memory(states, kept, noises, self.visits, carried)

    def beside(self, other: Memory) -> Memory:
        """Return the past of these items and, after them, of those of another run that is as far with the same rows."""
        joined: dict[tuple[int, int], Tensor] = {}  # a tensor that is kept twice stays one

        def both(one: Tensor, two: Tensor) -> Tensor:
            if (id(one), id(two)) not in joined:
                joined[id(one), id(two)] = torch.cat([one, two])
            return joined[id(one), id(two)]

        states, noises = (tuple(map(both, *parts)) for parts in ((self.states, other.states), (self.noises, other.noises)))
        kept = tuple(
            Reading(one.c_x, both(one.x_t, two.x_t), one.c_value, both(one.value, two.value))
            if isinstance(one, Reading) and isinstance(two, Reading)
            else both(one.made if isinstance(one, Reading) else one, two.made if isinstance(two, Reading) else two)
            for one, two in zip(self.kept, other.kept, strict=True)
        )
        carried = {name: both(tensor, other.carried[name]) for name, tensor in self.carried.items()}
        return Memory(states, kept, noises, self.visits, carried)


@dataclasses.dataclass(frozen=True, eq=False)
class State:
    """What a run yields after each row.

    Attributes:
        x_t: the state the row made, [batch, *shape].
        t: its path time; None for the data.
        row: the row that ran.
        index: its number in the run.
        prediction: the newest prediction (None before the first).
        ledger: the cost so far (the same object during the whole run).
        memory: the history, enough to continue with plan[index + 1:].
        ancestors: where particles were resampled after this row, the place of each one's ancestor, [batch].
        plan: the plan that the run was given.
    """

    x_t: Tensor
    t: float | None
    row: Row
    index: int
    prediction: Prediction | None
    ledger: Ledger
    memory: Memory
    ancestors: Tensor | None = None
    plan: Plan | None = None

    @property
    def mean(self) -> Tensor:
        """Mean of the data given the state the network last saw: a preview of the sample."""
        return self.x_t if self.prediction is None else self.prediction.data


@dataclasses.dataclass(frozen=True, eq=False)
class Back:
    """A controller's answer that takes rows back: the run goes on from `state`, an earlier one of it, with `rows`.

    What ran since then is struck from the plan that ran, and stays in the ledger: it has been paid.
    """

    state: State
    rows: tuple[Row, ...]


class Controller(Protocol):
    """Decides while running; one with `takes_back = True` runs a stochastic plan on noise of one Brownian path only."""

    consumes: frozenset[str]

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...] | Back:
        """Return the rows still to run, given those planned; `state` is the last one, None before the first row."""
        ...

    def correct(self, state: State) -> Tensor:
        """Return the state to go on with, after a row."""
        ...


@runtime_checkable
class ControllerPerRun(Protocol):
    """Settings of a controller that remembers: every run begins one of its own, so that its memory lives in the call."""

    def begin(self) -> Controller:
        """Return the controller of one run."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Resampled:
    """An answer of particles.

    Attributes:
        ancestors: for each place of the batch the place whose particle it goes on with, [batch]; None to keep all.
        carried: what the particles remember until the next row (their log-weights), by name, each [batch, ...]: as it is
            after the resampling.
    """

    ancestors: Tensor | None = None
    carried: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


class Particles(Protocol):
    """Weighs and resamples the batch between rows."""

    def resample(self, state: State, noise: Source | None) -> Resampled | None:
        """Return who goes on after a row, or None where nothing changes; `noise` is what the run draws from."""
        ...
