"""The table: a sampler is data.

A row makes the next state from the last few states and predictions,

    x_next = sum_i states[i] x_{-i} + sum_j outputs[j] m_{-j} + sum_k noises[k] eps_{-k} + anchor y + shift
             + correction(x_0, m_0, ...),

newest first, m in the plan's basis. A plan is an immutable list of rows, made for a path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, cast, overload

import torch
from torch import Tensor

from retrograde import laws
from retrograde.correction import Correction
from retrograde.denoisers.prediction import KINDS, combination, conversion, readings
from retrograde.errors import BadValue, PlanError, UnknownName
from retrograde.linear import Coefficient, LinearMap
from retrograde.paths import Path, checked

BASES = ("data", "noise", "velocity", "data+noise")


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """One step of a plan.

    Attributes:
        time: path time at which the network is asked; None in a row that only moves the state.
        next_time: path time of the state this row makes; None for the data itself (the end).
        states: coefficients on the last states, newest first.
        outputs: coefficients on the last predictions, newest first, this row's own included.
        noises: coefficients on noise draws, newest first; a row with any draws afresh, for its first.
        shift: a constant added to the made state, for rows that carry what is known of the data without asking (its mean).
        anchor: coefficient on the anchor y of an anchored path; left None, the plan fills in the one that keeps x_t - b y
            a state of the path without anchor (see `anchored`).
        network_time: what the network is told; None until the plan is bound to a denoiser.
        knobs: requests to other parts for this row (guidance weight, ...), each consumed by exactly one part.
        correction: a small network of the newest state and predictions, for what is not linear in them (fitted plans).
        renoise: declares that the made state may be noisier than the one before.
    """

    time: float | None
    next_time: float | None
    states: tuple[Coefficient, ...] = (1.0,)
    outputs: tuple[Coefficient, ...] = ()
    noises: tuple[Coefficient, ...] = ()
    network_time: float | None = None
    knobs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    renoise: bool = False
    shift: Tensor | None = None
    anchor: Coefficient | None = None
    correction: Correction | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self))

    __hash__ = None  # type: ignore[assignment]

    def told(self, network_time: float) -> Row:
        """Return the row with what the network is told; a run does this to every row, so it costs little."""
        copy = object.__new__(Row)
        copy.__dict__.update(self.__dict__, network_time=network_time)
        return copy


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """An immutable table of rows, made for a path. Construction checks the laws (see `retrograde.laws`).

    Attributes:
        path: the path its times and coefficients belong to.
        rows: the table.
        basis: parameterization of the predictions in the combination: "data", "noise" or "velocity"; "data+noise" reads both
            off each evaluation, data newest, for networks that answer with two quantities.
        recipe: who wrote the table, with version, for instance "dpmpp_2m@1".
        start: path time of the initial state.
        misses: laws that the method only approximates.
        history: number of earlier states and predictions the caller must hand over (a plan cut from a longer one).
        provenance: how the table was made: options, grid, the tuner's settings.
        report: what is known of its quality (held-out figures of the tuner); not part of equality.

    Raises:
        PlanError: a row breaks a law; the message names both.
    """

    path: Path
    rows: tuple[Row, ...]
    basis: str = "data"
    recipe: str = "custom@1"
    start: float | None = None
    misses: tuple[str, ...] = ()
    history: int = 0
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    report: Any = None

    def __post_init__(self) -> None:
        checked(self.path)
        object.__setattr__(self, "rows", tuple(self.rows))
        if self.basis not in BASES:
            raise UnknownName("basis", self.basis, BASES)
        if not self.rows:
            raise PlanError("a plan without rows", "at least one row", "ask for nfe >= 1")
        if self.start is None:
            first = self.rows[0].time
            if first is None:
                raise PlanError("a plan that does not begin with an evaluation and has no start", "start=time", "pass start")
            object.__setattr__(self, "start", first)
        if self.path.anchored:
            object.__setattr__(self, "rows", _anchored(self))
        laws.check(self)

    @property
    def nfe(self) -> int:
        """Number of network evaluations per item and branch."""
        return sum(row.time is not None for row in self.rows)

    @property
    def stochastic(self) -> bool:
        """Whether any row draws noise."""
        return any(row.noises for row in self.rows)

    @property
    def times(self) -> tuple[float, ...]:
        """Path times at which the network is asked."""
        return tuple(row.time for row in self.rows if row.time is not None)

    @property
    def depth(self) -> tuple[int, int, int]:
        """Longest history of states, outputs and noises any row uses."""
        states, outputs, noises = (max(len(getattr(r, f)) for r in self.rows) for f in ("states", "outputs", "noises"))
        return max(states, 1), max(outputs, 1), max(noises, 1)

    def __len__(self) -> int:
        return len(self.rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        fields = ("path", "basis", "start", "history", "rows")
        return all(_same(getattr(self, f), getattr(other, f)) for f in fields)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, key: int) -> Row: ...

    @overload
    def __getitem__(self, key: slice) -> Plan: ...

    def __getitem__(self, key: int | slice) -> Row | Plan:
        """Return a row, or the plan of some rows; one cut from the middle needs the history it reaches back to."""
        if isinstance(key, int):
            return self.rows[key]
        first, stop, step = key.indices(len(self.rows))
        if step != 1:
            raise BadValue(f"a step of {step} in plan[{first}:{stop}:{step}]", "consecutive rows", "make a coarser plan")
        return self._cut(first, self.rows[first:stop])

    def _cut(self, first: int, rows: tuple[Row, ...]) -> Plan:
        start = self.start if first == 0 else self.rows[first - 1].next_time
        history = _reach(rows, len(readings(self.basis))) if first else self.history
        return dataclasses.replace(self, rows=rows, start=start, history=history, report=None)

    def from_noise(self, sigma: float) -> Plan:
        """Return the plan that starts at the first of its levels not above `sigma`.

        A multistep row that would reach before the start uses its oldest available prediction instead, and puts a state
        before the start where its own state and prediction, followed straight back, would have been. So the cut plan
        keeps the point-mass law and starts at order one.

        Raises:
            BadValue: no level of the plan is at or below sigma.
        """
        for k, row in enumerate(self.rows):
            if row.time is None or self.path.sigma(row.time) > sigma * (1 + 1e-9):
                continue
            rows = tuple(_restated(self, k, row) for row in range(k, len(self.rows)))
            if k + 1 < len(self.rows) and row.next_time == row.time and self.rows[k + 1].time is None:
                # a corrector: here is no earlier state to correct, but its prediction serves the step that follows
                rows = (dataclasses.replace(row, states=(1.0,), outputs=(0.0,), anchor=None), *rows[1:])
            if all(len(r.states) <= i + 1 for i, r in enumerate(rows)):
                return dataclasses.replace(self, rows=_fold(rows, self.basis), start=row.time, history=0, report=None)
        levels = [self.path.sigma(t) for t in self.times]
        raise BadValue(
            f"sigma={sigma:g}", f"a level of the plan: {levels[-1]:.4g} <= sigma", f"from_noise({levels[-1]:.4g})"
        )

    def bind(self, denoiser: Any) -> Plan:
        """Return the plan with what the network is told written into every row.

        Raises:
            PlanError: the plan was made for another path than the denoiser's.
        """
        if self.path != denoiser.path:
            raise PlanError(
                f"a plan for path {self.path.fingerprint} used with a denoiser of path {denoiser.path.fingerprint}",
                "plan and denoiser on one path",
                "run it with retrograde.denoisers.on_path(denoiser, plan.path)",
            )
        rows = tuple(
            row.told(denoiser.network_time(row.time)) if row.time is not None and row.network_time is None else row
            for row in self.rows
        )
        bound = object.__new__(Plan)  # the same table: its laws were checked when it was made
        for field in dataclasses.fields(self):
            object.__setattr__(bound, field.name, rows if field.name == "rows" else getattr(self, field.name))
        return bound

    def save(self, file: str | PathLike[str]) -> None:
        """Write the plan as JSON (its tensors as safetensors beside it), atomically."""
        from retrograde import plan_file

        plan_file.save(self, file)

    @staticmethod
    def load(file: str | PathLike[str]) -> Plan:
        """Read a plan written by `save`, of this or an older version."""
        from retrograde import plan_file

        return plan_file.load(file)

    def __str__(self) -> str:
        from retrograde import plan_file

        return plan_file.text(self)


def anchored(path: Path, basis: str, row: Row, states: Sequence[float | None], asked: Sequence[float | None]) -> Row:
    """Return a row with the anchor's coefficient that the shift by b(t) y asks of it.

    States hold b(t) y, predictions r(t) y (r = b' for the velocity, 0 for data and noise), and the made state shall hold
    b(next) y: the coefficient is b(next) - sum_i states[i] b_{-i} - sum_j outputs[j] r_{-j}.

    Args:
        states: path times of the last states, newest first; None for the data itself.
        asked: path times of the last predictions, newest first, this row's own included.

    Raises:
        PlanError: a linear map among coefficients of what holds the anchor.
    """
    held = 0.0 if row.next_time is None else path.b(row.next_time)
    terms = [(c, 0.0 if t is None else path.b(t)) for c, t in zip(row.states, states, strict=False)]
    made = [(t, kind) for t in asked for kind in readings(basis)]
    terms += [(c, 0.0 if t is None else combination(path, t, k)[2]) for c, (t, k) in zip(row.outputs, made, strict=False)]
    total: float | Tensor = held
    for coefficient, share in terms:
        if isinstance(coefficient, LinearMap):
            if share != 0.0:
                raise PlanError(
                    "a row that maps a state which holds the anchor", "numbers or tensors there", "map x_t - b(t) y instead"
                )
            continue
        total = total - coefficient * share
    return dataclasses.replace(row, anchor=total)


def _anchored(plan: Plan) -> tuple[Row, ...]:
    """The plan's rows, each with its coefficient on the anchor; rows that reach before the plan have theirs already."""
    states: list[float | None] = [plan.start]
    asked: list[float | None] = []
    rows = []
    for row in plan.rows:
        if row.time is not None:
            asked.insert(0, row.time)
        made = len(asked) * len(readings(plan.basis))
        if row.anchor is None and len(row.states) <= len(states) and len(row.outputs) <= made:
            row = anchored(plan.path, plan.basis, row, states, asked)
        rows.append(row)
        states.insert(0, row.next_time)
    return tuple(rows)


def _reach(rows: Sequence[Row], each: int) -> int:
    """Number of earlier states, outputs (`each` evaluation makes so many) or noises that cut rows reach back to."""
    reach = seen = drawn = 0
    for i, row in enumerate(rows):
        seen += each * (row.time is not None)
        drawn += bool(row.noises)
        reach = max(reach, len(row.states) - 1 - i, len(row.outputs) - seen, len(row.noises) - drawn)
    return reach


def _restated(plan: Plan, start: int, k: int) -> Row:
    """Row k of a plan cut at row `start`, with states from before the start read off the state and prediction it has."""
    row, had = plan.rows[k], k - start + 1
    beyond = cast(tuple[float, ...], row.states[had:])
    numbers = all(isinstance(c, float) for c in row.states) and plan.basis in KINDS
    if not beyond or row.time is None or not numbers or row.states[0] == 0.0:
        return row  # a row that does not go on from its own state is an inner stage, and is lost
    states: list[Any] = list(row.states[:had])
    outputs: list[Any] = list(row.outputs)
    to_data = conversion(plan.path, row.time, plan.basis, "data")
    to_noise = conversion(plan.path, row.time, plan.basis, "noise")
    for j, coefficient in enumerate(beyond, start=had):
        time = cast(float, plan.rows[k - j - 1].next_time if k > j else plan.start)
        a, s = coefficient * plan.path.a(time), coefficient * plan.path.s(time)
        states[0] = states[0] + a * to_data[0] + s * to_noise[0]
        outputs[0] = outputs[0] + a * to_data[1] + s * to_noise[1]
    return dataclasses.replace(row, states=tuple(states), outputs=tuple(outputs), anchor=None)


def _fold(rows: Sequence[Row], basis: str) -> tuple[Row, ...]:
    folded, seen = [], 0
    for row in rows:
        seen += row.time is not None
        outputs = row.outputs
        if len(outputs) > seen and basis in KINDS:
            oldest = sum(cast(tuple[float, ...], outputs[seen - 1 :]))
            row = dataclasses.replace(row, outputs=(*outputs[: seen - 1], oldest), anchor=None)
        if row.correction is not None and row.correction.inputs - 1 > seen:
            row = dataclasses.replace(row, correction=None)
        folded.append(row)
    return tuple(folded)
