"""Search over the initial noise of a fixed plan: at random, and in the neighbourhood of the best so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from retrograde import systems
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.search.trials import Found, Trials, Verifier, best, of_each

SCALING: dict[str, Any] = {
    "title": "Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps",
    "authors": (
        "Nanye Ma",
        "Shangyuan Tong",
        "Haolin Jia",
        "Hexiang Hu",
        "Yu-Chuan Su",
        "Mingda Zhang",
        "Xuan Yang",
        "Yandong Li",
        "Tommi Jaakkola",
        "Xuhui Jia",
        "Saining Xie",
    ),
    "year": 2025,
    "arxiv": "2501.09732",
    "home": "search",
}


def random(
    denoiser: Any,
    plan: Plan,
    verifier: Verifier | Sequence[Verifier],
    n: int = 1,
    seed: int = 0,
    *,
    draws: int = 16,
    **options: Any,
) -> Found:
    """Return the best of `draws` samples for each of n searches: best-of-N, the control of every other search.

    The first candidate of search i is sample i of `rg.sample`, and the candidates of few draws are among those of more, so
    `trace` holds the result for every smaller number. Of independent verdicts with distribution function F the best has F^N.
    A search on a verifier finds what the verifier likes: watch a second one, and the variety of what is found.

    Args:
        verifier: a function of data [batch, *shape] and their searches [batch] to [batch], or several, whose ranks among
            the candidates are averaged.
        n: number of independent searches.
        draws: N, candidates of each.
        **options: condition (one, or one for each search), batch_size, dtype, device.

    Raises:
        BadValue, BadType, ShapeError, PlanError: see `Trials`; draws below 1.

    Reference: Ma et al., Inference-Time Scaling for Diffusion Models beyond Scaling Denoising Steps, 2025, arXiv 2501.09732.
    """
    if draws < 1:
        raise BadValue(f"draws={draws}", "draws >= 1", "draws=16")
    trials = Trials(denoiser, plan, verifier, n, seed, **options)
    searches = torch.arange(n).repeat_interleave(draws)
    numbers = trials.numbers(searches, torch.arange(draws).repeat(n))
    noises = trials.noise(numbers)
    samples, _ = trials.run(plan, searches, numbers, trials.scale * noises)
    verdicts = trials.judge(samples, searches).view(n, draws, -1)
    each = trials.ledger.nfe / draws
    trace = [((k + 1) * each, of_each(verdicts, best(verdicts[:, : k + 1]))) for k in range(draws)]
    chosen = best(verdicts)
    samples, noises = (of_each(found.view(n, draws, *found.shape[1:]), chosen) for found in (samples, noises))
    return Found(samples, of_each(verdicts, chosen), trials.scale * noises, tuple(trace), trials.ledger)


def zero_order(
    denoiser: Any,
    plan: Plan,
    verifier: Verifier | Sequence[Verifier],
    n: int = 1,
    seed: int = 0,
    *,
    neighbours: int = 4,
    rounds: int = 4,
    distance: float = 0.5,
    **options: Any,
) -> Found:
    """Return the best sample of a local search: neighbours of a pivot are tried, the best of all becomes the pivot.

        y_j = sqrt(1 - distance^2) pivot + distance xi_j,     xi_j ~ N(0, I)

    so that a neighbour of a noise that looks like noise does too. A pivot that nobody beats stays. One run for the first
    pivot, `neighbours` in each round; at distance 1 this is random search of the same number of runs, at 0 the pivot stays.

    Args:
        neighbours: N, candidates of a round.
        rounds: K.
        distance: lambda, in [0, 1].
        verifier, n, **options: see `random`.

    Raises:
        BadValue: a number below 1, or a distance outside [0, 1]; otherwise see `random`.

    Reference: Ma et al., 2025, arXiv 2501.09732. (Neighbours at a given distance; the formula is ours, and keeps the law.)
    """
    if neighbours < 1 or rounds < 1 or not 0.0 <= distance <= 1.0:
        given = f"neighbours={neighbours}, rounds={rounds}, distance={distance}"
        raise BadValue(given, "neighbours >= 1, rounds >= 1, 0 <= distance <= 1", "neighbours=4, rounds=4, distance=0.5")
    trials = Trials(denoiser, plan, verifier, n, seed, **options)
    alone = torch.arange(n)
    searches = alone.repeat_interleave(neighbours)
    numbers = trials.numbers(alone, 0)
    pivot = trials.noise(numbers)
    samples, _ = trials.run(plan, alone, numbers, trials.scale * pivot)
    verdicts = trials.judge(samples, alone)
    trace = [(trials.ledger.nfe, verdicts)]
    keep = math.sqrt(1.0 - distance**2)
    for k in range(rounds):
        numbers = trials.numbers(searches, 1 + k * neighbours + torch.arange(neighbours).repeat(n))
        tried = keep * pivot[searches] + distance * trials.noise(numbers)
        made, _ = trials.run(plan, searches, numbers, trials.scale * tried)
        said = trials.judge(made, searches)
        whole = [(pivot, tried), (samples, made), (verdicts, said)]
        joined = [torch.cat([old[:, None], new.view(n, neighbours, *new.shape[1:])], 1) for old, new in whole]
        chosen = best(joined[2])
        pivot, samples, verdicts = (of_each(values, chosen) for values in joined)
        trace.append((trials.ledger.nfe, verdicts))
    return Found(samples, verdicts, trials.scale * pivot, tuple(trace), trials.ledger)


systems.register(
    systems.System(
        call="rg.search.random(denoiser, plan, verifier, n=4, draws=16)",
        test="tests/search/test_noises.py::test_the_best_of_several_has_the_law_of_a_maximum",
        **SCALING,
    )
)
systems.register(
    systems.System(
        call="rg.search.zero_order(denoiser, plan, verifier, n=4, neighbours=4, rounds=4)",
        test="tests/search/test_noises.py::test_neighbours_at_distance_one_are_a_random_search_and_at_none_the_pivot",
        **SCALING,
    )
)
