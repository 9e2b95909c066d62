"""The closed-form, on-policy fit of a multistep table.

Given the levels, the coefficients of each row solve a small ridge regression of the reference state on what the student has
at that point: its own state and its own predictions, produced by the rows already fitted. The regression is pulled towards
the coefficients of theory, so that nothing to learn means nothing changed.

Prior art: OLSS (Duan et al., 2023, arXiv 2305.14677) solves least squares on the reference's own states (teacher-forced)
without regularization; S4S (2502.17423) and GS (2510.17699) descend on the same coefficients by back-propagation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from retrograde import laws
from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan, Row
from retrograde.recipes import get
from retrograde.tune.teacher import Teacher


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A student on its way: states and predictions of all items so far, newest first, and the fitted rows."""

    rows: tuple[Row, ...]
    x: Tensor
    outputs: tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Fitter:
    """Fits tables of one denoiser to reference trajectories.

    Args:
        teacher: the trajectories to learn from.
        condition: prepared conditions of its items.
        ridge: strength of the pull towards theory, relative to the energy of each regressor.
        memory: how many predictions a row may use.
    """

    denoiser: AbstractDenoiser
    teacher: Teacher
    condition: Mapping[str, Tensor]
    ridge: float = 1e-4
    memory: int = 4

    def start(self, first: int) -> Student:
        """Return the student at the first level: the prior, moved there without an evaluation if it is not the end."""
        x = self.teacher.states[0]
        if first == 0:
            return Student((), x, ())
        target = self.teacher.states[first]
        scale = float((x * target).sum(dtype=torch.float64) / (x * x).sum(dtype=torch.float64))
        row = Row(None, self.teacher.times[first], (scale,))
        return Student((row,), x * scale, ())

    def step(self, student: Student, here: int, there: int | None, theory: Row) -> Student:
        """Ask at level `here` and fit the row that leads to level `there` (None: the data)."""
        teacher, t = self.teacher, self.teacher.times[here]
        batch = student.x.reshape(-1, *self.denoiser.shape)
        with torch.no_grad():
            output = self.denoiser.predict(batch, t, self.condition, {}, self.denoiser.network_time(t)).data
        outputs = (output.flatten(1), *student.outputs)[: self.memory]
        target = teacher.end if there is None else teacher.states[there]
        prior = [float(theory.states[0]), *(float(c) for c in theory.outputs)]
        prior += [0.0] * (1 + len(outputs) - len(prior))
        weights = ridge_towards(prior, [student.x, *outputs], target, self.ridge)
        x = combine(weights, [student.x, *outputs])
        next_time = None if there is None else teacher.times[there]
        row = Row(t, next_time, (weights[0],), tuple(weights[1:]))
        return Student((*student.rows, row), x, outputs)

    def theory(self, levels: Sequence[int]) -> tuple[Row, ...]:
        """Return the rows of DPM-Solver++(3M) on these levels, the end included."""
        return get("dpmpp_3m").compile(self.denoiser.path, [self.teacher.times[k] for k in levels]).rows

    def run(self, levels: Sequence[int], prefix: Sequence[Student] = ()) -> list[Student]:
        """Return the student before the first and after each evaluation; a prefix computed before is used as is."""
        theory = self.theory(levels)
        students = [*prefix] if prefix else [self.start(levels[0])]
        for i in range(len(students) - 1, len(levels)):
            there = levels[i + 1] if i + 1 < len(levels) else None
            students.append(self.step(students[-1], levels[i], there, theory[i]))
        return students

    def plan(self, rows: Sequence[Row], provenance: Mapping[str, object]) -> Plan:
        """Return fitted rows as a plan."""
        return Plan(
            self.denoiser.path,
            tuple(rows),
            "data",
            "fitted@1",
            self.teacher.times[0],
            (laws.POINT_MASS,),
            provenance=dict(provenance),
        )


def combine(weights: Sequence[float], regressors: Sequence[Tensor]) -> Tensor:
    """Return the weighted sum of the regressors."""
    total = regressors[0] * weights[0]
    for weight, regressor in zip(weights[1:], regressors[1:], strict=True):
        total.add_(regressor, alpha=weight)
    return total


def ridge_towards(prior: Sequence[float], regressors: Sequence[Tensor], target: Tensor, ridge: float) -> list[float]:
    """Return w that minimizes |target - sum w_i z_i|^2 + ridge sum_i |u_i|^2 (v_i - v0_i)^2.

    The penalty lives in the coordinates u = (z_0, z_1, z_2 - z_1, z_3 - z_2, ...): a history is nearly collinear, and what
    theory says of its differences is worth more than of its parts. `prior` is theory's w.
    """
    p = len(regressors)
    stack = torch.stack([r.flatten() for r in (*regressors, target)]).double()
    change = torch.eye(p + 1, dtype=torch.float64)
    for i in range(2, p):
        change[i, i - 1] = -1.0
    moved = change @ stack
    gram = moved @ moved.T
    # w = B^T v for the coordinates u = B z
    basis = change[:p, :p]
    v0 = torch.linalg.solve(basis.T, torch.tensor(prior, dtype=torch.float64))
    A, b = gram[:p, :p], gram[:p, p]
    penalty = torch.diag(ridge * A.diagonal().clamp(min=1e-30))
    v = v0 + torch.linalg.solve(A + penalty, b - A @ v0)
    return (basis.T @ v).tolist()
