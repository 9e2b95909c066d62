"""Fits of several denoisers on common levels: those of one network at neighbouring guidance weights."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from retrograde import recipes
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.run import NonFinite
from retrograde.tune.contest import Reference, race
from retrograde.tune.fit import Fitter
from retrograde.tune.levels import Levels, Limited, OnPolicy, Surrogate, by_first, descend, starts
from retrograde.tune.tuner import MOMENTS_NFE, Job

RIVALS = 1
"""Published solvers, the best at the middle weight, that are measured at all weights."""

INSERTED = 3
"""Sets of levels with one more than known ones that are fitted on policy: those that the surrogate finds best."""


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What is known at one weight.

    Attributes:
        job: its question, with effort and journal.
        fitter: learns from the first items, and takes the validation items along.
        surrogate, policy: its scores of levels, without and with the network.
        validation: the items that decide.
    """

    job: Job
    fitter: Fitter
    surrogate: Surrogate
    policy: OnPolicy
    validation: Reference

    @classmethod
    def of(cls, job: Job, prepared: dict[str, Tensor]) -> Part:
        """Return it after making the reference trajectories."""
        effort, teacher = job.effort, job.trajectories(prepared)
        given = {"samples": job.samples(prepared), "taught": effort.fit, "memory": effort.memory}
        fitter = Fitter(job.denoiser, teacher, prepared, **given)
        few = {name: value[: effort.search] for name, value in prepared.items()}
        small = dataclasses.replace(fitter, teacher=teacher.part(slice(0, effort.search)), condition=few, taught=None)
        validation = job.reference(teacher, prepared, effort.fit, teacher.n)
        return cls(job, fitter, Surrogate.of(small), OnPolicy(small, job.journal), validation)

    def fit(self, levels: Levels, element: float | None) -> tuple[Plan, float]:
        """Return the fitted plan and its root mean square error on the validation items."""
        own = dataclasses.replace(self.fitter, element=element)
        arrived = own.run(levels)[1]
        apart = (arrived.x - own.teacher.end)[own.taught :]
        return own.plan(arrived.rows, {"ridge": own.ridge, "element": element}), _root(apart.square().mean(1))

    def error(self, plan: Plan) -> float:
        """Return a plan's root mean square error on the validation items."""
        try:
            return _root(self.validation.errors(plan))
        except NonFinite:
            return math.inf

    @property
    def evaluations(self) -> int:
        """Network evaluations over all items, for trajectories and moments."""
        teacher = self.fitter.teacher
        return teacher.evaluations * teacher.n + self.job.effort.moments * MOMENTS_NFE


Fits = tuple[tuple[Plan, float], ...]
"""A plan for each weight, with its error."""


