"""Rows of the schedulers that count trained steps: DDIM, DDPM, PNDM, and those of consistency models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from retrograde.errors import BadValue
from retrograde.interop import trained
from retrograde.interop.ladders import Ladder
from retrograde.interop.writers import Written, compiled, unipc
from retrograde.plan import Row
from retrograde.recipes.ipndm import ADAMS_BASHFORTH
from retrograde.recipes.recipe import Level, level

Config = Mapping[str, Any]
DATA = Level(0.0, 1.0, 0.0)


def _chain(ladder: Ladder, step: Callable[[Level, Level, float | None], Row]) -> list[Row]:
    """Return the rows of one step each: from a level asked at to where the peer's step lands, called what comes next."""
    path = ladder.path
    labels = (*ladder.times[1:], ladder.end)
    rows = []
    for here, label, landing in zip(ladder.times, labels, ladder.landings or labels, strict=True):
        there = DATA if landing is None else level(path, landing)
        rows.append(step(level(path, here), there, label))
    return rows


def ddim(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DDIM with the `eta` of its step."""
    eta = float(config.get("eta", 0.0))
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from deterministic to ancestral", "eta=0.0")

    def step(here: Level, there: Level, label: float | None) -> Row:
        fresh = eta * there.s * math.sqrt(max(1.0 - (there.sigma / here.sigma) ** 2, 0.0))
        keep = math.sqrt(there.s**2 - fresh**2) / here.s
        return Row(here.t, label, (keep,), (there.a - keep * here.a,), (fresh,) if fresh else ())

    return Written(_chain(ladder, step), "data", "ddim@1")


def ddpm(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DDPM with the posterior's variance ("fixed_small") or the forward step's ("fixed_large")."""
    kind = config["variance_type"]
    if kind not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise BadValue(
            f"variance_type={kind!r}",
            "'fixed_small', 'fixed_small_log', 'fixed_large': a learned variance is no number of a plan, and the peer's "
            "'fixed_large_log' takes the root of a logarithm",
            "variance_type='fixed_small'",
        )
    steps = {t: round(t * int(config["num_train_timesteps"])) - 1 for t in ladder.times}

    def step(here: Level, there: Level, label: float | None) -> Row:
        r = here.a / there.a
        beta = 1.0 - r * r
        variance = beta if kind == "fixed_large" else there.s**2 * beta / here.s**2
        noises = (math.sqrt(variance),) if variance > 0.0 and steps[here.t] > 0 else ()
        return Row(here.t, label, (r * there.s**2 / here.s**2,), (there.a * beta / here.s**2,), noises)

    return Written(_chain(ladder, step), "data", "ddpm@1")


def unclip(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DDPM, whose step from the least level multiplies the data mean by beta_0/(1 - alphas_cumprod_0) as float32 has it."""
    written = ddpm(ladder, config, mended)
    last = written.rows[-1]
    if mended or round(ladder.times[-1] * int(config["num_train_timesteps"])) > 1:
        return written
    first = trained.betas(config)[0]
    ratio = float(first / (1 - (1 - first)))
    return dataclasses.replace(written, rows=[*written.rows[:-1], dataclasses.replace(last, outputs=(ratio,))])


def cogvideox(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DPM-Solver++(2M) for the reverse SDE, midpoint form, between trained steps; the last step is of order one."""
    before: list[Level] = []

    def step(here: Level, there: Level, label: float | None) -> Row:
        decay = there.sigma / here.sigma
        keep = decay * there.s / here.s
        gain, fresh = there.a - here.a * keep, there.s * math.sqrt(1.0 - decay**2)
        outputs = (gain,)
        if before and len(before) < len(ladder.times) - 1 and there.sigma < here.sigma:
            slope = 0.5 * gain * (there.lam - here.lam) / (here.lam - before[-1].lam)
            outputs = (gain + slope, -slope)
        before.append(here)
        return Row(here.t, label, (keep,), outputs, (fresh,) if fresh else ())

    return Written(_chain(ladder, step), "data", "dpmpp_2m_sde@1")


def wuerstchen(ladder: Ladder, config: Config, mended: bool) -> Written:
    """DDPM, whose last step ends at the least level without the noise that belongs there; `mended` ends at the data."""

    def step(here: Level, there: Level, label: float | None) -> Row:
        if mended and label == ladder.end:
            return Row(here.t, None, (0.0,), (1.0,))
        r = here.a / there.a
        beta = 1.0 - r * r
        noises = (there.s * math.sqrt(beta) / here.s,) if label != ladder.end else ()
        return Row(here.t, label, (r * there.s**2 / here.s**2,), (there.a * beta / here.s**2,), noises)

    return Written(_chain(ladder, step), "data", "ddpm@1")


def helios(ladder: Ladder, config: Config, mended: bool) -> Written:
    """UniPC or Euler on a flow, by `scheduler_type`."""
    kind = config["scheduler_type"]
    if not config["use_flow_sigmas"]:
        raise BadValue("use_flow_sigmas=False of HeliosScheduler", "True: its levels are flow times", "use_flow_sigmas=True")
    if kind not in ("euler", "unipc"):
        given = f"scheduler_type={kind!r} of HeliosScheduler"
        raise BadValue(given, "'unipc' or 'euler': its step knows no other", "scheduler_type='unipc'")
    return compiled(ladder, "euler") if kind == "euler" else unipc(ladder, config, mended)


def pndm(ladder: Ladder, config: Config, mended: bool) -> Written:
    """PNDM: pseudo Runge-Kutta steps to begin with, or (skip_prk_steps) one improved Euler step."""
    if ladder.landings:
        raise BadValue(
            f"timestep_spacing={config['timestep_spacing']!r} of PNDM with steps that land elsewhere than the next asks",
            "'leading', or a number of steps that divides the trained ones",
            "mended=True: land where the next step asks",
        )
    if config["prediction_type"] == "v_prediction" and not mended:
        raise BadValue(
            "prediction_type='v_prediction' of PNDM, which combines v of several levels as if they were of one",
            "prediction_type='epsilon', or the combination of noise predictions",
            "mended=True",
        )
    n, total = len(ladder.times), int(config["num_train_timesteps"])
    if config["skip_prk_steps"]:
        if n == 1:
            return compiled(ladder, "ipndm_1", whole=True)
        return compiled(ladder, "plms", whole=True)
    if n < 4 or (total // n) % 2:
        raise BadValue(
            f"skip_prk_steps=False with {n} steps, {total // n} trained steps apart",
            "at least four steps, and an even stride",
            "skip_prk_steps=True",
        )
    return compiled(ladder, "pndm", whole=True)


def lcm(ladder: Ladder, config: Config, mended: bool) -> Written:
    """Jumps to the data by c_out D + c_skip x, and noise again."""
    total, scaling = int(config["num_train_timesteps"]), float(config["timestep_scaling"])

    def step(here: Level, there: Level, label: float | None) -> Row:
        scaled = (round(here.t * total) - 1) * scaling
        skip, out = 0.25 / (scaled**2 + 0.25), scaled / math.sqrt(scaled**2 + 0.25)
        noises = (there.s,) if label is not None else ()
        if mended:
            skip, out = 0.0, 1.0
        return Row(here.t, label, (there.a * skip,), (there.a * out,), noises)

    return Written(_chain(ladder, step), "data", "lcm@1")


def tcd(ladder: Ladder, config: Config, mended: bool) -> Written:
    """Steps to a lower trained level, and noise up to the next; `eta` is the gamma of the paper."""
    path, total, eta = ladder.path, int(config["num_train_timesteps"]), float(config["eta"])
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from DDIM to jumps to the least level", "eta=0.3")
    counts = [round(t * total) - 1 for t in (*ladder.times[1:], path.t_min)]
    rows = []
    for i, (t, count) in enumerate(zip(ladder.times, counts, strict=True)):
        here, there = level(path, t), level(path, (count + 1.0) / total)
        low = level(path, (np.floor((1.0 - eta) * count) + 1.0) / total)
        last = i == len(counts) - 1
        r = there.a / low.a
        keep = r * low.s / here.s
        fresh = math.sqrt(max(1.0 - r * r, 0.0))
        rows.append(Row(t, there.t, (keep,), (there.a - here.a * keep,), (fresh,) if eta and not last and fresh else ()))
    return Written(rows, "data", "tcd@1")


def consistency(ladder: Ladder, config: Config, mended: bool) -> Written:
    """Jumps of a consistency model on the levels of EDM; the data prediction is the consistency function."""
    low = float(config["sigma_min"])
    rows = []
    ends = (*ladder.times[1:], low)
    for i, (t, end) in enumerate(zip(ladder.times, ends, strict=True)):
        last = i == len(ends) - 1
        fresh = float(config["s_noise"]) * math.sqrt(max(end**2 - low**2, 0.0))
        rows.append(Row(t, None if last else end, (0.0,), (1.0,), (fresh,) if fresh and not last else ()))
    return Written(rows, "data", "lcm@1")


def jumps(ladder: Ladder, config: Config, mended: bool) -> Written:
    """Flow steps: Euler, or with `stochastic_sampling` jumps to the data and noise again."""
    return compiled(ladder, "lcm" if config.get("stochastic_sampling") else "euler")


def rectified_ancestral(ladder: Ladder, config: Config, mended: bool) -> Written:
    """Euler steps on a flow to t_down = t' (1 + eta (t'/t - 1)), then noise up to t'."""
    eta, s_noise = float(config["eta"]), float(config["s_noise"])

    def step(here: Level, there: Level, label: float | None) -> Row:
        down = there.t * (1.0 + eta * (there.t / here.t - 1.0))
        keep = there.a * down / (1.0 - down) / here.s
        variance = there.s**2 - (keep * here.s) ** 2
        noises = (s_noise * math.sqrt(variance),) if eta and variance > 0.0 else ()
        return Row(here.t, label, (keep,), (there.a - keep * here.a,), noises)

    return Written(_chain(ladder, step), "data", "euler_ancestral@1")


def linear_multistep(ladder: Ladder, config: Config, mended: bool) -> Written:
    """LMS: Adams-Bashforth of the last `order` derivatives, also in the step to zero noise."""
    return compiled(ladder, "lms", whole=True, order=int(config["order"]))


def ipndm(ladder: Ladder, config: Config, mended: bool) -> Written:
    """IPNDM: e_j = s_j x_j + a_j v_j of the last levels by Adams-Bashforth of order up to four.

    The first level holds no signal. There the peer takes the data for zero; what v says of it is taken when `mended`.
    """
    path = ladder.path
    if len(ladder.times) == 1 and not mended:
        raise BadValue("1 step of IPNDM, which begins by taking the data for zero", "at least 2 steps", "mended=True")
    levels = [*(level(path, t) for t in ladder.times), DATA]
    rows = []
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        label = ladder.end if i == len(levels) - 2 else there.t
        if here.a < 1e-12:
            rows.append(Row(here.t, label, (there.s,), (-there.a * _PER_V,) if mended else (0.0,)))
            continue
        step = there.a * (there.sigma - here.sigma)
        weights = ADAMS_BASHFORTH[min(i, 3)]
        past = [levels[i - k] for k in range(len(weights))]
        states = [step * w * one.s for w, one in zip(weights, past, strict=True)]
        outputs = [step * w * one.a * _PER_V for w, one in zip(weights, past, strict=True)]
        rows.append(Row(here.t, label, (there.a / here.a + states[0], *states[1:]), tuple(outputs)))
    return Written(rows, "velocity", "ipndm_4@1")


_PER_V = 2.0 / math.pi
"""v over the velocity of the trigonometric path, which turns by pi/2 in unit time."""
