"""Fits with corrections: levels searched with small lessons inside, then many short trajectories for the last one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.tune.contest import Reference
from retrograde.tune.correct import Lesson
from retrograde.tune.fit import Fitter
from retrograde.tune.journal import Journal
from retrograde.tune.levels import Levels, Limited, OnPolicy, descend
from retrograde.tune.teacher import Progress, Teacher, levels_of, teach

QUICK = 6
"""Epochs of a lesson inside the search for levels."""

ELEMENT = 0.03
"""Pull of per-element coefficients towards the scalar ones, under corrections: what it holds back, those can learn."""

SHORT = ((16, "ipndm_4"), (16, "dpmpp_3m"), (24, "ipndm_4"), (24, "dpmpp_3m"), (36, "ipndm_4"), (36, "dpmpp_3m"))
"""Levels and recipes of short teachers, by rising cost."""

CLOSE = 0.2
"""A short teacher may be this far from the fine one, relative to the error of the fit without corrections."""


@dataclasses.dataclass(frozen=True, eq=False)
class CorrectedFit:
    """The part of a `tune` call that fits corrections.

    Args:
        fitter: of the fit without them: its trajectories serve the search for levels.
        validation: items to choose on.
        trajectories: how many the corrections learn from.
        candidates: at most so many sets of levels are tried with corrections.
        lesson: how the corrections of the plan are learned.
        first_item: number of the first of the trajectories.
        condition: prepared conditions of theirs.
        journal: of the call.
    """

    fitter: Fitter
    validation: Reference
    trajectories: int
    candidates: int
    lesson: Lesson
    seed: int
    first_item: int
    condition: dict[str, Tensor]
    tell: Progress
    device: torch.device | str = "cpu"
    journal: Journal = dataclasses.field(default_factory=Journal)

    def run(self, starts: Sequence[Levels], error: float) -> tuple[Plan, float, int]:
        """Return the fitted plan, its validation error and the network evaluations spent.

        Args:
            starts: promising sets of levels, best first.
            error: validation error of the fit without corrections on the first.
        """
        levels, searched = self.levels(starts)
        times = tuple(self.fitter.teacher.times[k] for k in levels)
        teacher, spent = self.teacher(times, error)
        taught = dataclasses.replace(
            self.fitter, teacher=teacher, condition=self.condition, element=ELEMENT, lesson=self.lesson, taught=None
        )
        places = tuple(teacher.times.index(t) for t in times)
        self.tell("corrections", 0.0)
        rows = taught.run(places)[1].rows
        plan = taught.plan(rows, {"ridge": taught.ridge, "element": ELEMENT, "lesson": dataclasses.asdict(self.lesson)})
        made = float(self.validation.errors(plan).mean(dtype=torch.float64).sqrt())
        return plan, made, searched + spent + len(levels) * (teacher.n + len(self.validation.items))

    def levels(self, starts: Sequence[Levels]) -> tuple[Levels, int]:
        """Return the best levels found with small lessons inside, and the network evaluations spent.

        The first levels are tried first: a corrected teleport reaches further than a linear one.
        """
        n, size = self.fitter.teacher.n, len(self.fitter.teacher.times)
        lesson = dataclasses.replace(self.lesson, epochs=QUICK)
        small = dataclasses.replace(self.fitter, element=0.1, lesson=lesson, taught=3 * n // 4)
        policy = OnPolicy(small, self.journal, "corrected")
        score = Limited(policy, self.candidates, self.tell, "levels with corrections", self.candidates)
        start = min(starts[:2], key=score)
        return descend(score, start, size, (4, 2, 1), last_first=False)[0], policy.evaluations * n

    def teacher(self, times: Sequence[float], error: float) -> tuple[Teacher, int]:
        """Return trajectories kept at the noise end and at `times`, and the evaluations spent.

        The cheapest short teacher that is close to the fine one on a few validation items makes them.
        """
        denoiser, few = self.fitter.denoiser, self.validation.part(32)
        keep = tuple(dict.fromkeys((self.fitter.teacher.times[0], *times)))
        spent, best = 0, (math.inf, "", tuple[float, ...]())
        for nfe, recipe in SHORT:
            grid = through(levels_of(denoiser, nfe), keep, denoiser.path.sigma)
            try:
                made = teach(
                    denoiser,
                    len(few.items),
                    self.seed,
                    levels=grid,
                    keep=keep,
                    first_item=few.items[0],
                    condition=few.condition,
                    recipe=recipe,
                    device=self.device,
                )
            except BadValue:
                continue  # a recipe that this path's noise end does not allow
            spent += made.evaluations * made.n
            far = float((made.end - few.end).square().mean().sqrt())
            best = min(best, (far, recipe, grid), key=lambda one: one[0])
            if far <= CLOSE * error:
                break
        _, recipe, grid = best

        def made_all() -> dict[str, Tensor]:
            return teach(
                denoiser,
                self.trajectories,
                self.seed,
                levels=grid,
                keep=keep,
                first_item=self.first_item,
                condition=self.condition,
                recipe=recipe,
                progress=lambda _, part: self.tell("short trajectories", part),
                device=self.device,
            ).tensors()

        teacher = Teacher.of(self.journal.tensors("short", made_all), self.device)
        return teacher, spent + teacher.evaluations * teacher.n


def through(times: Sequence[float], required: Sequence[float], sigma: Any) -> tuple[float, ...]:
    """Return a grid with the required times in the place of the nearest others, noisiest first."""
    kept = list(times)
    for t in required:
        near = min((k for k, u in enumerate(kept) if u not in required or u == t), key=lambda k: _apart(kept[k], t, sigma))
        kept[near] = t
    return tuple(sorted(dict.fromkeys(kept), key=sigma, reverse=True))


def _apart(one: float, other: float, sigma: Any) -> float:
    """Distance of two times in log-SNR, where the noise end is at distance zero of itself."""
    return 0.0 if one == other else abs(math.log(sigma(one)) - math.log(sigma(other)))
