"""Embedded pairs: a step, and on the same predictions another whose difference from it measures its error.

A step from t to t' begins where the network has been asked at t (so that a step taken back need not ask there again). Its
rows end in the state of the better method; the difference to the other is a combination of the last predictions.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

from retrograde.errors import UnknownName
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.dpm_solver import dpm_solver_2, dpm_solver_3
from retrograde.recipes.recipe import Level, level


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of a pair.

    Attributes:
        rows: from the state at which the network was just asked to the new state.
        difference: coefficients on the last predictions, newest first, of the new state minus that of the other method.
    """

    rows: tuple[Row, ...]
    difference: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Pair:
    """An embedded pair.

    Attributes:
        name: what it is called.
        summary: one line: what it is.
        write: (path, level, next level) to the step.
        clock: the variable that is stepped: "log_snr" (lambda = log a/s), "sigma" or "time"; it fixes what h means.
        basis: parameterization of the predictions.
        q: the power of h by which the difference falls.
        evaluations: network evaluations of a step that stands.
        reuses: whether the last prediction is that of the new state, and begins the next step.
        rtol, atol: tolerances that suit it.
        stochastic: whether it draws noise.
    """

    name: str
    summary: str
    write: Callable[[Path, Level, Level], Step]
    clock: str
    basis: str
    q: float
    evaluations: int
    reuses: bool
    rtol: float
    atol: float
    stochastic: bool = False

    def at(self, path: Path, t: float) -> float:
        """Return the clock at path time t; it grows along a run."""
        return -t if self.clock == "time" else -path.sigma(t) if self.clock == "sigma" else level(path, t).lam

    def time(self, path: Path, clock: float) -> float:
        """Return the path time at which the clock shows this."""
        if self.clock == "time":
            return -clock
        return path.time_of_sigma(-clock if self.clock == "sigma" else math.exp(-clock))


def asking(t: float) -> Row:
    """Return the row that asks at t and stays."""
    return Row(t, t)


def _dpm_12(path: Path, here: Level, there: Level) -> Step:
    first, last = dpm_solver_2(path, (here.t, there.t), (2,))
    phi = -cast(float, last.outputs[0])
    return Step((_unasked(first), last), (-phi, phi))


def _dpm_23(path: Path, here: Level, there: Level) -> Step:
    first, second, third = dpm_solver_3(path, (here.t, there.t), (3,))
    phi = there.s * math.expm1(there.lam - here.lam)
    newest = cast(float, third.outputs[0])
    # the other is DPM-Solver-2 with its inner point at a third: -phi (E + (E_1 - E)/(2/3))
    return Step((_unasked(first), second, third), (newest, 1.5 * phi, -newest - 1.5 * phi))


def _unasked(row: Row) -> Row:
    return dataclasses.replace(row, time=None)


def _sde_12(path: Path, here: Level, there: Level) -> Step:
    h = there.lam - here.lam
    decay = math.exp(-h)
    keep = decay * there.s / here.s
    gain, fresh = there.a - here.a * keep, there.s * math.sqrt(-math.expm1(-2.0 * h))
    # the integral of 2 e^(-2 (h - u)) u/h over the step: what a data mean that moves on a line adds
    slope = there.a * (1.0 + math.expm1(-2.0 * h) / (2.0 * h))
    move = Row(None, there.t, (keep,), (gain,), (fresh,))
    return Step((move, Row(there.t, there.t, (1.0,), (slope, -slope))), (slope, -slope))


@dataclasses.dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta pair whose last stage is the new state: nodes c, stages a[i][j], b - b_hat of the pair."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    difference: tuple[float, ...]


