"""Fits with corrections: levels searched with small lessons inside, then many short trajectories for the last one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

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
"""Epochs of a lesson inside the search for levels; it has half the plan's width, for a quarter of the time."""

ELEMENT = 0.03
"""Pull of per-element coefficients towards the scalar ones, under corrections: what it holds back, those can learn."""

SHORT = tuple((levels, recipe) for levels in (16, 20, 24, 36) for recipe in ("ipndm_4", "dpmpp_3m"))
"""Levels and recipes of short teachers, by rising cost."""

CLOSE = 0.15
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
        kept: where the short trajectories stay for other budgets; None for nowhere.
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
    kept: Journal | None = None

    def run(self, starts: Sequence[Levels], error: float) -> tuple[Plan, float, int]:
        """Return the fitted plan, its validation error and the network evaluations spent.

        Args:
            starts: promising sets of levels, best first.
            error: validation error of the fit without corrections on the first.
        """
        levels, searched = self.levels(starts)
        grid, recipe, spent = self.short(len(levels), error)
        times = on_grid([self.fitter.teacher.times[k] for k in levels], grid, self.fitter.denoiser.path.sigma)
        teacher = self.teacher(grid, recipe, times)
        taught = dataclasses.replace(
            self.fitter, teacher=teacher, condition=self.condition, element=ELEMENT, lesson=self.lesson, taught=None
        )
        self.tell("corrections", 0.0)
        rows = taught.run([teacher.times.index(t) for t in times])[1].rows
        plan = taught.plan(rows, {"ridge": taught.ridge, "element": ELEMENT, "lesson": dataclasses.asdict(self.lesson)})
        made = float(self.validation.errors(plan).mean(dtype=torch.float64).sqrt())
        spent += searched + teacher.n * (len(grid) + len(levels)) + len(levels) * len(self.validation.items)
        return plan, made, spent

    def levels(self, starts: Sequence[Levels]) -> tuple[Levels, int]:
        """Return the best levels found with small lessons inside, and the network evaluations spent.

        The first levels are tried first: a corrected teleport reaches further than a linear one.
        """
        n, size = self.fitter.teacher.n, len(self.fitter.teacher.times)
        lesson = dataclasses.replace(self.lesson, epochs=QUICK, width=max(8, self.lesson.width // 2))
        small = dataclasses.replace(self.fitter, element=0.1, lesson=lesson, taught=3 * n // 4)
        policy = OnPolicy(small, self.journal, "corrected")
        score = Limited(policy, self.candidates, self.tell, "levels with corrections", self.candidates)
        start = min(starts[:2], key=score)
        return descend(score, start, size, (4, 2, 1), last_first=False)[0], policy.evaluations * n

    def short(self, nfe: int, error: float) -> tuple[tuple[float, ...], str, int]:
        """Return times and recipe of a short teacher, and the evaluations spent.

        It is the cheapest of at least twice as many levels as the plan that is close to the fine one on a few validation
        items, or the closest.
        """
        denoiser, few = self.fitter.denoiser, self.validation.part(32)
        spent, best = 0, (math.inf, "", tuple[float, ...]())
        for size, recipe in [one for one in SHORT if one[0] >= 2 * nfe] or [(3 * nfe, "ipndm_4")]:
            grid = levels_of(denoiser, size)
            try:
                made = teach(
                    denoiser,
                    len(few.items),
                    self.seed,
                    levels=grid,
                    keep=(),
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
        return best[2], best[1], spent

    def teacher(self, grid: Sequence[float], recipe: str, times: Sequence[float]) -> Teacher:
        """Return short trajectories at the noise end and at `times`, which are on the grid.

        Where they stay for other budgets they are kept at every level.
        """
        keep = tuple(grid) if self.kept is not None else tuple(dict.fromkeys((grid[0], *times)))

        def made() -> dict[str, Tensor]:
            return teach(
                self.fitter.denoiser,
                self.trajectories,
                self.seed,
                levels=grid,
                keep=keep,
                first_item=self.first_item,
                condition=self.condition,
                recipe=recipe,
                progress=lambda _, part: self.tell("short trajectories", part),
                device=self.device,
                outputs=False,
            ).tensors()

        return Teacher.of((self.kept or self.journal).tensors(f"short {len(grid)} {recipe}", made), self.device)


def on_grid(times: Sequence[float], grid: Sequence[float], sigma: Callable[[float], float]) -> list[float]:
    """Return as many times of the grid, in its order, as near to the given as can be: least squares in log-SNR."""
    ways: dict[int, tuple[float, tuple[int, ...]]] = {-1: (0.0, ())}
    for t in times:
        here = [_apart(one, t, sigma) ** 2 for one in grid]
        ways = {
            k: min((cost + here[k], (*places, k)) for last, (cost, places) in ways.items() if last < k)
            for k in range(min(ways) + 1, len(grid))
        }
    return [grid[k] for k in min(ways.values())[1]]


def _apart(one: float, other: float, sigma: Callable[[float], float]) -> float:
    """Distance of two times in log-SNR, where the noise end is at distance zero of itself."""
    return 0.0 if one == other else abs(math.log(sigma(one)) - math.log(sigma(other)))
