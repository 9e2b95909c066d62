"""Rows of the samplers of k-diffusion and ComfyUI that are no recipe as it stands."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np

from retrograde import recipes
from retrograde.errors import BadValue, UnknownName
from retrograde.interop.ladders import Ladder
from retrograde.interop.writers import Written, compiled
from retrograde.paths import VP
from retrograde.plan import Row
from retrograde.recipes.deis import lagrange_integrals, polynomial_rows
from retrograde.recipes.recipe import Level, end_row, level
from retrograde.recipes.sa_solver import adams_weights, decay_of, sa_rows
from retrograde.recipes.unipc import unipc_rows

Options = Mapping[str, Any]
SA_OPTIONS = {
    "predictor_order": 3,
    "corrector_order": 4,
    "eta": 1.0,
    "s_noise": 1.0,
    "tau_range": None,
    "simple_order_2": False,
}


def without_churn(name: str) -> Callable[[Ladder, Options, bool], Written]:
    """Return the writer of a recipe whose peer may add noise between steps, which is refused."""

    def write(ladder: Ladder, options: Options, mended: bool) -> Written:
        if options["s_churn"]:
            raise BadValue(f"s_churn={options['s_churn']} of {name}", "s_churn=0", "s_churn=0, or the sampler 'heun'")
        return compiled(ladder, name)

    return write


def heun(ladder: Ladder, options: Options, mended: bool) -> Written:
    """Heun's method; with churn the stochastic sampler of EDM, whose last level is not raised."""
    if not options["s_churn"]:
        return compiled(ladder, "heun")
    least = ladder.path.sigma(ladder.times[-1])
    if ladder.end is not None or options["s_tmin"] <= least:
        raise BadValue(
            f"s_churn={options['s_churn']} with s_tmin={options['s_tmin']:g} at or below the last level {least:.4g}",
            "s_tmin above it, and a closing 0: the last level is not raised",
            f"s_tmin={least * 1.01:.4g}",
        )
    named = {"churn": "s_churn", "churn_min": "s_tmin", "churn_max": "s_tmax", "noise_scale": "s_noise"}
    return compiled(ladder, "edm_stochastic", **{ours: options[theirs] for ours, theirs in named.items()})


def lms_to_zero(ladder: Ladder, options: Options, mended: bool) -> Written:
    """LMS whose last step integrates its history to zero noise."""
    return compiled(ladder, "lms", whole=True, order=int(options["order"]))


