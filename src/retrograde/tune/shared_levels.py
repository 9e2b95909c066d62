"""Fits of several denoisers on common levels: those of one network at several guidance weights."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from retrograde import recipes
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.run import NonFinite
from retrograde.tune.contest import Reference, race
from retrograde.tune.fit import Fitter
from retrograde.tune.levels import Levels, Limited, OnPolicy, Surrogate, descend, starts
from retrograde.tune.tuner import MOMENTS_NFE, VARIANTS, Job

RIVALS = 3
"""Published solvers, the best at the middle weight, that are measured at all weights."""


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
        fitter = Fitter(job.denoiser, teacher, prepared, samples=job.samples(prepared), taught=effort.fit)
        few = {name: value[: effort.search] for name, value in prepared.items()}
        small = dataclasses.replace(fitter, teacher=teacher.part(slice(0, effort.search)), condition=few, taught=None)
        validation = job.reference(teacher, prepared, effort.fit, teacher.n)
        return cls(job, fitter, Surrogate.of(small), OnPolicy(small, job.journal), validation)

    def fit(self, levels: Levels, ridge: float, element: float | None) -> tuple[Plan, float]:
        """Return the fitted plan and its root mean square error on the validation items."""
        own = dataclasses.replace(self.fitter, ridge=ridge, element=element)
        arrived = own.run(levels)[1]
        apart = (arrived.x - own.teacher.end)[own.taught :]
        return own.plan(arrived.rows, {"ridge": ridge, "element": element}), _root(apart.square().mean(1))

    def measure(self, plan: Plan) -> tuple[Plan, float]:
        """Return a plan and its root mean square error on the validation items."""
        try:
            return plan, _root(self.validation.errors(plan))
        except NonFinite:
            return plan, math.inf

    @property
    def evaluations(self) -> int:
        """Network evaluations over all items, for trajectories and moments."""
        teacher = self.fitter.teacher
        return teacher.evaluations * teacher.n + self.job.effort.moments * MOMENTS_NFE


Fits = tuple[tuple[Plan, float], ...]
"""A plan for each weight, with its error."""


@dataclasses.dataclass(frozen=True, eq=False)
class Together:
    """The fits at all weights. Of two sets of plans the one with the smaller geometric mean of its errors is better."""

    parts: Sequence[Part]
    scores: dict[Levels, float] = dataclasses.field(default_factory=dict)

    def __call__(self, levels: Levels) -> float:
        """Return the mean on-policy error of fits on these levels."""
        if levels not in self.scores:
            self.scores[levels] = _mean(part.policy(levels) for part in self.parts)
        return self.scores[levels]

    def fit(self, nfe: int, compare: bool) -> tuple[Fits, int]:
        """Return the plans of a budget, on common levels, and the network evaluations over all items that they took."""
        made = functools.cache(lambda: self._best(nfe, compare))
        fits, spent = [], 0
        for j, part in enumerate(self.parts):
            journal = part.job.journal
            plan = journal.plan(f"budget {nfe}", lambda j=j: made()[0][j][0])
            error, its = journal.value(f"budget {nfe}", lambda j=j: (made()[0][j][1], made()[1][j]))
            fits.append((plan, error))
            spent += its
        return tuple(fits), spent

    def _best(self, nfe: int, compare: bool) -> tuple[Fits, list[int]]:
        before = [part.policy.evaluations for part in self.parts]
        levels = self._levels(nfe)
        fits = [tuple(part.fit(levels, *variant) for part in self.parts) for variant in VARIANTS]
        fits += self._rivals(nfe) if compare else []
        effort, last = self.parts[0].job.effort, len(VARIANTS) * nfe * self.parts[0].fitter.teacher.n
        search = [part.policy.evaluations - had for part, had in zip(self.parts, before, strict=True)]
        return min(fits, key=_error), [last + spent * effort.search for spent in search]

    def _levels(self, nfe: int) -> Levels:
        job, teacher = self.parts[0].job, self.parts[0].fitter.teacher
        size = min(len(part.fitter.teacher.times) for part in self.parts)
        if nfe > size:
            raise BadValue(f"nfe={nfe}", f"nfe <= {size} for this effort and network", "use a recipe: it is exact enough")
        found: dict[Levels, float] = {}
        for start in starts(teacher, nfe, job.effort.starts, job.seed):
            levels, value = descend(lambda levels: _mean(part.surrogate(levels) for part in self.parts), start, size)
            found[levels] = value
        best: dict[Levels, float] = {}
        known = len(self.scores)
        for i, start in enumerate(sorted(found, key=lambda levels: found[levels])[: job.effort.refined]):
            limit = known + (i + 1) * job.effort.candidates
            levels, value = descend(Limited(self, limit, job.tell, f"levels of {nfe}", limit), start, size, (4, 2, 1))
            best[levels] = value
        return min(best, key=lambda levels: best[levels])

    def _rivals(self, nfe: int) -> list[Fits]:
        middle = self.parts[len(self.parts) // 2]
        job, found = middle.job, []
        entries = race(middle.validation, nfe, job.effort.contest, finalists=0, journal=job.journal, name=f"race {nfe}")
        for entry in entries[:RIVALS]:
            plan = recipes.plan(entry.recipe, middle.job.denoiser, nfe=nfe, grid=entry.grid)
            found.append(tuple(part.measure(plan) for part in self.parts))
        return found


def _error(fits: Fits) -> float:
    return _mean(error for _, error in fits)


def _mean(errors: Iterable[float]) -> float:
    """Return the geometric mean: no weight's scale counts more than another's."""
    logs = [math.log(max(error, 1e-300)) for error in errors]
    return math.exp(sum(logs) / len(logs))


def _root(squares: Tensor) -> float:
    root = float(squares.mean(dtype=torch.float64).sqrt())
    return root if math.isfinite(root) else math.inf
