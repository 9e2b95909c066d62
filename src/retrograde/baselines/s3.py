"""S3: the solver of every step (order, parameterization, corrector, level), found by evolution that a predictor guides."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch

from retrograde import systems
from retrograde.baselines.auto_diffusion import Score, distance, finite, opened
from retrograde.baselines.programs import Schedule, child, first
from retrograde.baselines.ranking import ranked
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.recipes.recipe import level
from retrograde.tune.teacher import Progress, levels_of


@dataclasses.dataclass(frozen=True)
class Rounds:
    """Numbers of the search.

    Attributes:
        trials: schedules that are truly scored.
        first: how many of them before the predictor is asked, `SINGLE` among them.
        stages: how often it is taught anew; the rest of the trials is shared among the stages.
        pool: candidates it ranks for each stage.
        parents: the best, that candidates are made from.
    """

    trials: int = 300
    first: int = 60
    stages: int = 8
    pool: int = 400
    parents: int = 12

    def __post_init__(self) -> None:
        if min(self.first, self.stages, self.pool, self.parents) < 1 or self.trials < self.first:
            raise BadValue(f"{self}", "numbers >= 1, first <= trials", "Rounds(trials=300, first=60)")


def s3(
    denoiser: AbstractDenoiser,
    nfe: int,
    score: Score | None = None,
    *,
    seed: int = 0,
    n: int = 64,
    levels: int = 60,
    rounds: Rounds | None = None,
    predictor: bool = False,
    condition: Any = None,
    progress: Progress | None = None,
    journal: str | PathLike[str] | None = None,
) -> Plan:
    """Return the program with the least score: in every step another order, parameterization, corrector and level.

    The first programs are published solvers and chance; then, in stages, the best are mutated and crossed, by less and less.
    As published, a predictor learns to rank what was scored, and only those of a pool that it likes best are scored. With a
    few hundred trials that is no gain here (geometric means over five searches of 200 trials, 5 evaluations: 0.0744 with it,
    0.0549 without on five points in four dimensions; 0.0328 and 0.0335 on 40 of the 8x8 digits), so it is not the default:
    its order and the true one of programs it has not seen correlate by 0.2 to 0.3.

    Args:
        score: see `auto_diffusion`.
        levels: how many levels the plan's are chosen from; the first and the last are in every plan, which ends at the last.
        predictor: whether a predictor chooses from the pool.
        journal: see `auto_diffusion`.

    Raises:
        BadValue: fewer levels than the plan has.

    Reference: Liu, Ning, Yang and Wang, A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic
    Models, 2023, arXiv 2312.07243.
    """
    rounds, path, dice = rounds or Rounds(), denoiser.path, random.Random(seed)
    times = [t for t in levels_of(denoiser, levels) if path.a(t) > 0.0]
    if not 1 <= nfe < len(times):
        raise BadValue(f"nfe={nfe}", f"1 to {len(times) - 1}, the levels to choose from less one", f"levels={2 * nfe}")
    given, evaluations = distance(denoiser, n, seed, condition) if score is None else (score, 0)
    tell, settled = progress or (lambda stage, part: None), dataclasses.asdict(rounds)
    book = opened(journal, denoiser, nfe, seed, n, condition, "s3", score is None, times, settled, predictor)
    lams = [level(path, t).lam for t in times]
    scores: dict[Schedule, float] = {}

    def scored(schedules: Sequence[Schedule], limit: int) -> None:
        for schedule in schedules:
            if schedule not in scores and len(scores) < limit:
                tell("schedules", len(scores) / rounds.trials)
                value = book.value(str(schedule), lambda one=schedule: finite(given, one.plan(denoiser, times)))
                scores[schedule] = value

    scored(first(len(times), nfe, rounds.first, dice), rounds.first)
    generator = torch.Generator().manual_seed(seed)
    for stage in range(rounds.stages):
        best = sorted(scores, key=lambda one: scores[one])[: rounds.parents]
        pool = [child(best, len(times), 1.0 - stage / rounds.stages, dice) for _ in range(rounds.pool)]
        pool = [one for one in dict.fromkeys(pool) if one not in scores]
        if predictor and pool:
            pool = ranked(pool, scores, lams, seed + stage, generator)
        scored(pool, rounds.first + (rounds.trials - rounds.first) * (stage + 1) // rounds.stages)
    book.done()
    best = min(scores, key=lambda one: scores[one])
    plan = best.plan(denoiser, times)
    evaluations += len(scores) * nfe * n if score is None else 0
    report = {"score": scores[best], "tried": len(scores), "evaluations": evaluations}
    provenance = {**plan.provenance, "tuner": "s3", "nfe": nfe, "seed": seed}
    provenance["steps"] = [dataclasses.asdict(step) for step in best.steps]
    return dataclasses.replace(plan, report=report, provenance=provenance)


systems.register(
    systems.System(
        title="A Unified Sampling Framework for Solver Searching of Diffusion Probabilistic Models",
        authors=("Enshu Liu", "Xuefei Ning", "Huazhong Yang", "Yu Wang"),
        year=2023,
        arxiv="2312.07243",
        home="tune",
        call="rg.baselines.s3(denoiser, nfe=6)",
        test="tests/baselines/test_s3.py::test_it_is_at_least_as_good_as_every_single_solver",
    )
)
