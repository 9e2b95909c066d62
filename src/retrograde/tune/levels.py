"""Choosing noise levels: a fast surrogate on stored trajectories, then search with the on-policy fit inside."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from retrograde.tune.fit import Fitter, Student
from retrograde.tune.journal import Journal
from retrograde.tune.teacher import Progress, Teacher, amplification

Levels = tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Surrogate:
    """Predicts the error of a set of levels from inner products of reference states and predictions alone.

    For each step the residual of the reference's next state on its present state and its predictions at the levels so far
    (a teacher-forced least squares, read off one Gram matrix), weighted with how much an error there weighs at the data.
    """

    gram: np.ndarray
    moved: np.ndarray
    weights: np.ndarray
    memory: int
    size: int
    steps: dict[Levels, float] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, fitter: Fitter) -> Surrogate:
        """Return the surrogate of a fitter's trajectories."""
        teacher = fitter.teacher
        stack = torch.cat([teacher.states, teacher.outputs, teacher.end[None]]).flatten(1)
        gram = torch.zeros(len(stack), len(stack), dtype=torch.float64)
        for part in stack.split(8192, dim=1):
            wide = part.double()
            gram += wide @ wide.T
        weights = np.array([amplification(fitter.denoiser, t) ** 2 for t in teacher.times] + [1.0])
        moved = []
        for k, state in enumerate(teacher.states):
            moved.append(float((state - fitter.start(k).x).pow(2).sum(dtype=torch.float64)))
        return cls(gram.numpy(), np.array(moved), weights, fitter.memory, teacher.end.numel())

    def __call__(self, levels: Levels) -> float:
        """Return the predicted root mean square error at the data."""
        m = (len(self.gram) - 1) // 2
        total = self.weights[levels[0]] * self.moved[levels[0]]
        for i in range(len(levels)):
            target = levels[i + 1] if i + 1 < len(levels) else 2 * m
            total += self._lost(levels[max(0, i + 1 - self.memory) : i + 1], target)
        return float(np.sqrt(total / self.size))

    def _lost(self, window: Levels, target: int) -> float:
        """Return what a step from the last of some levels adds; a search moves one level at a time and asks it again."""
        key = (*window, target)
        if key not in self.steps:
            m = (len(self.gram) - 1) // 2
            known = [window[-1], *(m + k for k in reversed(window))]
            A, b = self.gram[np.ix_(known, known)], self.gram[known, target]
            A = A + np.diag(1e-8 * np.diag(A))
            residual = self.gram[target, target] - b @ np.linalg.solve(A, b)
            self.steps[key] = float(self.weights[m if target == 2 * m else target] * max(residual, 0.0))
        return self.steps[key]


def descend(
    score: Callable[[Levels], float],
    start: Levels,
    size: int,
    strides: Sequence[int] = (8, 4, 2, 1),
    last_first: bool = True,
) -> tuple[Levels, float]:
    """Move one level at a time by falling strides while it helps, beginning with the last or with the first."""
    best, value = start, score(start)
    for stride in strides:
        improved = True
        while improved:
            improved = False
            for candidate in neighbours(best, size, stride, last_first):
                trial = score(candidate)
                if trial < value:
                    best, value, improved = candidate, trial, True
                    break
    return best, value


def neighbours(levels: Levels, size: int, stride: int, last_first: bool = True) -> Iterator[Levels]:
    """Yield the sets in which one level, or all from one on, moved by the stride."""
    for i in reversed(range(len(levels))) if last_first else range(len(levels)):
        for move in (stride, -stride):
            single = (*levels[:i], levels[i] + move, *levels[i + 1 :])
            together = (*levels[:i], *(k + move for k in levels[i:]))
            for candidate in dict.fromkeys((single, together)):
                rising = all(x < y for x, y in zip(candidate, candidate[1:], strict=False))
                if rising and candidate[0] >= 0 and candidate[-1] < size:
                    yield candidate