@dataclasses.dataclass(frozen=True, eq=False)
class Together:
    """The fits at a few weights. Of two sets of plans the one with the smaller geometric mean of its errors is better.

    Attributes:
        name: what tells them from others of the same parts, in journals.
    """

    parts: Sequence[Part]
    name: str = ""
    scores: dict[Levels, float] = dataclasses.field(default_factory=dict)

    def __call__(self, levels: Levels) -> float:
        """Return the mean on-policy error of fits on these levels."""
        if levels not in self.scores:
            self.scores[levels] = _mean(part.policy(levels) for part in self.parts)
        return self.scores[levels]

    def surrogate(self, levels: Levels) -> float:
        """Return the mean of what is predicted without the network."""
        return _mean(part.surrogate(levels) for part in self.parts)

    def fit(self, nfe: int, near: Sequence[Levels], rivals: Callable[[], Sequence[Fits]]) -> tuple[Fits, Levels, int]:
        """Return the plans of a budget, the levels they would be fitted on, and the network evaluations over all items.

        Args:
            near: levels that are good for fewer evaluations, or for other weights.
            rivals: measured plans that take the place of the fits where they are better.
        """
        made = functools.cache(lambda: self._best(nfe, near, rivals))
        fits, name = [], f"{self.name} budget {nfe}"
        for j, part in enumerate(self.parts):
            plan = part.job.journal.plan(name, lambda j=j: made()[0][j][0])
            fits.append((plan, part.job.journal.value(name, lambda j=j: made()[0][j][1])))
        levels, spent = self.parts[0].job.journal.value(f"{name} levels", lambda: made()[1:])
        return tuple(fits), tuple(levels), spent

    def _best(self, nfe: int, near: Sequence[Levels], rivals: Callable[[], Sequence[Fits]]) -> tuple[Fits, Levels, int]:
        before = sum(part.policy.evaluations for part in self.parts)
        levels = self._levels(nfe, near)
        effort, n = self.parts[0].job.effort, self.parts[0].fitter.teacher.n
        fits = [tuple(part.fit(levels, element) for part in self.parts) for element in effort.elements]
        spent = (sum(part.policy.evaluations for part in self.parts) - before) * effort.search
        return min([*fits, *rivals()], key=_error), levels, spent + len(fits) * len(self.parts) * nfe * n

    def _levels(self, nfe: int, near: Sequence[Levels]) -> Levels:
        job, teacher = self.parts[0].job, self.parts[0].fitter.teacher
        effort, size = job.effort, min(len(part.fitter.teacher.times) for part in self.parts)
        if nfe > size:
            raise BadValue(f"nfe={nfe}", f"nfe <= {size} for this effort and network", "use a recipe: it is exact enough")
        found = dict(descend(self.surrogate, one, size) for one in starts(teacher, nfe, effort.starts, job.seed))
        cold = min(found, key=lambda levels: found[levels])
        known = dict.fromkeys(one for few in near if len(few) <= nfe for one in self.completed(few, nfe, size))
        begun = [min([cold, *known], key=self)]
        if begun[0] != cold and any(len(few) < nfe - 1 for few in near):
            begun.append(cold)
        refined = [self._refined(start, nfe, size, start == cold) for start in begun]
        return min(refined, key=self)

    def _refined(self, start: Levels, nfe: int, size: int, cold: bool) -> Levels:
        effort = self.parts[0].job.effort
        if cold and effort.firsts:
            start = min(start, by_first(self.surrogate, self._limited(nfe, effort.firsts), start, size), key=self)
        bound = None if effort.gate is None else (self.surrogate, effort.gate * self.surrogate(start))
        return descend(self._limited(nfe, effort.candidates, bound), start, size, (2, 1))[0]

    def _limited(self, nfe: int, more: int, bound: tuple[Callable[[Levels], float], float] | None = None) -> Limited:
        limit = len(self.scores) + more
        return Limited(self, limit, self.parts[0].job.tell, f"levels of {nfe}", limit, bound)

    def completed(self, levels: Levels, nfe: int, size: int) -> list[Levels]:
        """Return sets of `nfe` levels that hold all of some: each time the most promising are added, by the surrogate."""
        best = [levels]
        while len(best[0]) < nfe:
            wider = [tuple(sorted((*best[0], k))) for k in range(size) if k not in best[0]]
            best = sorted(wider, key=self.surrogate)[:INSERTED]
        return best


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """Published solvers at all weights: the best of a race at the middle one, measured at the others too."""

    parts: Sequence[Part]
    nfe: int

    @functools.cached_property
    def measured(self) -> tuple[list[tuple[Plan, list[float]]], int]:
        """Their plans with the errors at each weight, and the network evaluations over all items that it took."""
        middle = self.parts[len(self.parts) // 2]
        kept, spent = middle.job.journal.value(f"published {self.nfe}", lambda: self._raced(middle))
        made = [(recipes.plan(name, middle.job.denoiser, nfe=self.nfe, grid=grid), errors) for name, grid, errors in kept]
        return made, spent

    def of(self, parts: Sequence[Part]) -> list[Fits]:
        """Return the plans with their errors at some of the weights."""
        places = [self.parts.index(part) for part in parts]
        return [tuple((plan, errors[place]) for place in places) for plan, errors in self.measured[0]]

    def _raced(self, middle: Part) -> tuple[list[tuple[str, str, list[float]]], int]:
        job, field = middle.job, middle.validation
        heats = {"first_heat": job.effort.heat, "between": job.effort.between, "finalists": 0}
        entries = race(field, self.nfe, job.effort.contest, **heats, journal=job.journal, name=f"race {self.nfe}")
        spent, made = sum(entry.evaluations for entry in entries), []
        for entry in entries[:RIVALS]:
            plan = recipes.plan(entry.recipe, job.denoiser, nfe=self.nfe, grid=entry.grid)
            made.append((entry.recipe, entry.grid, [part.error(plan) for part in self.parts]))
            spent += plan.nfe * len(field.items) * len(self.parts)
        return made, spent


def _error(fits: Fits) -> float:
    return _mean(error for _, error in fits)


def _mean(errors: Iterable[float]) -> float:
    """Return the geometric mean: no weight's scale counts more than another's."""
    logs = [math.log(max(error, 1e-300)) for error in errors]
    return math.exp(sum(logs) / len(logs))


def _root(squares: Tensor) -> float:
    root = float(squares.mean(dtype=torch.float64).sqrt())
    return root if math.isfinite(root) else math.inf
