"""Rollover budget forcing: children are drawn until one is better, and what that saves goes to later steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from retrograde import systems
from retrograde.errors import BadValue, PlanError
from retrograde.particles.split import ask_first
from retrograde.plan import Plan
from retrograde.search.trials import Found, Trials, Verifier, best
from retrograde.state import State


def rollover(
    denoiser: Any,
    plan: Plan,
    verifier: Verifier,
    n: int = 1,
    seed: int = 0,
    *,
    nfe: int = 100,
    starts: int | None = None,
    roll: bool = True,
    **options: Any,
) -> Found:
    """Return the sample that a budget of `nfe` evaluations buys, spent row by row where it is needed.

    `starts` noises are judged by their data means, and the best goes on. The rest of the budget is dealt evenly to the
    stochastic rows of the plan. In each, children are drawn one by one, x' = row(x, fresh noise), and judged by their own
    data means, which costs the evaluation that the next row needs anyway. A child better than whatever was seen before goes
    on at once, and what the row did not spend rolls over to the next; where the quota ends, the best child of the row goes
    on. The last row spends all that is left and its best child is the sample.

    A flow becomes stochastic by its recipe, and moves to another path by its plan's (see `denoisers.on_path`):

        rg.plan("interpolant_sde", rg.paths.VP(), nfe=10, diffusion=3.0, schedule="squared")

    is the paper's, of g = 3 t^2 on the path that preserves variance, whatever path the denoiser was trained on. In units of
    the noise level that path differs from a flow's own in nothing but where the rows are and how much noise they draw. With
    this g it is the better where data part at high noise, as pictures do, and the worse where they part at one (the test
    shows both); schedule="reverse", the reversed diffusion, draws noise at every level and found more than either.

    Args:
        verifier: one, since verdicts of different rows are compared.
        nfe: evaluations for each search, at most; a search without `roll` spends fewer.
        starts: noises tried; a twentieth of the budget when left out, as in the paper.
        roll: whether quotas that were not spent are kept.
        n, **options: see `random`; batches are of the size of n times starts.

    Raises:
        BadValue: several verifiers, or a budget that does not give every row a child; otherwise see `random`.
        PlanError: a plan without stochastic rows.

    Reference: Kim, Yoon, Hwang, Sung, Inference-Time Scaling for Flow Models via Stochastic Generation and Rollover Budget
    Forcing, 2025, arXiv 2503.19385.
    """
    trials = Trials(denoiser, plan, verifier, n, seed, **options)
    if len(trials.verifiers) > 1:
        raise BadValue(f"{len(trials.verifiers)} verifiers", "one: verdicts of different rows are compared", "add them up")
    cut = ask_first(plan)
    noisy = [i for i, row in enumerate(cut.rows) if row.noises]
    if not noisy:
        recipe = "rg.plan('interpolant_sde', rg.paths.VP(), nfe=10, diffusion=3.0, schedule='squared')"
        raise PlanError(f"a search among children with {plan.recipe}, which draws no noise", "a stochastic plan", recipe)
    parts = [cut[i:j] for i, j in zip(noisy, [*noisy[1:], len(cut)], strict=True)]
    starts = max(1, nfe // 20) if starts is None else starts
    first = cut[: noisy[0]]
    quotas = _quotas(nfe - starts * first.nfe, len(parts))
    if starts < 1 or any(quota < part.nfe for quota, part in zip(quotas, parts, strict=True)):
        least = max(starts, 1) * first.nfe + len(parts) * max(part.nfe for part in parts)
        given = f"nfe={nfe} with starts={starts} for {len(parts)} stochastic rows"
        raise BadValue(given, f"starts >= 1 and a child for every row: nfe >= {least}", f"nfe={least}")
    alone = torch.arange(n)
    searches = alone.repeat_interleave(starts)
    numbers = trials.numbers(searches, torch.arange(starts).repeat(n))
    state = trials.state(first, searches, numbers, x=trials.scale * trials.noise(numbers))
    verdicts = trials.judge(state.mean, searches)
    chosen = alone * starts + best(verdicts.view(n, starts, 1)).cpu()
    state, highest = _of(state, chosen), verdicts[chosen, 0].cpu()
    trace = [(trials.ledger.nfe, verdicts[chosen])]
    drawn, bank = torch.full((n,), starts), torch.zeros(n, dtype=torch.long)
    for quota, part in zip(quotas, parts, strict=True):
        bank = (bank if roll else torch.zeros_like(bank)) + quota
        kept: State | None = None
        held = torch.full((n,), -torch.inf, dtype=torch.float64)
        active = alone
        while len(active):
            made = trials.state(part, active, trials.numbers(active, drawn[active]), state=_of(state, active))
            said = trials.judge(made.x_t if part is parts[-1] else made.mean, active)[:, 0].cpu()
            drawn[active] += 1
            bank[active] -= part.nfe
            better = said > held[active]
            kept = made if kept is None else _replaced(kept, made, active[better], better)
            held[active] = torch.maximum(said, held[active])
            beaten = (said > highest[active]) & (part is not parts[-1])
            highest[active] = torch.maximum(said, highest[active])
            active = active[~beaten & (bank[active] >= part.nfe)]
        state = kept if kept is not None else state
        trace.append((trials.ledger.nfe, held[:, None].clone()))
    return Found(state.x_t, trace[-1][1].to(state.x_t.device), None, tuple(trace), trials.ledger)


def _quotas(budget: int, count: int) -> list[int]:
    """Return a budget in whole numbers, as even as they get."""
    return [budget * (k + 1) // count - budget * k // count for k in range(count)]


def _of(state: State, places: torch.Tensor) -> State:
    """Return a state of the particles at these places, to go on from: the row that follows asks anew."""
    return dataclasses.replace(state, x_t=state.x_t[places], prediction=None, memory=state.memory.of(places))


def _replaced(kept: State, made: State, searches: torch.Tensor, better: torch.Tensor) -> State:
    """Return the states that are kept, with those of the children that are better in their searches' places."""
    places = torch.arange(len(kept.x_t))
    places[searches] = len(kept.x_t) + better.nonzero()[:, 0]
    memory = kept.memory.beside(made.memory).of(places)
    return dataclasses.replace(kept, x_t=memory.states[0] if memory.states else kept.x_t, prediction=None, memory=memory)


systems.register(
    systems.System(
        title="Inference-Time Scaling for Flow Models via Stochastic Generation and Rollover Budget Forcing",
        authors=("Jaihoon Kim", "Taehoon Yoon", "Jisung Hwang", "Minhyuk Sung"),
        year=2025,
        arxiv="2503.19385",
        home="search",
        call="rg.search.rollover(denoiser, plan, verifier, n=4, nfe=100)",
        test="tests/search/test_budget.py::test_at_equal_evaluations_it_finds_a_rare_mode_more_often",
    )
)
