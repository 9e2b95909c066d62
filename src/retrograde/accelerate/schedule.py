"""Columns of a plan that say in which rows to reuse what an earlier row computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import Any

from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.sites import REUSE


def asking(plan: Plan) -> list[int]:
    """Return the numbers of the rows that ask the network."""
    return [k for k, row in enumerate(plan.rows) if row.time is not None]


def reuse(plan: Plan, full: Collection[int], value: Any = True, knob: str = REUSE) -> Plan:
    """Return the plan whose evaluations reuse, all but those numbered in `full`.

    Args:
        full: numbers of the evaluations (0 is the first) that compute everything; the first always does.
        value: what the knob says in the others.

    Raises:
        BadValue: a number that is no evaluation of the plan.
    """
    places = asking(plan)
    if wrong := [k for k in full if not 0 <= k < len(places)]:
        raise BadValue(f"evaluation {wrong[0]} of {len(places)}", f"numbers 0..{len(places) - 1}", "full={0, 2, 4}")
    reusing = {place for k, place in enumerate(places) if k not in full and k > 0}
    rows = []
    for place, row in enumerate(plan.rows):
        knobs = {name: kept for name, kept in row.knobs.items() if name != knob}
        rows.append(dataclasses.replace(row, knobs=knobs | ({knob: value} if place in reusing else {})))
    kept = {name: entry for name, entry in plan.provenance.items() if name != knob}
    note = {knob: {"full": sorted({0, *full}), "value": value}} if reusing else {}
    return dataclasses.replace(plan, rows=tuple(rows), provenance=kept | note)


def every(plan: Plan, interval: int, value: Any = True, *, begin: int = 0, knob: str = REUSE) -> Plan:
    """Return the plan that computes everything in every `interval`-th evaluation, and in all before number `begin`.

    Raises:
        BadValue: an interval below 1.
    """
    if interval < 1:
        raise BadValue(f"interval={interval}", "1 (never reuse) or more", "interval=3")
    count = plan.nfe
    return reuse(plan, [k for k in range(count) if k < begin or (k - begin) % interval == 0], value, knob)


def centred(plan: Plan, full: int, centre: float | None = None, power: float = 1.4, value: Any = True) -> Plan:
    """Return the plan with `full` full evaluations of its N, dense around number `centre`.

    u_j spaced evenly from -c^(1/p) to (N - c)^(1/p), j < full, and then number c + sign(u) |u|^p, rounded to different
    ones (p falls by 0.02 from its value until they are). The authors' code takes a real part where the root of a negative
    number is meant; here -c^(1/p) is minus the root, which the paper's formula says.

    Args:
        centre: c; 0.3 N where it is left out.

    Raises:
        BadValue: full, centre or power outside its range.

    Reference: Ma, Fang, Wang, DeepCache, 2023, arXiv 2312.00858, section 3.4 (non-uniform).
    """
    count = plan.nfe
    c = 0.3 * count if centre is None else float(centre)
    if not 1 <= full <= count or not 0 <= c <= count or power < 1:
        raise BadValue(f"full={full}, centre={c}, power={power}", f"1..{count}, 0..{count}, power >= 1", "full=10")
    return reuse(plan, _centred(count, full, c, power), value)


def _centred(count: int, full: int, c: float, power: float) -> list[int]:
    low, high = -(c ** (1 / power)), (count - c) ** (1 / power)
    places = [low + (high - low) * j / full for j in range(full)]
    numbers = sorted({min(max(int(math.copysign(abs(u) ** power, u) + c), 0), count - 1) for u in places})
    if len(numbers) == full:
        return numbers
    if power - 0.02 < 1.0:
        return sorted({round(j * count / full) for j in range(full)})
    return _centred(count, full, c, power - 0.02)
