"""Rows that ask and rows that move, apart: so that particles are chosen before their noise is drawn."""

from __future__ import annotations

import dataclasses

from retrograde.plan import Plan, Row


def ask_first(plan: Plan) -> Plan:
    """Return the plan with every stochastic row cut in two: one asks and stays, the next moves.

    The samples of a plain run are the same. Particles are resampled after every row, so with a potential, which is known as
    soon as the network has answered, the copies of a particle get noise of their own at once, where those of an uncut row
    have the same state and part only in the next row. On plans of few rows that is a large part of their variety.
    """
    rows: list[Row] = []
    for row in plan.rows:
        if row.time is None or not row.noises or row.next_time is None:
            rows.append(row)
            continue
        stay = Row(row.time, row.time, (1.0,), (0.0,), network_time=row.network_time, knobs=row.knobs)
        rows += [stay, dataclasses.replace(row, time=None, network_time=None, knobs={})]
    return dataclasses.replace(plan, rows=tuple(rows), report=None)
