"""One plan for items that start from different levels: a table for each, laid over one another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from retrograde import laws
from retrograde.denoisers.own_times import KNOB
from retrograde.errors import BadValue
from retrograde.plan import Coefficient, Plan, Row


def own_levels(plans: Sequence[Plan], ndim: int) -> Plan:
    """Return the plan whose rows hold, item by item, the coefficients and times of `plans`; they must have one layout.

    Coefficients become tensors [n, 1, ...] for items of `ndim` axes, times the knob "times" that
    `denoisers.AtOwnTimes` obeys; the clock of the table is that of the first plan. So the point-mass law, which is one of
    items at the levels of the clock, is missed; each of `plans` has been held to it.

    Raises:
        BadValue: no plans, or plans that differ in more than their levels.
    """
    layouts = {
        (
            p.path.fingerprint,
            p.basis,
            p.history,
            *((r.time is None, len(r.states), len(r.outputs), len(r.noises)) for r in p.rows),
        )
        for p in plans
    }
    if len(layouts) != 1:
        raise BadValue(f"{len(plans)} plans of {len(layouts)} layouts", "plans of one recipe and budget", "one nfe for all")
    first = plans[0]

    def stacked(k: int, part: str, place: int) -> Coefficient:
        values = [getattr(p.rows[k], part)[place] for p in plans]
        return torch.tensor(values, dtype=torch.float64).reshape(-1, *(1,) * ndim)

    rows = []
    for k, row in enumerate(first.rows):
        states, outputs, noises = (
            tuple(stacked(k, part, place) for place in range(len(getattr(row, part))))
            for part in ("states", "outputs", "noises")
        )
        knobs = {} if row.time is None else {KNOB: [p.rows[k].time for p in plans]}
        rows.append(Row(row.time, row.next_time, states, outputs, noises, knobs=knobs, renoise=row.renoise))
    return Plan(
        first.path,
        tuple(rows),
        first.basis,
        f"own_levels({first.recipe})",
        first.start,
        (laws.POINT_MASS,),
        provenance={"starts": [p.start for p in plans]},
    )
