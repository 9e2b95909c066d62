"""Fitting where to reuse: the column of a plan, together with its noise levels and coefficients."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, final

import torch

from retrograde import recipes
from retrograde.accelerate.schedule import every
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.plan import Plan
from retrograde.sampling import sample
from retrograde.sites import REUSE, cost
from retrograde.tune.contest import Reference
from retrograde.tune.effort import EFFORTS, Effort
from retrograde.tune.fit import Fitter, Student
from retrograde.tune.levels import Levels, Surrogate, descend, neighbours, starts
from retrograde.tune.teacher import teach

Column = tuple[bool, ...]
"""For each evaluation, whether it reuses."""

Place = tuple[Levels, Column]

_ITEMS = 1 << 40
PULLS: tuple[tuple[float, float | None], ...] = ((1e-4, None), (1e-4, 0.3), (1e-4, 0.03))
"""Pulls towards theory, and of per-element coefficients towards scalar ones, that validation chooses from."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class _Search:
    """Sets of levels and columns by their error on policy; what begins alike is asked once."""

    fitter: Fitter
    scores: dict[Place, float] = dataclasses.field(default_factory=dict)
    students: dict[Place, Student] = dataclasses.field(default_factory=dict)

    def score(self, place: Place) -> float:
        """Return the root mean square error of the fit there."""
        if place not in self.scores:
            levels, column = place
            begun: list[Student] = []
            while len(begun) < len(levels) and (known := self.students.get(_first(place, len(begun) + 1))) is not None:
                begun.append(known)
            students, arrived = dataclasses.replace(self.fitter, knobs=_knobs(column)).run(levels, begun)
            if len(self.students) > 64:
                self.students.clear()
            self.students.update({_first(place, k + 1): student for k, student in enumerate(students)})
            error = arrived.x - self.fitter.teacher.end
            self.scores[place] = float(error.pow(2).mean(dtype=torch.float64).sqrt())
        return self.scores[place]

    def best(self, places: Sequence[Place], limit: int) -> Place:
        """Return what descent finds from the best of some places, in at most `limit` scores."""
        size, known = len(self.fitter.teacher.times), len(self.scores)
        here = min(places, key=self.score)
        improved = True
        while improved:
            improved = False
            for candidate in _around(here, size):
                if len(self.scores) - known >= limit:
                    return here
                if self.score(candidate) < self.score(here):
                    here, improved = candidate, True
                    break
        return here


def _first(place: Place, count: int) -> Place:
    return place[0][:count], place[1][:count]


def _knobs(column: Column) -> list[dict[str, Any]]:
    return [{REUSE: True} if reused else {} for reused in column]


def _around(place: Place, size: int) -> Iterator[Place]:
    """Yield the places in which one evaluation that reuses changed with a neighbour, or levels moved."""
    levels, column = place
    for k in range(len(column) - 1, 1, -1):
        if column[k] != column[k - 1]:
            yield levels, (*column[: k - 1], column[k], column[k - 1], *column[k + 1 :])
    for stride in (3, 1):
        for moved in neighbours(levels, size, stride):
            yield moved, column


def _reused(plan: Plan) -> int:
    return sum(1 for row in plan.rows if row.knobs.get(REUSE))


def _columns(full: int, reused: int) -> list[Column]:
    """Return columns to begin with: full evaluations spread evenly, all at the beginning, all but the first at the end."""
    count = full + reused
    if reused == 0:
        return [(False,) * count]
    spread = {round(j * count / full) for j in range(full)}
    first, last = set(range(full)), {0, *range(count - full + 1, count)}
    return [tuple(k not in chosen for k in range(count)) for chosen in (spread, first, last)]


