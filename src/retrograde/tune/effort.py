"""How much a fit may cost, and the usual answers."""

from __future__ import annotations

import dataclasses
from typing import Any

from retrograde.tune.contest import QUICK_RECIPES


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much a fit may cost.

    Attributes:
        fit, validation, held_out: numbers of trajectories.
        search: how many of the fitting trajectories the search for levels uses.
        levels: levels of the reference, among which the plan's are chosen; four for each evaluation if that is more.
        starts: random starts of the surrogate search, and how many of its results are refined on policy.
        refined: see `starts`.
        candidates: at most so many sets of levels are fitted on policy for each refined one.
        even: at most so many sets that three levels decide (`EvenLevels`) are fitted on a quarter of the search's
            trajectories, and the best is refined in the place of one that the surrogate found; 0 for none.
        memory: how many predictions a row without correction may use.
        past: how many earlier states it may use.
        elements: pulls of per-element coefficients towards the scalar ones that validation chooses from; None for scalar.
        bands: numbers of bands of spatial frequency, each with coefficients of its own, that validation chooses from too.
        last: pulls tried for the last row alone, whose target is the data themselves.
        shifts: what may be added to the log-SNR that the network is told, 0 among them; tried at every evaluation.
        moments: samples of a quick recipe, for the mean and covariance that carry the prior to the first level.
        contest: recipes the result is compared with; None for all.
        corrected: trajectories that corrections learn from; 0 for a plan without.
        lessons: at most so many sets of levels are tried with corrections.
        share: what a correction may cost at most, in evaluations, by multiply-accumulates.
        teacher: the recipe that makes the reference.
        firsts: at most so many first levels are tried on policy, each with the levels that the surrogate finds best after
            it, before the best of these sets is refined; 0 to refine what the surrogate finds best as it is. Of all levels
            it knows the worth of the first one least, to which no evaluation leads.
        gate: sets of levels that the surrogate finds so many times worse than the one to refine are not fitted on policy;
            None for no such bound. What few items say of levels far from there is mostly noise.
        heat, between, finalists: the heats of a race, as in `retrograde.tune.race`.
        grids: recipes run only on so many grids, on which the first of them is best; None for all.
        twice: so many solvers, the best with the plan's budget, are raced with twice the budget too, for one that is run on
            all items; None for all.
        epochs: passes over the trajectories in which one is learned.
    """

    fit: int
    validation: int
    held_out: int
    search: int
    levels: int
    starts: int
    refined: int
    candidates: int
    moments: int
    contest: tuple[str, ...] | None
    corrected: int = 0
    lessons: int = 0
    share: float = 0.1
    teacher: str = "dpmpp_3m"
    firsts: int = 0
    gate: float | None = None
    heat: int = 12
    between: tuple[tuple[int, int], ...] = ()
    finalists: int = 6
    grids: int | None = None
    twice: int | None = None
    epochs: int = 12
    even: int = 0
    memory: int = 4
    elements: tuple[float | None, ...] = (None, 0.3, 0.03)
    last: tuple[float, ...] = ()
    past: int = 0
    bands: tuple[int, ...] = ()
    shifts: tuple[float, ...] = ()


_LONG: dict[str, Any] = {"even": 120, "memory": 8, "elements": (None, 0.3, 0.003), "last": (0.003, 0.0003)}

EFFORTS = {
    "seconds": Effort(
        fit=64,
        validation=24,
        held_out=24,
        search=40,
        levels=28,
        starts=6,
        refined=1,
        candidates=24,
        moments=192,
        contest=QUICK_RECIPES,
        elements=(0.05,),
        teacher="unipc_3",
        firsts=8,
        gate=1.5,
        heat=3,
        between=((8, 8),),
        finalists=3,
        grids=5,
        twice=8,
    ),
    "minutes": Effort(512, 128, 128, 256, 64, 40, 2, 60, 1024, None, 2048, 12, **_LONG),
    "hours": Effort(640, 128, 256, 256, 64, 40, 2, 60, 4096, None, 20480, 24, 0.2, epochs=4, **_LONG),
}