BOGACKI_SHAMPINE = Tableau(
    (0.0, 1 / 2, 3 / 4, 1.0),
    ((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
)
"""Order 3 with an embedded 2 (Bogacki and Shampine, A 3(2) pair of Runge-Kutta formulas, 1989)."""

DORMAND_PRINCE = Tableau(
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
)
"""Order 5 with an embedded 4 (Dormand and Prince, A family of embedded Runge-Kutta formulae, 1980)."""


def _runge_kutta(tableau: Tableau, pair: Callable[[], Pair]) -> Callable[[Path, Level, Level], Step]:
    """Return the writer of a tableau's steps on the probability flow: dx = v dt, or d(x/a) = E dsigma = sigma E d log sigma.

    Every stage goes on from the one before, by the difference of their lines of the tableau: one state is kept.
    """

    def write(path: Path, here: Level, there: Level) -> Step:
        own = pair()
        start, end = own.at(path, here.t), own.at(path, there.t)
        inner = (own.time(path, start + c * (end - start)) for c in tableau.c[1:-1])
        stages = [here, *(there if abs(t - there.t) < 1e-12 * abs(there.t) else level(path, t) for t in inner), there]
        h = start - end  # the change of t, sigma or log sigma
        scale = [at.sigma if own.clock == "log_snr" else 1.0 for at in stages]
        rows, before = [], ()
        for i, line in enumerate(tableau.a[1:], start=1):
            old, new = (1.0, 1.0) if own.clock == "time" else (stages[i - 1].a, stages[i].a)
            moved = [x - y for x, y in zip(line, (*before, *(0.0,) * len(line)), strict=False)]
            outputs = tuple(h * new * w * s for w, s in zip(moved, scale, strict=False))[::-1]
            asked = None if i == 1 else stages[i - 1].t
            rows.append(Row(asked, stages[i].t, (new / old,), outputs))
            before = line
        factor = h if own.clock == "time" else h * there.a
        difference = tuple(factor * w * s for w, s in zip(tableau.difference, scale, strict=True))[::-1]
        # its zeros keep as many predictions as the difference reads
        last_row = dataclasses.replace(asking(there.t), outputs=(0.0,) * len(difference))
        return Step((*rows, last_row), difference)

    return write


_PAIRS: dict[str, Pair] = {}


def _enrol(name: str, summary: str, **fields: Any) -> None:
    _PAIRS[name] = Pair(name, summary, **fields)


_DPM = {"clock": "log_snr", "basis": "noise", "reuses": False, "rtol": 0.05, "atol": 0.0078}
_enrol("dpm_12", "DPM-Solver-2 with order 1 embedded", write=_dpm_12, q=2.0, evaluations=2, **_DPM)
_enrol("dpm_23", "DPM-Solver-3 with an order 2 embedded", write=_dpm_23, q=3.0, evaluations=3, **_DPM)
_enrol(
    "sde_12",
    "the reverse SDE in log-SNR: exponential Euler, and the data mean on a line through both ends",
    write=_sde_12,
    clock="log_snr",
    basis="data",
    q=1.5,
    evaluations=2,
    reuses=False,
    rtol=0.05,
    atol=0.0078,
    stochastic=True,
)


def _enrol_runge_kutta(stem: str, title: str, tableau: Tableau, q: float) -> None:
    for clock in ("log_snr", "sigma", "time"):
        name = stem if clock == "log_snr" else f"{stem}_{clock}"
        _enrol(
            name,
            f"{title} on the probability flow in {clock.replace('_snr', '-SNR')}",
            write=_runge_kutta(tableau, lambda name=name: _PAIRS[name]),
            clock=clock,
            basis="velocity" if clock == "time" else "noise",
            q=q,
            evaluations=len(tableau.c) - 1,
            reuses=True,
            rtol=1e-5,
            atol=1e-5,
        )


_enrol_runge_kutta("bs_32", "Bogacki-Shampine 3(2)", BOGACKI_SHAMPINE, 3.0)
_enrol_runge_kutta("dp_54", "Dormand-Prince 5(4)", DORMAND_PRINCE, 5.0)


def names() -> tuple[str, ...]:
    """Return the names of all pairs."""
    return tuple(sorted(_PAIRS))


def get(name: str) -> Pair:
    """Return the pair called `name`; an unknown name lists the nearest ones."""
    if name not in _PAIRS:
        raise UnknownName("pair", name, names())
    return _PAIRS[name]
