"""LinearAG: an unconditional prediction from a linear combination of earlier ones; and which rows to guide at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, Prediction, prepare_condition
from retrograde.denoisers.carried import CARRIED, carried
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue
from retrograde.guide.branches import TwoBranches
from retrograde.guide.transform import Transform
from retrograde.guide.weight import KNOB as GUIDANCE
from retrograde.guide.weight import weight_at
from retrograde.plan import Plan
from retrograde.sampling import steps

KNOB = "unconditional"
"""Knob of the rows that do not ask their unconditional branch: its coefficients on earlier predictions, newest first."""

BRANCHES = ("conditional", "unconditional")


@final
@dataclasses.dataclass(frozen=True, eq=False)
class LinearlyGuided(Transform):
    """A guided denoiser that remembers its branches, and predicts the unconditional one where told to (see `linear`)."""

    memory: int
    obeys: ClassVar[frozenset[str]] = frozenset({KNOB})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        guided: TwoBranches = self.inner  # type: ignore[assignment]
        held = {branch: carried(knobs).get(f"linear/{branch}") for branch in BRANCHES}
        own = {f"linear/{branch}" for branch in BRANCHES}
        rest = {name: tensor for name, tensor in carried(knobs).items() if name not in own}
        passed = {name: value for name, value in knobs.items() if name not in (KNOB, CARRIED)} | (
            {CARRIED: rest} if rest else {}
        )
        if KNOB in knobs:
            only = guided.predict(x_t, t, condition, {**passed, GUIDANCE: 1.0}, network_time)
            conditional = only.parts["conditional"]
            guess = _combination(knobs[KNOB], {**held, "conditional": _pushed(held["conditional"], conditional.noise, None)})
            unconditional = Prediction(x_t, t, self.path, guess, "noise", anchor=conditional.anchor)
            weight = weight_at(guided.weight, self.path, t, passed, x_t.ndim)
            made = guided.combine(conditional, unconditional, weight, passed)
            parts = {"conditional": conditional, "unconditional": unconditional}
            made = dataclasses.replace(made, parts=parts, evaluations=only.evaluations)
        else:
            made = guided.predict(x_t, t, condition, passed, network_time)
        if not set(BRANCHES) <= made.parts.keys():
            return made
        left = {f"linear/{b}": _pushed(held[b], made.parts[b].noise, self.memory) for b in BRANCHES}
        return dataclasses.replace(made, carried={**made.carried, **left})


def _pushed(held: Tensor | None, newest: Tensor, memory: int | None) -> Tensor:
    """Return the past with one more prediction in front, [n, k, ...]."""
    past = newest[:, None] if held is None else torch.cat([newest[:, None], held], 1)
    return past[:, :memory]


def _combination(coefficients: Mapping[str, Sequence[float]], past: Mapping[str, Tensor | None]) -> Tensor:
    total: Tensor | None = None
    for branch in BRANCHES:
        weights, stack = coefficients[branch], past[branch]
        if not weights:
            continue
        if stack is None or stack.shape[1] < len(weights):
            have = 0 if stack is None else stack.shape[1]
            raise BadValue(
                f"{len(weights)} coefficients on {branch} predictions where {have} were made",
                "as many as are remembered",
                "start the run at the first row of the plan that was fitted",
            )
        part = torch.einsum("nk...,k->n...", stack[:, : len(weights)], torch.as_tensor(weights).to(stack))
        total = part if total is None else total + part
    if total is None:
        raise BadValue(f"knob {KNOB!r} without coefficients", "at least one", "fit it with rg.guide.fit_linear")
    return total


def linear(guided: AbstractDenoiser, memory: int = 8) -> LinearlyGuided:
    """Return the guided denoiser for plans whose rows may predict their unconditional branch instead of asking it,

        eps_u = sum_i b^c_i eps_c(i) + sum_i b^u_i eps_u(i),

    over the last `memory` evaluations, the conditional one of this row included; the coefficients are the row's knob
    "unconditional", which `fit_linear` fits. What was predicted stands in the past like what was asked.

    Raises:
        BadType: the denoiser has no two branches.
        BadValue: memory < 1.

    Reference: Castillo et al., Adaptive Guidance, 2023, arXiv 2312.12487 (LinearAG).
    """
    if not isinstance(guided, TwoBranches):
        raise BadType(
            f"linear guidance of {type(guided).__name__}",
            "a transform with a conditional and an unconditional branch",
            "rg.guide.linear(rg.guide.cfg(denoiser, 3.0))",
        )
    if memory < 1:
        raise BadValue(f"memory={memory}", "at least 1", "memory=8")
    return LinearlyGuided(guided, memory)


def fit_linear(
    denoiser: LinearlyGuided,
    plan: Plan,
    rows: Sequence[int] | None = None,
    *,
    n: int = 200,
    seed: int = 0,
    condition: Any = None,
    ridge: float = 1e-8,
) -> Plan:
    """Return the plan whose given rows predict their unconditional branch, by least squares on n guided trajectories.

    The trajectories are those of full guidance; one scalar for each row, branch and earlier evaluation.

    Args:
        denoiser: `linear(cfg(...))`.
        rows: rows that ask, to be told; by default every other one of the first half, as the authors do.
        condition: what `sample` takes for n items.
        ridge: relative to the energy of each prediction.

    Returns:
        The plan with knobs, its provenance naming for each row the part of the variance that is explained on the last fifth
        of the trajectories, which nothing was learned from.

    Raises:
        BadValue: a row that asks nothing, or the first.
    """
    asking = [k for k, row in enumerate(plan.rows) if row.time is not None]
    rows = asking[1 : (len(asking) + 1) // 2 : 2] if rows is None else sorted(rows)
    if unfit := [k for k in rows if k not in asking[1:]]:
        raise BadValue(f"rows {unfit}", f"rows that ask, after the first: {asking[1:]}", f"rows={asking[1:][:2]}")
    past: dict[str, list[Tensor]] = {branch: [] for branch in BRANCHES}
    knobs, explained = dict[int, dict[str, list[float]]](), dict[str, float]()
    learned = n - n // 5
    prepared = prepare_condition(denoiser, condition, n)
    for k, state in enumerate(steps(plan, denoiser, n, seed, condition=prepared)):
        if state.prediction is None:
            continue
        made = {branch: state.prediction.parts[branch].noise.flatten(1).double() for branch in BRANCHES}
        if k in rows:
            known = [[made["conditional"], *past["conditional"]][: denoiser.memory], past["unconditional"]]
            columns = torch.stack([*known[0], *known[1]])
            weights = _least_squares(columns[:, :learned], made["unconditional"][:learned], ridge)
            goal = made["unconditional"][learned:]
            missed = goal - torch.einsum("k,knd->nd", weights, columns[:, learned:])
            explained[str(k)] = 1.0 - float(missed.var() / goal.var())
            count = len(known[0])
            knobs[k] = {"conditional": weights[:count].tolist(), "unconditional": weights[count:].tolist()}
        past = {branch: [made[branch], *past[branch]][: denoiser.memory] for branch in BRANCHES}
    told = [
        dataclasses.replace(row, knobs={**row.knobs, KNOB: knobs[k]}) if k in knobs else row
        for k, row in enumerate(plan.rows)
    ]
    return dataclasses.replace(plan, rows=tuple(told), provenance={**plan.provenance, "linear guidance": explained})


def _least_squares(columns: Tensor, goal: Tensor, ridge: float) -> Tensor:
    flat, target = columns.flatten(1), goal.flatten()
    gram = flat @ flat.T
    return torch.linalg.solve(gram + ridge * torch.diag(gram.diagonal()), flat @ target)


def policy(
    denoiser: AbstractDenoiser, plan: Plan, guided: int, *, n: int = 32, seed: int = 0, condition: Any = None
) -> Plan:
    """Return the plan in which the best `guided` rows are guided and the others ask the conditional branch alone.

    Best is nearest, in mean squared distance of the end, to guidance in every row, on n items; found by exchange: beginning
    with the first rows, one guided row and one that is not change places as long as that helps. (The authors relax the
    choice and descend on it; with so few rows exchange needs no gradient.) The rows carry the knob "guidance" = 1 where
    they are not guided, so the pattern is part of the plan and costs no decision while running.

    Raises:
        BadValue: not 0 <= guided <= the rows that ask.
    """
    asking = [k for k, row in enumerate(plan.rows) if row.time is not None]
    if not 0 <= guided <= len(asking):
        raise BadValue(f"guided={guided}", f"0 to {len(asking)}, the rows that ask", f"guided={len(asking) // 2}")
    prepared = prepare_condition(denoiser, condition, n)

    def with_pattern(chosen: frozenset[int]) -> Plan:
        rows = [
            dataclasses.replace(row, knobs={**row.knobs, GUIDANCE: 1.0}) if k in asking and k not in chosen else row
            for k, row in enumerate(plan.rows)
        ]
        return dataclasses.replace(plan, rows=tuple(rows))

    def end(chosen: frozenset[int]) -> Tensor:
        *_, last = steps(with_pattern(chosen), denoiser, n, seed, condition=prepared)
        return last.x_t

    goal = end(frozenset(asking))
    best = frozenset(asking[:guided])
    least, improved = float((end(best) - goal).pow(2).mean()), True
    while improved:
        improved = False
        for out in sorted(best):
            for into in sorted(set(asking) - best):
                trial = best - {out} | {into}
                error = float((end(trial) - goal).pow(2).mean())
                if error < least:
                    best, least, improved = trial, error, True
                    break
            if improved:
                break
    found = {"guided": sorted(best), "error": least**0.5, "n": n, "seed": seed}
    return dataclasses.replace(with_pattern(best), provenance={**plan.provenance, "guidance policy": found})
