"""The families of tables among which validation chooses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.tune.contest import Reference
from retrograde.tune.effort import Effort
from retrograde.tune.fit import Fitter, Student
from retrograde.tune.levels import Levels
from retrograde.tune.teacher import Progress

FINALISTS = 2
"""Sets of levels, the best on policy, that every family is fitted on."""


def select(
    fitter: Fitter, candidates: Sequence[Levels], validation: Reference, effort: Effort, tell: Progress
) -> tuple[Plan, float, int]:
    """Return the fit with the smallest validation error over sets of levels and families, that error, and the evaluations.

    Told times are tried last, on the best. The first evaluation on a set of levels is common to all families.

    Raises:
        BadValue: there are no candidates.
    """
    families: list[dict[str, Any]] = [{"element": element} for element in effort.elements]
    families += [{"bands": bands} for bands in effort.bands]
    tried = [(levels, family) for levels in candidates[:FINALISTS] for family in families]
    begun: dict[Levels, Student] = {}
    best: tuple[float, Plan, Levels, Fitter] | None = None
    judged, evaluations = 0, 0

    def judge(own: Fitter, levels: Levels, arrived: Student, **more: Any) -> None:
        nonlocal best, judged
        plan = own.plan(arrived.rows, {"ridge": own.ridge, "element": own.element, "bands": own.bands, **more})
        error = float(validation.errors(plan).mean(dtype=torch.float64).sqrt())
        judged += 1
        if best is None or error < best[0]:
            best = error, plan, levels, own

    for i, (levels, family) in enumerate(tried):
        tell("coefficients", i / len(tried))
        own = dataclasses.replace(fitter, **family)
        if levels not in begun:
            begun[levels] = own.ask(own.start(levels[0]), levels[0])
            evaluations += 1
        asked, arrived = own.run(levels, [begun[levels]])
        evaluations += len(levels) - 1
        judge(own, levels, arrived, last=own.element)
        for last in dict.fromkeys(effort.last):
            if last != own.element:
                ending = dataclasses.replace(own, element=last, bands=None)
                judge(own, levels, ending.step(asked[-1], levels[-1], None, own.theory(levels)[-1]), last=last)
    if best is None:
        raise BadValue("no candidate levels", "a denoiser whose predictions are finite", "look at denoiser(x_t, t).value")
    if effort.shifts:
        levels, own = best[2:]
        judge(own, levels, own.run_told(levels, effort.shifts), last=own.element, shifts=effort.shifts)
        evaluations += len(levels) * len(effort.shifts)
    return best[1], best[0], evaluations * fitter.teacher.n + judged * len(best[2]) * len(validation.items)