def dpm_fast(ladder: Ladder, options: Options, mended: bool) -> Written:
    """DPM-Solver-fast over the range of the levels, with as many evaluations as there are steps; it ends at the last one."""
    if options["eta"]:
        raise BadValue(f"eta={options['eta']} of dpm_fast", "eta=0", "eta=0.0, or the sampler 'dpmpp_sde'")
    path, budget = ladder.path, len(ladder.times)
    low = path.sigma(ladder.times[-1] if ladder.end is None else ladder.end)
    high = path.sigma(ladder.times[0])
    chosen = recipes.get("dpm_fast")
    stages = chosen.layout(budget) if chosen.layout else ()
    lambdas = np.linspace(-math.log(high), -math.log(low), budget // 3 + 2)
    times = tuple(path.time_of_sigma(math.exp(-x)) for x in lambdas)
    rows = chosen.write(path, (ladder.times[0], *times[1 : len(stages) + 1]), stages)
    return Written(rows, "noise", chosen.title)


def dpmpp_2m_sde(ladder: Ladder, options: Options, mended: bool) -> Written:
    """DPM-Solver++(2M) SDE in one of its two forms."""
    forms = {"midpoint": "dpmpp_2m_sde", "heun": "dpmpp_2m_sde_heun"}
    if options["solver_type"] not in forms:
        raise UnknownName("solver_type", str(options["solver_type"]), forms)
    written = compiled(ladder, forms[options["solver_type"]], eta=float(options["eta"]))
    return scaled_noise(written, float(options["s_noise"]))


def scaled_noise(written: Written, s_noise: float) -> Written:
    """Return rows whose draws are multiplied by s_noise."""
    if s_noise == 1.0:
        return written
    rows = [dataclasses.replace(r, noises=tuple(s_noise * float(c) for c in r.noises)) for r in written.rows]  # type: ignore[arg-type]
    return dataclasses.replace(written, rows=rows)


def er_sde(ladder: Ladder, options: Options, mended: bool) -> Written:
    """ER-SDE-Solver with sums of 200 rectangles, or (mended) with its integrals."""
    stage = int(options["max_stage"])
    if stage not in (1, 2, 3):
        raise BadValue(f"max_stage={stage}", "1, 2 or 3", "max_stage=3")
    written = compiled(ladder, f"er_sde_{stage}", points=0 if mended else 200)
    return scaled_noise(written, float(options["s_noise"]))


def ipndm(ladder: Ladder, options: Options, mended: bool) -> Written:
    """iPNDM of order max_order."""
    order = int(options["max_order"])
    if order not in (1, 2, 3, 4):
        raise BadValue(f"max_order={order}", "1, 2, 3 or 4", "max_order=4")
    return compiled(ladder, f"ipndm_{order}")


def ipndm_v(ladder: Ladder, options: Options, mended: bool) -> Written:
    """iPNDM for uneven levels: with the peer's weights, or (mended) those of the integral."""
    order = int(options["max_order"])
    if order not in (1, 2, 3, 4):
        raise BadValue(f"max_order={order}", "1, 2, 3 or 4", "max_order=4")
    path = ladder.path
    if mended:
        return compiled(ladder, "lms", order=order)
    times = ladder.times if ladder.end is None else ladder.points
    levels = [level(path, t) for t in times]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        past = [levels[i - k].sigma for k in range(min(order, i + 1))]
        step = there.a * (there.sigma - here.sigma)
        weights = _ipndm_v_weights([there.sigma, *past])
        rows.append(Row(here.t, there.t, (there.a / here.a,), tuple(step * w for w in weights)))
    if ladder.end is None:
        rows.append(end_row(path, times[-1], "noise"))
    return Written(rows, "noise", f"deis_rhoab{max(order - 1, 1)}@1")


def _ipndm_v_weights(sigmas: list[float]) -> tuple[float, ...]:
    """The published weights of the last derivatives, newest first; `sigmas` from the next level back."""
    h = [x - y for x, y in zip(sigmas, sigmas[1:], strict=False)]
    order = len(h)
    if order == 1:
        return (1.0,)
    r = h[0] / h[1]
    first = [1.0 + r / 2.0, -r / 2.0, 0.0, 0.0]
    if order == 2:
        return tuple(first[:2])
    two = h[0] + h[1]
    part = (1.0 - h[0] / (3.0 * two) * (h[0] * two) / (h[1] * (h[1] + h[2]))) / 2.0
    q = h[1] / h[2]
    first = [first[0] + part, first[1] - (1.0 + q) * part, part * q, 0.0]
    if order == 3:
        return tuple(first[:3])
    three, back = h[0] + h[1] + h[2], h[1] + h[2]
    last = (1.0 - h[0] / (3.0 * two)) / 2.0 + (1.0 - h[0] / (2.0 * two)) * h[0] / (6.0 * three)
    last *= (h[0] * two * three) / (h[1] * back * (back + h[3]))
    p = h[1] * back / (h[2] * (h[2] + h[3]))
    return (
        first[0] + last,
        first[1] - (1.0 + q + p) * last,
        first[2] + (q + p * (1.0 + h[2] / h[3])) * last,
        -last * p * h[1] / h[2],
    )


def deis(ladder: Ladder, options: Options, mended: bool) -> Written:
    """DEIS with a polynomial in the time of the VP schedule that runs from 0.002 to 80, or (rhoab) in sigma."""
    order, mode = int(options["max_order"]), options["deis_mode"]
    if not 1 <= order <= 4 or mode not in ("tab", "rhoab"):
        raise BadValue(f"max_order={order}, deis_mode={mode!r}", "max_order 1 to 4, 'tab' or 'rhoab'", "deis_mode='tab'")
    path = ladder.path
    times = ladder.times if ladder.end is None else ladder.points
    if mode == "rhoab":
        if not mended:
            raise BadValue("deis_mode='rhoab', which fails there after max_order steps", "'tab'", "mended=True")
        rows = polynomial_rows(path, times, order - 1, "sigma")
    else:
        clock = _deis_clock()
        levels = [level(path, t) for t in times]
        marks = [level(clock, clock.time_of_sigma(one.sigma)) for one in levels]
        rows = []
        for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
            past = marks[i - min(order - 1, i) : i + 1][::-1]
            knots = [mark.t for mark in past]
            if mended or len(past) == 1:
                weights: Any = lagrange_integrals(clock, marks[i], marks[i + 1], knots)
            else:
                weights = _rectangles(clock, marks[i], marks[i + 1], knots)
            rows.append(Row(here.t, there.t, (there.a / here.a,), tuple(there.a * float(w) for w in weights)))
    if ladder.end is None:
        rows.append(end_row(path, times[-1], "noise"))
    return Written(rows, "noise", f"deis_tab{max(order - 1, 1)}@1")


def _deis_clock(low: float = 0.002, high: float = 80.0, start: float = 1e-3) -> VP:
    """The VP schedule with sigma = low at the time `start` and sigma = high at 1."""
    ends = math.log1p(low**2), math.log1p(high**2)
    slope = 2.0 * (ends[0] / start - ends[1]) / (start - 1.0)
    beta_min = ends[1] - 0.5 * slope
    return VP(beta_min, slope + beta_min)


def _rectangles(clock: VP, here: Level, there: Level, knots: list[float], count: int = 10000) -> list[float]:
    """The integrals of `lagrange_integrals` as the peer takes them: `count` heights over count intervals, both ends in."""
    t = np.linspace(here.t, there.t, count)
    log_a = -0.25 * t**2 * (clock.beta_max - clock.beta_min) - 0.5 * t * clock.beta_min
    rate = -(t * (clock.beta_max - clock.beta_min) + clock.beta_min)  # of log a^2
    density = -0.5 * rate / np.sqrt(np.exp(2.0 * log_a) * -np.expm1(2.0 * log_a))
    weights = []
    for j, knot in enumerate(knots):
        others = [k for i, k in enumerate(knots) if i != j]
        basis = np.prod([(t - k) / (knot - k) for k in others], axis=0)
        weights.append(float(np.sum(density * basis) * (there.t - here.t) / count))
    return weights


def uni_pc(ladder: Ladder, options: Options, mended: bool) -> Written:
    """UniPC of order three (less for few steps), to the level 0.001 or (mended) to the data."""
    n, path = len(ladder.times), ladder.path
    top = max(min(3, n - 1), 1)
    orders = [i + 1 if i + 1 < top else min(top, n - i) for i in range(n)]
    if ladder.end is None and mended:
        rows = unipc_rows(path, ladder.times, orders, (True,) * n, options["variant"])
        rows.append(end_row(path, ladder.times[-1], "data"))
    else:
        end = path.time_of_sigma(0.001) if ladder.end is None else ladder.end
        rows = unipc_rows(path, (*ladder.times, end), orders, (True,) * n, options["variant"])
    return Written(rows, "data", f"unipc_{max(top, 2)}@1")


def _strengths(ladder: Ladder, options: Options) -> list[float]:
    """The noise strength of each step: eta where the level it leads to lies in tau_range (0.2 to 0.8 of the path)."""
    path = ladder.path
    span = options["tau_range"]
    if span is None:
        low, high = path.sigma(path.t_min), path.sigma(path.t_max)
        if path.name == "edm":  # even in log sigma, as in ComfyUI
            span = tuple(low * (high / low) ** part for part in (0.8, 0.2))
        else:
            span = tuple(path.sigma(path.t_min + part * (path.t_max - path.t_min)) for part in (0.8, 0.2))
    start, end = (float(s) for s in span)
    return [float(options["eta"]) if start >= path.sigma(t) >= end else 0.0 for t in ladder.points[1:]]


def _sa_orders(n: int, options: Options, to_data: bool) -> tuple[list[int], list[int]]:
    top_p, top_c = int(options["predictor_order"]), int(options["corrector_order"])
    predictors = [max(min(top_p, i + 1, n - 1 - i if to_data else n), 1) for i in range(n)]
    correctors = [min(top_c, max(top_p, top_c), i + 2, n - 1 - i if to_data else n) for i in range(n)]
    return predictors, correctors


def sa_solver(ladder: Ladder, options: Options, mended: bool) -> Written:
    """SA-Solver of ComfyUI: lower orders near the end, no correction before the data."""
    n, data = len(ladder.times), ladder.end is None
    predictors, correctors = _sa_orders(n, options, data)
    if data:
        correctors[n - 2 :] = [0] * len(correctors[n - 2 :])
    times = ladder.times if data else ladder.points
    rows = sa_rows(ladder.path, times, predictors, correctors, _strengths(ladder, options), options["simple_order_2"])
    if data:
        rows.append(end_row(ladder.path, times[-1], "data"))
    return scaled_noise(Written(rows, "data", "sa_solver@1"), float(options["s_noise"]))


def sa_solver_pece(ladder: Ladder, options: Options, mended: bool) -> Written:
    """SA-Solver that asks again after each correction: two evaluations per step."""
    path, n, data = ladder.path, len(ladder.times), ladder.end is None
    predictors, correctors = _sa_orders(n, options, data)
    strengths, simple = _strengths(ladder, options), bool(options["simple_order_2"])
    levels = [level(path, t) for t in ladder.points]
    rows: list[Row] = []
    predicted: list[float] = []
    for i, here in enumerate(levels[:n]):
        if i > 0:
            known = [levels[i - k] for k in range(min(correctors[i - 1], i + 1))]
            corrected = adams_weights(levels[i - 1], here, known, strengths[i - 1], simple)
            change = [new - old for new, old in zip_longest(corrected, [0.0, *predicted], fillvalue=0.0)]
            # newest first: the prediction at the predicted state, then those at the corrected states, every other one
            rows.append(Row(here.t, here.t, (1.0,), (change[0], *_spaced(change[1:]))))
        if i == n - 1 and data:
            rows.append(end_row(path, here.t, "data"))
            break
        there = levels[i + 1]
        known = [levels[i - k] for k in range(min(predictors[i], i + 1))]
        predicted = adams_weights(here, there, known, strengths[i], simple)
        decay = decay_of(here, there, strengths[i])
        fresh = (there.s * math.sqrt(1.0 - decay**2),) if strengths[i] else ()
        outputs = (predicted[0], *(w for one in predicted[1:] for w in (0.0, one)))
        rows.append(Row(here.t, there.t, (decay * there.s / here.s,), outputs, fresh))
    return scaled_noise(Written(rows, "data", "sa_solver@1"), float(options["s_noise"]))


def _spaced(weights: list[float]) -> tuple[float, ...]:
    return tuple(w for j, one in enumerate(weights) for w in ((0.0, one) if j else (one,)))