def by_first(surrogate: Callable[[Levels], float], score: Callable[[Levels], float], start: Levels, size: int) -> Levels:
    """Return the best of the sets that a surrogate finds best after each first level, by a descent over that level."""

    @functools.cache
    def after(first: int) -> Levels:
        near = [first]
        for k in start[1:]:
            near.append(max(k, near[-1] + 1))
        near = tuple(min(k, size - len(start) + i) for i, k in enumerate(near))
        return descend(lambda levels: surrogate(levels) if levels[0] == first else math.inf, near, size)[0]

    first, _ = descend(lambda one: score(after(one[0])), start[:1], size - len(start) + 1, (4, 2, 1))
    return after(first[0])


def starts(teacher: Teacher, nfe: int, count: int, seed: int) -> Iterator[Levels]:
    """Yield starting sets: even ones, and random ones."""
    m = len(teacher.times)
    for power in (1.0, 0.7, 1.4):
        places = (np.arange(nfe) / nfe) ** power * (m - 1)
        yield _distinct(places, m)
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield tuple(sorted(generator.choice(m, nfe, replace=False).tolist()))


def _distinct(places: np.ndarray, m: int) -> Levels:
    chosen: list[int] = []
    for place in np.round(places).astype(int).tolist():
        chosen.append(max(place, chosen[-1] + 1) if chosen else place)
    return tuple(k - max(0, chosen[-1] - (m - 1)) for k in chosen)


@dataclasses.dataclass(eq=False)
class OnPolicy:
    """Scores levels by fitting on policy; students of common beginnings are kept, so a late change is cheap.

    Attributes:
        journal, name: where scores are kept, and as what.
        evaluations: network evaluations per item spent so far, also by the interrupted calls whose scores are known.
    """

    fitter: Fitter
    journal: Journal = dataclasses.field(default_factory=Journal)
    name: str = "scores"
    evaluations: int = 0
    scores: dict[Levels, float] = dataclasses.field(default_factory=dict)
    _students: dict[Levels, Student] = dataclasses.field(default_factory=dict)

    def __call__(self, levels: Levels) -> float:
        """Return the root mean square error of the fit on these levels, on the items it did not learn from, if any."""
        if levels not in self.scores:
            name = f"{self.name} {' '.join(map(str, levels))}"
            self.scores[levels], spent = self.journal.value(name, lambda: self._scored(levels))
            self.evaluations += spent
        return self.scores[levels]

    def _scored(self, levels: Levels) -> tuple[float, int]:
        """Return the score, and the network evaluations per item that it took."""
        known = [self._students.get(levels[: i + 1]) for i in range(len(levels))]
        asked = [student for student in known[: known.index(None) if None in known else None] if student is not None]
        students, arrived = self.fitter.run(levels, asked)
        if len(self._students) > 64:
            self._students.clear()
        self._students |= {levels[: i + 1]: student for i, student in enumerate(students)}
        taught = self.fitter.taught or 0
        error = arrived.x[taught:] - self.fitter.teacher.end[taught:]
        return float(error.pow(2).mean(dtype=torch.float64).sqrt()), len(levels) - len(asked)


class Scores(Protocol):
    """A score of levels that knows what it has scored."""

    @property
    def scores(self) -> dict[Levels, float]:
        """What it has scored."""
        ...

    def __call__(self, levels: Levels) -> float:
        """Return the score of some levels."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class Limited:
    """An on-policy score that refuses new sets of levels once `limit` were scored, and tells how many of `most` were.

    It also refuses those to which another score gives more than a bound, where `bound` names both.
    """

    policy: Scores
    limit: int
    tell: Progress
    stage: str
    most: int
    bound: tuple[Callable[[Levels], float], float] | None = None

    def __call__(self, levels: Levels) -> float:
        new = levels not in self.policy.scores
        if new and (
            len(self.policy.scores) >= self.limit or (self.bound is not None and self.bound[0](levels) > self.bound[1])
        ):
            return math.inf
        self.tell(self.stage, min(1.0, len(self.policy.scores) / self.most))
        return self.policy(levels)
