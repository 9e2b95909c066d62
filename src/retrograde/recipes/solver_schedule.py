"""Solver schedules of the unified sampling framework: another order, parameterization and corrector in every step.

A step from level s to level t expands the prediction f in half the log-SNR around a start point, with h = lam_t - lam_s,

    data:  x_t = (s_t/s_s) x_s + a_t sum_k h^(k+1) phi_(k+1)(-h) f^(k),
    noise: x_t = (a_t/a_s) x_s - s_t sum_k h^(k+1) phi_(k+1)(h) f^(k),

with derivatives f^(k) from differences to the start point of the predictions at chosen "active" points, the first of them
times a relaxation 1 + O(h). All of it is linear, so a schedule is a table; the plan holds it with data predictions, and a
noise prediction of the past as the state it was made of.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.paths import Path
from retrograde.plan import Plan, Row
from retrograde.recipes.recipe import Level, level, made

Term = Counter[tuple[str, int]]
"""A combination of states ("x", number) and data predictions ("m", number), both counted from the first."""

KINDS = ("data_prediction", "noise_prediction")
FIRST = ("no_afs", "zero_x0")


def from_solver_schedule(decisions: Mapping[str, Any], path: Path) -> Plan:
    """Return the plan of a solver schedule as its authors store it (`torch.load(file)`), on the path it was searched for.

    It has `timesteps` (path times, noisiest first) and, for every step, `orders`, `prediction_types`, `start_points`,
    `derivative_types` and `corrector_types`; `afs` "zero_x0" takes the first state for pure noise and asks nothing there.
    The last row ends at the last of the times; the run starts from noise of standard deviation 1.

    Raises:
        BadValue: a decision that cannot be honoured: predictions of DPM-Solver-v3 (they need the statistics of its model),
            skip_coefficients other than one (they change the network), an average of the data as first prediction.
        ShapeError: lists of different lengths.

    Reference: Liu et al., A Unified Sampling Framework, 2023, arXiv 2312.07243.
    """
    times = [float(t) for t in torch.as_tensor(decisions["timesteps"]).tolist()]
    n = len(times) - 1
    _check(decisions, n)
    levels = [level(path, t) for t in times]
    rows: list[Row] = []
    asked = 0
    states = [0]  # number of the state that stands for each level
    means: list[Term] = []
    noises: list[Term] = []

    def remember(here: Level, mean: Term | None, state: int) -> None:
        mean = mean if mean is not None else Term({("x", state): (1.0 - here.s) / here.a})
        means.append(mean)
        noises.append(_sum([(1.0 / here.s, Term({("x", state): 1.0})), (-here.a / here.s, mean)]))

    time: float | None = None
    if decisions.get("afs", "no_afs") == "no_afs":
        time, asked = times[0], 1
        remember(levels[0], Term({("m", 0): 1.0}), 0)
    else:
        remember(levels[0], None, 0)
    for step in range(n):
        kind, corrector = decisions["prediction_types"][step], decisions["corrector_types"][step]
        known = means if kind == "data_prediction" else noises
        start = len(known) + decisions["start_points"][step]
        orders = int(decisions["orders"][step]), decisions["derivative_types"][step]
        term = _update(levels, step + 1, start, known, states[start], kind, *orders)
        rows.append(_row(time, times[step + 1], term, len(rows), asked))
        states.append(len(rows))
        corrected = corrector["type"] != "no_corrector"
        time = None
        if corrected or step != n - 1:
            time, asked = times[step + 1], asked + 1
            remember(levels[step + 1], Term({("m", asked - 1): 1.0}), states[-1])
        if corrected:
            start = len(known) + corrector["start_point"]
            orders = int(corrector["taylor_order"]), corrector["derivative_type"]
            term = _update(levels, step + 1, start, known, states[start], kind, *orders)
            rows.append(_row(time, times[step + 1], term, len(rows), asked))
            states[-1], time = len(rows), None
    provenance = {"peer": "USF", "timesteps": times, "start_noise": 1.0 / path.s(times[0]), "predicts": "noise"}
    return made(path, rows, "data", "usf@1", provenance, start=times[0])


def _check(decisions: Mapping[str, Any], n: int) -> None:
    for name in ("orders", "prediction_types", "start_points", "derivative_types", "corrector_types"):
        if len(decisions[name]) != n:
            raise ShapeError(
                f"{name} of {len(decisions[name])} steps with {n + 1} timesteps", f"{n} entries", "use one file"
            )
    for kind in decisions["prediction_types"]:
        if kind not in KINDS:
            raise BadValue(
                f"prediction_types with {kind!r}", f"{KINDS}: others need statistics of the model", "a schedule without it"
            )
    if decisions.get("afs", "no_afs") not in FIRST:
        raise BadValue(f"afs={decisions['afs']!r}", f"{FIRST}", "afs='zero_x0'")
    skips = decisions.get("skip_coefficients")
    if skips is not None and not bool((torch.as_tensor(skips) == 1.0).all()):
        raise BadValue(
            f"skip_coefficients={torch.as_tensor(skips).tolist()}",
            "ones: they scale connections inside the network",
            "scale them in the network, and leave skip_coefficients out",
        )


def _sum(parts: Sequence[tuple[float, Term]]) -> Term:
    total = Term()
    for factor, term in parts:
        for key, value in term.items():
            total[key] += factor * value  # type: ignore[assignment]
    return total


def _update(
    levels: Sequence[Level],
    target: int,
    start: int,
    known: Sequence[Term],
    state: int,
    kind: str,
    order: int,
    derivatives: Sequence[Mapping[str, Any]],
) -> Term:
    """Return the state at levels[target], expanded to `order` terms around the prediction number `start`."""
    here, there = levels[start], levels[target]
    h = there.lam - here.lam
    data = kind == "data_prediction"
    hh = -h if data else h
    scale = there.a if data else -there.s
    phis, phi, factorial = [], math.exp(hh), 1.0
    for k in range(order):
        factorial *= max(k, 1)
        phi = (phi - 1.0 / factorial) / hh
        phis.append(phi)
    keep = there.s / here.s if data else there.a / here.a
    parts = [(keep, Term({("x", state): 1.0})), (scale * h * phis[0], known[start])]
    for k in range(1, order):
        chosen = derivatives[k - 1]
        points = [len(known) + p for p in chosen["active_points"]]
        factor = scale * h ** (k + 1) * phis[k] * (_relaxed(chosen, h, data) if k == 1 else 1.0)
        distances = np.array([levels[p].lam - here.lam for p in points])
        rows = np.array([distances**i / math.factorial(i) for i in range(1, len(points) + 1)])
        unit = np.eye(len(points))[k - 1]
        for weight, point in zip(np.linalg.solve(rows, unit), points, strict=True):
            parts += [(factor * float(weight), known[point]), (-factor * float(weight), known[start])]
    return _sum(parts)


def _relaxed(chosen: Mapping[str, Any], h: float, data: bool) -> float:
    """The factor on the first derivative."""
    kind = chosen["relaxation"]
    signed = -h if data else h
    match kind:
        case None | "no_relaxation":
            return 1.0
        case "linear":
            return 1.0 + float(chosen.get("relaxation_coefficient", 0.0)) * h
        case "dpmsolver-2" | "unipc-bh2":
            return 0.5 * signed * math.expm1(signed) / (math.expm1(signed) - signed)
        case "unipc-bh1":
            return 0.5 * signed * signed / (math.expm1(signed) - signed)
        case "0.5exp" | "-0.5exp":
            return 1.0 + (0.5 if kind == "0.5exp" else -0.5) * math.expm1(signed)
    raise UnknownName("relaxation", str(kind), ("linear", "dpmsolver-2", "unipc-bh1", "unipc-bh2", "0.5exp", "-0.5exp"))


def _row(time: float | None, next_time: float, term: Term, made_states: int, asked: int) -> Row:
    """Return the row of a combination, newest first; state number 0 is the first, `made_states` the newest."""
    states = {made_states - number: value for (what, number), value in term.items() if what == "x"}
    outputs = {asked - 1 - number: value for (what, number), value in term.items() if what == "m"}

    def listed(found: dict[int, Any]) -> tuple[float, ...]:
        return tuple(float(found.get(i, 0.0)) for i in range(max(found, default=-1) + 1))

    return Row(time, next_time, listed(states) or (0.0,), listed(outputs))