def shares(budget: float, share: float) -> list[tuple[int, int]]:
    """Return numbers of full evaluations and of such that reuse, at `share` each, that a budget pays for.

    For each number of full ones as many that reuse as are paid for, at most three for one; as many as full ones, if that is
    less; and full ones alone. What asks the network no more often than they do is left out.
    """
    whole = int(budget + 1e-9)
    made = [(whole, 0)]
    for full in range(1, whole + 1):
        paid = 0 if share >= 1.0 else min(3 * full, int((budget - full) / max(share, 1e-6) + 1e-9))
        made += [(full, reused) for reused in dict.fromkeys((min(full, paid), paid)) if full + reused > whole]
    return made


def share_of(denoiser: AbstractDenoiser, condition: Any = None) -> float:
    """Return what an evaluation that reuses costs, in full ones, by multiply-accumulates."""
    two = recipes.plan("ddim", denoiser, nfe=2)
    one, both = (cost(denoiser, plan, 1, repeats=0, condition=condition).macs for plan in (two[:1], every(two, 2)))
    return (both - one) / one


def fit_reuse(
    denoiser: AbstractDenoiser,
    budget: float | None = None,
    *,
    error: float | None = None,
    most: int = 10,
    seed: int = 0,
    effort: str | Effort = "seconds",
    condition: Any = None,
) -> Plan:
    """Fit where to reuse together with noise levels and coefficients, for a budget of compute or of quality.

    Rows are fitted in closed form and on policy as `rg.tune` fits them, with a network that reuses where the column says:
    what a stale prediction is worth, its coefficient says. For each number of full evaluations that the budget pays for
    beside some that reuse, levels and column are searched together; to reuse nowhere is among them. Validation chooses.

    Args:
        denoiser: with a policy of the knob "reuse" inside, guided or not: `rg.accelerate.deepcache(den)`.
        budget: full evaluations to be paid for; one that reuses costs its share of their multiply-accumulates.
        error: in place of a budget, the root mean square distance per element to a fine solver's end points that is allowed:
            the least of the budgets 1, 1.5, 2, ... `most` that reaches it in validation (or the last, which does not).
        condition: as `rg.tune` takes it.

    Returns:
        A plan whose `report` holds under "share" what an evaluation that reuses costs, "cost" what the plan does in full
        evaluations, "full" and "reused" its evaluations, "validation_error", "error" on noise it has not seen, and the
        validation errors of the best plans of this budget in which nothing is reused, "alone", and something is, "reusing"
        (None where the budget pays for no such plan).

    Raises:
        BadType: a denoiser in which nothing obeys the knob.
        BadValue: neither a budget of 1 or more nor an error above 0, or both.
        UnknownName: no such effort.
    """
    if REUSE not in denoiser.consumes:
        raise BadType(
            f"{denoiser.name!r}, in which no policy obeys the knob {REUSE!r}",
            "a policy inside whose rows reuse",
            "fit_reuse(rg.accelerate.deepcache(denoiser), budget=6)",
        )
    fair = (budget is None or budget >= 1.0) and (error is None or error > 0.0)
    if (budget is None) == (error is None) or not fair:
        raise BadValue(f"budget={budget}, error={error}", "one of them: a budget >= 1 or an error > 0", "budget=6")
    if isinstance(effort, str) and effort not in EFFORTS:
        raise UnknownName("effort", effort, EFFORTS)
    job = ReuseFit.of(denoiser, seed, EFFORTS[effort] if isinstance(effort, str) else effort, condition)
    if budget is not None:
        return job.plan(budget)
    allowed = error or 0.0
    plan = job.plan(1.0)
    for half in range(3, 2 * most + 1):
        if plan.report is not None and plan.report["validation_error"] <= allowed:
            break
        plan = job.plan(0.5 * half)
    return plan


