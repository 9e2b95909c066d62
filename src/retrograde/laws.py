"""The laws of a plan, checked where it is made.

The point-mass law runs the table symbolically on data that is a single point mu, where every solver must be exact: there
x_t = a mu + b y + s eps, the denoiser's answer is known, and each state is a combination of mu, of the anchor y and of
independent noises. After each row the coefficient of mu must be a(next_time), that of y b(next_time), and the root of the
summed squares of the others s(next_time).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import Tensor

from retrograde.denoisers.prediction import conversion, readings
from retrograde.errors import PlanError
from retrograde.linear import LinearMap

if TYPE_CHECKING:
    from retrograde.plan import Plan, Row

POINT_MASS = "point mass"
TOLERANCE = 1e-7
"""Relative tolerance of the point-mass law: coefficients are float64, sums of a history lose a few digits."""

Symbol = dict[Any, Any]
"""A combination of mu (key "mu"), the anchor (key "anchor") and independent noises (other keys)."""


def check(plan: Plan) -> None:
    """Raise a PlanError that names the first row which breaks a law, and the law."""
    clock = plan.start
    states = 1 + plan.history
    outputs = draws = plan.history
    for k, row in enumerate(plan.rows):
        _finite(plan, k, row)
        if row.time is not None:
            outputs += len(readings(plan.basis))
            if clock is not None and not math.isclose(row.time, clock, rel_tol=1e-9, abs_tol=1e-12):
                _broken(
                    plan,
                    k,
                    "clock",
                    f"asks at time {row.time:.6g} while the state is at {clock:.6g}",
                    f"time={clock!r}",
                )
        if row.noises and "sde" not in plan.path.identities:
            _broken(plan, k, "noise", f"draws Gaussian noise, which path {plan.path.name!r} does not have", "take it out")
        draws += bool(row.noises)
        for name, used, had in (
            ("states", row.states, states),
            ("outputs", row.outputs, outputs),
            ("noises", row.noises, draws),
        ):
            if len(used) > had:
                _broken(plan, k, "history", f"uses {len(used)} {name}, {had} exist", f"use at most {had} {name} in row {k}")
        if row.correction is not None and row.correction.inputs - 1 > len(row.outputs):
            sees = f"has a correction of {row.correction.inputs - 1} outputs beside {len(row.outputs)} coefficients"
            _broken(plan, k, "history", sees, "give the row a coefficient, zero if need be, for every output it looks at")
        if row.next_time is None:
            if k != len(plan.rows) - 1:
                _broken(plan, k, "end", "returns the data before the last row", "make it the last row")
        elif not row.renoise and clock is not None and _rises(plan, clock, row.next_time):
            rise = f"rises from time {clock:.6g} to {row.next_time:.6g}"
            _broken(plan, k, "order", rise, "declare it with renoise=True")
        clock = row.next_time
        states += 1
    if plan.history == 0 and POINT_MASS not in plan.misses:
        _point_mass(plan)


def _rises(plan: Plan, clock: float, next_time: float) -> bool:
    return plan.path.sigma(next_time) > plan.path.sigma(clock) * (1 + 1e-9)


def _finite(plan: Plan, k: int, row: Row) -> None:
    if row.shift is not None and not bool(row.shift.isfinite().all()):
        _broken(plan, k, "finite", "has a shift that is not", "avoid a level where a logarithm diverges")
    if row.correction is not None and not row.correction.finite:
        _broken(plan, k, "finite", "has a correction that is not", "fit it again with a smaller rate")
    if plan.path.anchored != (row.anchor is not None):
        what = "leaves open how much of the anchor it adds" if plan.path.anchored else "adds an anchor, which its path lacks"
        _broken(plan, k, "anchor", what, "Row(anchor=...) on anchored paths, and only there")
    for name in ("states", "outputs", "noises", "anchor"):
        values = getattr(row, name)
        for value in values if isinstance(values, tuple) else () if values is None else (values,):
            if isinstance(value, LinearMap):
                finite = value.finite
            else:
                finite = bool(value.isfinite().all()) if isinstance(value, Tensor) else math.isfinite(value)
            if not finite:
                _broken(plan, k, "finite", f"has {name}={getattr(row, name)}", "avoid a level where a logarithm diverges")
    for name in ("time", "next_time", "network_time"):
        value = getattr(row, name)
        if value is not None and not math.isfinite(value):
            _broken(plan, k, "finite", f"has {name}={value}", "use finite times; the end is next_time=None")


def _combine(terms: Sequence[tuple[Any, Symbol]]) -> Symbol:
    total: Symbol = {}
    for coefficient, symbol in terms:
        factor = coefficient.double().numpy(force=True) if isinstance(coefficient, Tensor) else coefficient
        for key, value in symbol.items():
            total[key] = total.get(key, 0.0) + factor * value
    return total


def _point_mass(plan: Plan) -> None:
    path, clock = plan.path, cast(float, plan.start)
    states: list[Symbol] = [{"mu": path.a(clock), "anchor": path.b(clock), "prior": path.s(clock)}]
    outputs: list[Symbol] = []
    noises: list[Symbol] = []
    deep = [max((len(getattr(row, f)) for row in plan.rows), default=0) for f in ("states", "outputs", "noises")]
    for k, row in enumerate(plan.rows):
        if row.time is not None:
            # at a point mass the data mean is mu wherever the state is
            for kind in reversed(readings(plan.basis)):
                c_x, c_mu, c_y = conversion(path, row.time, "data", kind)
                outputs.insert(0, _combine([(c_x, states[0]), (c_mu, {"mu": 1.0}), (c_y, {"anchor": 1.0})]))
        mapped = any(isinstance(c, LinearMap) for c in (*row.states, *row.outputs, *row.noises))
        if row.shift is not None or row.correction is not None or mapped:
            _broken(
                plan,
                k,
                POINT_MASS,
                "adds a constant or a correction, or maps the state",
                f"declare misses=({POINT_MASS!r},)",
            )
        if row.noises:
            noises.insert(0, {k: 1.0})
        made = _combine(
            [
                *zip(row.states, states, strict=False),
                *zip(row.outputs, outputs, strict=False),
                *zip(row.noises, noises, strict=False),
                (0.0 if row.anchor is None else row.anchor, {"anchor": 1.0}),
            ]
        )
        end = row.next_time
        a, b, s = (1.0, 0.0, 0.0) if end is None else (path.a(end), path.b(end), path.s(end))
        noise = np.sqrt(sum((value * value for key, value in made.items() if key not in ("mu", "anchor")), start=0.0))
        shares = (("data", made.get("mu", 0.0), a), ("anchor", made.get("anchor", 0.0), b), ("noise", noise, s))
        for part, got, want in shares:
            if np.max(np.abs(got - want)) > TOLERANCE * max(1.0, abs(want)):
                _broken(
                    plan,
                    k,
                    POINT_MASS,
                    f"lands on {np.ravel(got)[0]:.9g} of the {part}, the path has {want:.9g}",
                    f"mend its coefficients, or declare misses=({POINT_MASS!r},) if the method only approximates it",
                )
        made["anchor"] = b  # as found, but for rounding, which a step from the noise end would multiply by thousands
        states.insert(0, made)
        for history, depth in zip((states, outputs, noises), deep, strict=True):
            del history[max(depth, 1) :]


def _broken(plan: Plan, k: int, law: str, what: str, mend: str) -> None:
    raise PlanError(f"row {k} of {plan.recipe} breaks the law {law!r}: it {what}", f"a table that keeps {law!r}", mend)
