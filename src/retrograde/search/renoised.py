"""Search over paths: runs are noised again on the way, and the best branches go on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from retrograde import systems
from retrograde.errors import BadValue, PlanError
from retrograde.plan import Plan
from retrograde.search.noises import SCALING
from retrograde.search.trials import Found, Trials, Verifier, best, of_each, standing

_STREAM = -43.0
"""Where the noise that branches is drawn, apart from that of rows."""


def over_paths(
    denoiser: Any,
    plan: Plan,
    verifier: Verifier | Sequence[Verifier],
    n: int = 1,
    seed: int = 0,
    *,
    paths: int = 4,
    branches: int = 2,
    begin: int | None = None,
    up: int = 2,
    down: int = 4,
    **options: Any,
) -> Found:
    """Return the best sample of runs that go back and branch: `up` levels of the plan noisier, then `down` rows on.

    `paths` noises are run for `begin` rows. Then, until the data is reached, each path is noised again `branches` times,

        x' = (a'/a) x + sqrt(s'^2 - (a'/a)^2 s^2) xi,

    run for `down` rows, judged by its newest data mean, and the best `paths` of all branches go on. Finished samples are
    judged themselves. The cost is paths · nfe(first rows) + paths · branches · nfe(rows of the rounds), in every search.

    Args:
        paths, branches: N and M.
        begin: row of the plan before which the first branching is; `up` when left out, so that it restarts from noise.
        up, down: levels by which a round goes back, and rows that it then runs; up < down.
        verifier, n, **options: see `random`.

    Raises:
        BadValue: a number outside its range; otherwise see `random`.
        PlanError: a plan whose rows look back further than a branching lets them.

    Reference: Ma et al., 2025, arXiv 2501.09732. (There the levels are those of sigma, here those of the plan; the data mean
    is that of the last evaluation, which costs nothing.)
    """
    begin, end = up if begin is None else begin, len(plan)
    if min(paths, branches, up) < 1 or not up < down or not up <= begin < end:
        given = f"paths={paths}, branches={branches}, begin={begin}, up={up}, down={down} for {end} rows"
        raise BadValue(given, "numbers >= 1, up < down, up <= begin < rows", "up=2, down=4 for a plan of some ten rows")
    rounds = [(begin - up, begin - up + down)]
    while rounds[-1][1] < end:
        back = rounds[-1][1] - up
        rounds.append((back, back + down))
    for first, last in rounds:
        if plan[first:last].history:
            given = f"a plan of {plan.recipe}, whose row {first} cannot start anew"
            raise PlanError(given, "one-step rows at the branchings", "rg.plan('ddim', denoiser, nfe=10), or another `up`")
    trials = Trials(denoiser, plan, verifier, n, seed, **options)
    searches = torch.arange(n).repeat_interleave(paths)
    numbers = trials.numbers(searches, torch.arange(paths).repeat(n))
    x, _ = trials.run(plan[:begin], searches, numbers, trials.scale * trials.noise(numbers))
    at, seen, trace = begin, paths, []
    searches = torch.arange(n).repeat_interleave(paths * branches)
    verdicts = x.new_zeros(0)
    for first, last in rounds:
        numbers = trials.numbers(searches, seen + torch.arange(paths * branches).repeat(n))
        seen += paths * branches
        low, high = plan.rows[at - 1].next_time, plan.start if first == 0 else plan.rows[first - 1].next_time
        if low is None or high is None:
            raise PlanError(f"a branching at row {at}, after the data was made", "the end as the last row", "another `up`")
        gone = plan.path.a(high) / plan.path.a(low)
        fresh = math.sqrt(max(plan.path.s(high) ** 2 - (gone * plan.path.s(low)) ** 2, 0.0))
        x = gone * x.repeat_interleave(branches, 0) + fresh * trials.draw(numbers, (_STREAM, high))
        x, mean = trials.run(plan[first:last], searches, numbers, x)
        at = last
        judged = trials.judge(x if last >= end else mean, searches).view(n, paths * branches, -1)
        kept = standing(judged).topk(paths, 1).indices
        verdicts = of_each(judged, best(judged))
        trace.append((trials.ledger.nfe, verdicts))
        x = x.view(n, paths * branches, *x.shape[1:])
        x = of_each(x, best(judged)) if last >= end else x[torch.arange(n)[:, None], kept].flatten(0, 1)
    return Found(x, verdicts, None, tuple(trace), trials.ledger)


systems.register(
    systems.System(
        call="rg.search.over_paths(denoiser, plan, verifier, n=4, paths=4, branches=2)",
        test="tests/search/test_renoised.py::test_branches_keep_the_law_and_are_led_to_the_verifier",
        **SCALING,
    )
)