@final
@dataclasses.dataclass(frozen=True, eq=False)
class ReuseFit:
    """What fits of all budgets have in common: trajectories to learn from, to choose by and to report on.

    `ReuseFit.of(denoiser).plan(budget)` is `fit_reuse(denoiser, budget)`, without making the trajectories for every budget.
    """

    fitter: Fitter
    validation: Reference
    held_out: Reference
    effort: Effort
    share: float
    seed: int

    @classmethod
    def of(
        cls, denoiser: AbstractDenoiser, seed: int = 0, effort: Effort = EFFORTS["seconds"], condition: Any = None
    ) -> ReuseFit:
        """Return the trajectories of a denoiser; arguments as `fit_reuse` takes them."""
        count = effort.fit + effort.validation + effort.held_out
        prepared = prepare_condition(denoiser, condition(count, seed) if callable(condition) else condition, count)
        fine = {"levels": effort.levels, "recipe": effort.teacher, "first_item": _ITEMS}
        teacher = teach(denoiser, count, seed, condition=prepared, **fine)
        m = effort.moments
        told = {name: value[torch.arange(m) % count] for name, value in prepared.items()}
        quick = recipes.plan("dpmpp_2m", denoiser, nfe=6, grid="shifted")
        drawn = sample(denoiser, quick, m, seed, condition=told, items=range(2 * _ITEMS, 2 * _ITEMS + m), batch_size=128)

        def reference(low: int, high: int) -> Reference:
            few = {name: value[low:high] for name, value in prepared.items()}
            return Reference(denoiser, range(_ITEMS + low, _ITEMS + high), seed, teacher.end[low:high], few)

        first = {name: value[: effort.fit] for name, value in prepared.items()}
        end = effort.fit + effort.validation
        return cls(
            Fitter(denoiser, teacher.part(slice(0, effort.fit)), first, samples=drawn.flatten(1).float()),
            reference(effort.fit, end),
            reference(end, count),
            effort,
            share_of(denoiser, {name: value[0] for name, value in prepared.items()}),
            seed,
        )

    def plan(self, budget: float) -> Plan:
        """Return the fitted plan of a budget."""
        found = self.plans(budget)
        error, plan = found[0]
        reused = _reused(plan)
        errors = self.held_out.errors(plan).double()
        report = {
            "returned": "fitted",
            "share": self.share,
            "cost": plan.nfe - reused + reused * self.share,
            "full": plan.nfe - reused,
            "reused": reused,
            "validation_error": error,
            "error": float(errors.mean().sqrt()),
            "alone": next((other for other, one in found if not _reused(one)), None),
            "reusing": next((other for other, one in found if _reused(one)), None),
        }
        provenance = {"tuner": "closed form, on policy, with reuse", "budget": budget, "seed": self.seed}
        return dataclasses.replace(plan, report=report, provenance={**plan.provenance, **provenance})

    def plans(self, budget: float) -> list[tuple[float, Plan]]:
        """Return the fits of all that a budget pays for, each with its validation error, best first."""
        n = self.effort.search
        condition = {name: value[:n] for name, value in self.fitter.condition.items()}
        small = dataclasses.replace(self.fitter, teacher=self.fitter.teacher.part(slice(0, n)), condition=condition)
        surrogate, size = Surrogate.of(small), len(small.teacher.times)
        found: list[tuple[float, Plan]] = []
        for full, reused in shares(budget, self.share):
            if full + reused > size:
                continue
            begun = starts(small.teacher, full + reused, self.effort.starts, self.seed)
            levels = min((descend(surrogate, one, size) for one in begun), key=lambda pair: pair[1])[0]
            places = [(levels, column) for column in _columns(full, reused)]
            found.append(self.select(_Search(small).best(places, self.effort.candidates)))
        return sorted(found, key=lambda entry: entry[0])

    def select(self, place: Place) -> tuple[float, Plan]:
        """Return the fit on all items with the smallest validation error, and that error."""
        levels, column = place
        found: list[tuple[float, Plan]] = []
        for ridge, element in PULLS:
            own = dataclasses.replace(self.fitter, ridge=ridge, element=element, knobs=_knobs(column))
            plan = own.plan(own.run(levels)[1].rows, {"ridge": ridge, "element": element})
            found.append((float(self.validation.errors(plan).mean(dtype=torch.float64).sqrt()), plan))
        return min(found, key=lambda pair: pair[0])
