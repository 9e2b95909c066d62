"""The closed-form, on-policy fit of a multistep table.

Given the levels, the coefficients of each row solve a small ridge regression of the reference state on what the student has
at that point: its own state and its own predictions, produced by the rows already fitted. The regression is pulled towards
the coefficients of theory, so that nothing to learn means nothing changed.

Prior art: OLSS (Duan et al., 2023, arXiv 2305.14677) solves least squares on the reference's own states (teacher-forced)
without regularization; S4S (2502.17423) and GS (2510.17699) descend on the same coefficients by back-propagation.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from retrograde import laws
from retrograde.denoisers import AbstractDenoiser
from retrograde.denoisers.carried import CARRIED
from retrograde.grids import levels as levels_within
from retrograde.linear import LinearMap
from retrograde.plan import Plan, Row
from retrograde.recipes import get
from retrograde.recipes.teleport import Moments, carry
from retrograde.tune.correct import Lesson, apply, learn
from retrograde.tune.families import per_band, per_element
from retrograde.tune.teacher import Teacher


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A student on its way: its state, its predictions and earlier states of all items, newest first, and the fitted rows.

    `asked` counts its evaluations, `told` is the time the network was told at the last one where it is not the state's, and
    `carried` what transforms remember of it, batch by batch.
    """

    rows: tuple[Row, ...]
    x: Tensor
    outputs: tuple[Tensor, ...]
    past: tuple[Tensor, ...] = ()
    asked: int = 0
    told: float | None = None
    carried: tuple[Mapping[str, Tensor], ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Fitter:
    """Fits tables of one denoiser to reference trajectories.

    Args:
        teacher: the trajectories to learn from.
        condition: prepared conditions of its items.
        ridge: strength of the pull towards theory, relative to the energy of each regressor.
        memory: how many predictions a row may use.
        past: how many earlier states a row may use.
        rank: how many principal axes of the data the first row may tell apart.
        samples: end points [m, d] of the denoiser, for the moments of its data; the teacher's where left out.
        element: strength of the pull of per-element coefficients towards the scalar ones; None for scalar ones only.
        bands: a coefficient for each of so many bands of spatial frequency; None for scalar ones.
        lesson: how the corrections of rows are learned; None for rows without.
        taught: items that are learned from; None for all. The others only come along, to be measured on.
        batch_size: how many items are asked at once.
        in_scheduler: only rows that ask: the noise is taken for a state of the first level as it is, and corrections are
            told no conditions.
        knobs: what the rows ask of transforms, evaluation by evaluation; nothing after the last.
    """

    denoiser: AbstractDenoiser
    teacher: Teacher
    condition: Mapping[str, Tensor]
    ridge: float = 1e-4
    memory: int = 4
    past: int = 0
    rank: int = 64
    samples: Tensor | None = None
    element: float | None = None
    bands: int | None = None
    lesson: Lesson | None = None
    taught: int | None = None
    batch_size: int = 128
    in_scheduler: bool = False
    knobs: Sequence[Mapping[str, Any]] = ()

    def part(self, n: int) -> Fitter:
        """Return the fitter of the first n trajectories."""
        condition = {name: value[:n] for name, value in self.condition.items()}
        return dataclasses.replace(self, teacher=self.teacher.part(slice(0, n)), condition=condition)

    def start(self, first: int) -> Student:
        """Return the student at the first level: the prior, teleported there if it is not the end."""
        x = self.teacher.states[0]
        if first == 0:
            return Student((), x, ())
        if self.in_scheduler:
            path, times = self.denoiser.path, self.teacher.times
            return Student((), x * (path.s(times[first]) / path.s(times[0])), ())
        row = self.carry(first)
        move, shift = cast(LinearMap, row.states[0]), cast(Tensor, row.shift)
        return self.corrected(Student((row,), move(x) + shift.flatten(), ()), [x], self.teacher.states[first])

    def carry(self, first: int) -> Row:
        """Return the row from the noise end to level `first`, exact for Gaussian data of the trajectories' moments."""
        return carry(self.denoiser.path, self.moments, self.teacher.times[0], self.teacher.times[first])

    @functools.cached_property
    def moments(self) -> Moments:
        """Moments of the end points."""
        samples = self.teacher.end if self.samples is None else self.samples
        return Moments.of(samples.reshape(-1, *self.denoiser.shape), self.rank)

    def ask(self, student: Student, here: int, told: float | None = None) -> Student:
        """Return the student with its prediction at level `here`; the network is told that level, or another time."""
        t = self.teacher.times[here]
        said, items = self.denoiser.network_time(t) if told is None else told, student.x.reshape(-1, *self.denoiser.shape)
        answers, left = [], []
        for k, low in enumerate(range(0, len(items), self.batch_size)):
            part = slice(low, low + self.batch_size)
            condition = {name: value[part] for name, value in self.condition.items()}
            held = {CARRIED: student.carried[k]} if student.carried and student.carried[k] else {}
            with torch.no_grad():
                made = self.denoiser.predict(items[part], t, condition, {**self.asked(student.asked), **held}, said)
            answers.append(made.data.flatten(1))
            left.append(made.carried)
        outputs = (torch.cat(answers), *student.outputs)[: self.memory]
        return dataclasses.replace(student, outputs=outputs, asked=student.asked + 1, told=told, carried=tuple(left))

    def asked(self, number: int) -> Mapping[str, Any]:
        """Return the knobs of an evaluation, counted from 0."""
        return self.knobs[number] if number < len(self.knobs) else {}

    def step(self, student: Student, here: int, there: int | None, theory: Row) -> Student:
        """Fit the row that leads a student, asked at level `here`, to level `there` (None: the data)."""
        teacher, k = self.teacher, len(student.outputs)
        target = teacher.end if there is None else teacher.states[there]
        known = [*cast(tuple[float, ...], theory.outputs), *[0.0] * k]
        # with a shorter memory than theory's, the oldest prediction stands for all before it
        outputs = [*known[: k - 1], sum(known[k - 1 :])]
        regressors = [student.x, *student.outputs, *student.past]
        prior = [*cast(tuple[float, ...], theory.states), *outputs, *[0.0] * len(student.past)]
        few, goal = [z[: self.taught] for z in regressors], target[: self.taught]
        scalar = ridge_towards(prior, few, goal, self.ridge, k)
        x, shape = combine(scalar, regressors), self.denoiser.shape
        weights, shift = [*scalar], None
        if self.element is not None:
            own, shift = per_element(few, goal - x[: self.taught], self.element)
            x = x + sum(w * z for w, z in zip(own, regressors, strict=True)) + shift
            weights, shift = [(w + one).reshape(shape) for w, one in zip(own, scalar, strict=True)], shift.reshape(shape)
        elif self.bands is not None:
            weights = per_band(few, goal - x[: self.taught], shape, self.bands, self.ridge, scalar)
            x = sum(one(z) for one, z in zip(weights, regressors, strict=True))
        row = Row(
            teacher.times[here],
            None if there is None else teacher.times[there],
            (weights[0], *weights[1 + k :]),
            tuple(weights[1 : 1 + k]),
            network_time=student.told,
            shift=shift,
            knobs=dict(self.asked(student.asked - 1)),
        )
        past = (student.x, *student.past)[: self.past]
        moved = dataclasses.replace(student, rows=(*student.rows, row), x=x, past=past)
        return self.corrected(moved, [student.x, *student.outputs], target)

    def corrected(self, student: Student, regressors: Sequence[Tensor], target: Tensor) -> Student:
        """Return the student whose last row also has a correction, learned from what it lacks."""
        if self.lesson is None:
            return student
        shape, few = self.denoiser.shape, slice(0, self.taught)
        told = {} if self.in_scheduler else {name: value[few] for name, value in self.condition.items()}
        residual = (target - student.x)[few]
        correction = learn([z[few] for z in regressors], residual, shape, told, self.lesson)
        rows = (*student.rows[:-1], dataclasses.replace(student.rows[-1], correction=correction))
        condition = {} if self.in_scheduler else self.condition
        return dataclasses.replace(student, rows=rows, x=student.x + apply(correction, regressors, shape, condition))

    def theory(self, levels: Sequence[int]) -> tuple[Row, ...]:
        """Return the rows of DPM-Solver++(3M) on these levels, the end included."""
        return get("dpmpp_3m").compile(self.denoiser.path, [self.teacher.times[k] for k in levels]).rows

    def run(self, levels: Sequence[int], asked: Sequence[Student] = ()) -> tuple[list[Student], Student]:
        """Return the student asked at each level, and the one that arrived at the data.

        Args:
            asked: the first of them, where they are known from other levels with the same beginning.
        """
        theory = self.theory(levels)
        students = [*asked] if asked else [self.ask(self.start(levels[0]), levels[0])]
        for i in range(len(students), len(levels)):
            moved = self.step(students[-1], levels[i - 1], levels[i], theory[i - 1])
            students.append(self.ask(moved, levels[i]))
        return students, self.step(students[-1], levels[-1], None, theory[-1])

    def run_told(self, levels: Sequence[int], shifts: Sequence[float]) -> Student:
        """Return the student that arrived at the data, where the network may be told another time than the state's.

        At every evaluation each shift of the log-SNR is tried, and the one whose row leaves least is kept; 0 is no shift.
        """
        student, ends = self.start(levels[0]), [*levels[1:], None]
        for here, there, row in zip(levels, ends, self.theory(levels), strict=True):
            target = self.teacher.end if there is None else self.teacher.states[there]
            told = dict.fromkeys(None if shift == 0.0 else self._shifted(here, shift) for shift in shifts)
            tried = (self.step(self.ask(student, here, one), here, there, row) for one in told)
            student = min(tried, key=lambda one: float((one.x - target).square().mean(dtype=torch.float64)))
        return student

    def _shifted(self, here: int, shift: float) -> float | None:
        """Return the network's time at a log-SNR so much higher than that of a level, within the path; None for its own."""
        t, path = self.teacher.times[here], self.denoiser.path
        low, high = levels_within(path)
        sigma = path.sigma(t)
        if not math.isfinite(sigma):
            return None
        told = self.denoiser.network_time(path.time_of_sigma(min(max(sigma * math.exp(-0.5 * shift), low), high)))
        return None if told == self.denoiser.network_time(t) else told

    def plan(self, rows: Sequence[Row], provenance: Mapping[str, object]) -> Plan:
        """Return fitted rows as a plan."""
        return Plan(
            self.denoiser.path,
            tuple(rows),
            "data",
            "fitted@1",
            self.teacher.times[0] if rows[0].time is None else rows[0].time,
            (laws.POINT_MASS,),
            provenance=dict(provenance),
        )


def combine(weights: Sequence[float], regressors: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum of the regressors."""
    total = regressors[0] * weights[0]
    for weight, regressor in zip(weights[1:], regressors[1:], strict=True):
        total.add_(regressor, alpha=weight)
    return total


def ridge_towards(
    prior: Sequence[float], regressors: Sequence[Tensor], target: Tensor, ridge: float, outputs: int | None = None
) -> list[float]:
    """Return w that minimizes |target - sum w_i z_i|^2 + ridge sum_i |u_i|^2 (v_i - v0_i)^2.

    The penalty lives in the coordinates u = (z_0, z_1, z_2 - z_1, z_3 - z_2, ...): a history is nearly collinear, and what
    theory says of its differences is worth more than of its parts. `prior` is theory's w. After the state z_0 come so many
    `outputs` (all others, where left out), and then earlier states, of which the first is told from z_0.
    """
    p = len(regressors)
    stack = torch.stack([r.flatten() for r in (*regressors, target)]).double()
    change = torch.eye(p + 1, dtype=torch.float64)
    first = p if outputs is None else 1 + outputs
    for i in range(2, p):
        change[i, 0 if i == first else i - 1] = -1.0
    moved = change @ stack
    gram = moved @ moved.T
    # w = B^T v for the coordinates u = B z
    basis = change[:p, :p]
    v0 = torch.linalg.solve(basis.T, torch.tensor(prior, dtype=torch.float64))
    A, b = gram[:p, :p], gram[:p, p]
    penalty = torch.diag(ridge * A.diagonal().clamp(min=1e-30))
    v = v0 + torch.linalg.solve(A + penalty, b - A @ v0)
    return (basis.T @ v).tolist()
