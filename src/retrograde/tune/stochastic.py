"""Fits plans that draw noise: between two levels a fitted row goes below the next one, and fresh noise lifts it back.

A step of the reverse process is a stretch of the probability flow followed by noise of the forward process, and neither
changes the law p_t. So the reference is a chain of fine solver runs with exact lifts between them, and only the stretches
are fitted: in closed form, on policy, with the very noise that the plan draws when it runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, UnknownName
from retrograde.noise import Noise
from retrograde.plan import Plan, Row
from retrograde.recipes import get, level
from retrograde.run import run
from retrograde.tune.contest import Reference
from retrograde.tune.effort import EFFORTS, Effort
from retrograde.tune.fit import Fitter, Student
from retrograde.tune.levels import Levels
from retrograde.tune.teacher import Progress, Teacher
from retrograde.tune.tuner import ITEMS, MOMENTS_NFE, Job, check_fittable


@dataclasses.dataclass(frozen=True)
class Lift:
    """Noise of the forward process from time `below` to time `there`: x_there = keep x_below + fresh eps.

    keep = a'/a_below and fresh = a' sqrt(sigma'^2 - sigma_below^2), primes at `there`.
    """

    below: float
    there: float
    keep: float
    fresh: float


def lifts(denoiser: AbstractDenoiser, times: Sequence[float], eta: float) -> list[Lift]:
    """Return the lift after each step between given times: as much noise as DDIM with `eta` draws there.

    sigma_below^2 = sigma'^2 - up^2, up^2 = eta^2 sigma'^2 (1 - sigma'^2/sigma^2), and not below the path's lowest level.
    """
    path = denoiser.path
    lowest = path.sigma(path.t_min)
    made = []
    for here, there in zip(times, times[1:], strict=False):
        sigma, after = path.sigma(here), path.sigma(there)
        below = after * (1.0 - eta**2 * (1.0 - (after / sigma) ** 2)) ** 0.5
        below = min(after, max(below, lowest))
        time, end = path.time_of_sigma(below), level(path, there)
        made.append(Lift(time, there, end.a / path.a(time), end.a * max(after**2 - below**2, 0.0) ** 0.5))
    return made


@dataclasses.dataclass(frozen=True, eq=False)
class Chain:
    """The reference of a stochastic plan: fine probability flow from each level to below the next, then the lift.

    Args:
        teacher: deterministic trajectories of the items, on the levels that fine runs use.
        levels: those of the plan, as places in the teacher's.
        items, seed: whose noise is drawn.
        condition: prepared conditions of the items.
    """

    denoiser: AbstractDenoiser
    teacher: Teacher
    levels: Levels
    lifts: Sequence[Lift]
    noise: Noise
    condition: dict[str, Tensor]
    batch_size: int = 128

    def draw(self, lift: Lift, here: float) -> Tensor:
        """Return the noise [n, d] that a plan draws on the step from time `here`."""
        return self.noise.draw(self.denoiser.shape, (here, lift.there)).flatten(1).to(self.teacher.end.device)

    def made(self, tell: Progress) -> tuple[Teacher, int]:
        """Return the chain's states, with the network evaluations per item they cost.

        Its times are the noise end, if the plan does not begin there, then each level with where its step goes: level,
        below, level, below, ..., level.
        """
        times = self.teacher.times
        x = self.teacher.states[self.levels[0]]
        kept = [] if self.levels[0] == 0 else [(times[0], self.teacher.states[0])]
        spent = 0
        for i, (k, lift) in enumerate(zip(self.levels, self.lifts, strict=False)):
            tell("stochastic reference", i / len(self.levels))
            below, asked = self.flow(x, times[k], lift.below)
            kept += [(times[k], x), (lift.below, below)]
            x, spent = lift.keep * below + lift.fresh * self.draw(lift, times[k]), spent + asked
        end, asked = self.flow(x, times[self.levels[-1]], None)
        kept.append((times[self.levels[-1]], x))
        states = torch.stack([state for _, state in kept])
        return Teacher(tuple(t for t, _ in kept), states, states[:0], end, spent + asked), spent + asked

    def flow(self, x: Tensor, start: float, stop: float | None) -> tuple[Tensor, int]:
        """Return where the probability flow leads states [n, d] from time `start` to `stop` (None: the data)."""
        sigma = self.denoiser.path.sigma
        low = 0.0 if stop is None else sigma(stop)
        grid = [start, *(t for t in self.teacher.times if low < sigma(t) < sigma(start))]
        plan = get("dpmpp_3m").compile(self.denoiser.path, [*grid, *(() if stop is None else (stop,))])[: len(grid)]
        ends = []
        for low_item in range(0, len(x), self.batch_size):
            part = slice(low_item, low_item + self.batch_size)
            condition = {name: value[part] for name, value in self.condition.items()}
            *_, last = run(plan, self.denoiser, x[part].reshape(-1, *self.denoiser.shape), condition=condition)
            ends.append(last.x_t.flatten(1).float())
        return torch.cat(ends), len(grid)


def stochastic(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    eta: float = 0.5,
    seed: int = 0,
    effort: str | Effort = "seconds",
    condition: Any = None,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """Fit a plan of exactly `nfe` evaluations that draws fresh noise at every level but the last.

    Each row goes from its level to one below the next, by a fitted combination of states and predictions, and adds the noise
    of the forward process that leads back up (see `lifts`): the law at every level stays p_t as far as the row is exact.
    Levels are those a deterministic fit would take. `eta` is that of DDIM: 0 is deterministic, 1 draws as much as ancestral
    sampling; the more it draws, the further a row has to go with what little it knows.

    Returns:
        A plan whose report holds "error", the held-out root mean square distance per element to the end of the fine chain
        with the same noise, "median" over items, "evaluations" over all items and "seconds".

    Raises:
        BadValue: eta outside [0, 1], or nfe < 1.
        BadType: no denoiser, or one of an anchored path.
        UnknownName: no such effort.

    Reference: how much noise a step may draw is the freedom of DDIM (Song, Meng, Ermon, 2020, arXiv 2010.02502); the lift
    is that of EDM's churn (Karras et al., 2022, arXiv 2206.00364).
    """
    check_fittable(denoiser)
    if not 0.0 <= eta <= 1.0:
        raise BadValue(f"eta={eta}", "0 <= eta <= 1: from deterministic to ancestral", "eta=0.5")
    if not isinstance(nfe, int) or nfe < 1:
        raise BadValue(f"nfe={nfe}", "a whole number, nfe >= 1", "nfe=6")
    if isinstance(effort, str):
        if effort not in EFFORTS:
            raise UnknownName("effort", effort, EFFORTS)
        effort = EFFORTS[effort]
    began, tell = time.perf_counter(), progress or (lambda stage, part: None)
    job = Job(denoiser, nfe, seed, effort, condition, tell, device)
    prepared = job.conditions()
    teacher = job.trajectories(prepared)
    few = {name: value[: effort.fit] for name, value in prepared.items()}
    fitter = Fitter(denoiser, teacher.part(slice(0, effort.fit)), few, samples=job.samples(prepared))
    candidates, searched = job.levels(fitter)
    levels = candidates[0]
    every = lifts(denoiser, [teacher.times[k] for k in levels], eta)
    noise = Noise(seed, range(ITEMS, ITEMS + teacher.n))
    chain = Chain(denoiser, teacher, levels, every, noise, prepared)
    reference, asked = chain.made(tell)
    fitter = dataclasses.replace(fitter, teacher=reference.part(slice(0, effort.fit)))
    learned = dataclasses.replace(chain, noise=Noise(seed, range(ITEMS, ITEMS + effort.fit)))
    validation = job.reference(reference, prepared, effort.fit, effort.fit + effort.validation)
    held_out = job.reference(reference, prepared, effort.fit + effort.validation, teacher.n)
    tried = []
    for element in effort.elements:
        own = dataclasses.replace(fitter, element=element)
        plan = own.plan(
            fitted_rows(own, learned), {"tuner": "closed form, stochastic", "eta": eta, "nfe": nfe, "seed": seed}
        )
        tried.append((mean(validation, plan), plan))
    best = min(tried, key=lambda one: one[0])[1]
    errors = held_out.errors(best).double()
    spent = (teacher.evaluations + asked) * teacher.n + searched + effort.moments * MOMENTS_NFE
    report = {
        "error": float(errors.mean().sqrt()),
        "median": float(errors.sqrt().median()),
        "evaluations": spent + len(effort.elements) * nfe * (effort.fit + effort.validation),
        "seconds": round(time.perf_counter() - began, 3),
    }
    tell("done", 1.0)
    return dataclasses.replace(best, report=report)


def mean(reference: Reference, plan: Plan) -> float:
    """Return the mean squared error of a plan."""
    return float(reference.errors(plan).mean(dtype=torch.float64))


def fitted_rows(fitter: Fitter, chain: Chain) -> tuple[Row, ...]:
    """Return the rows fitted to the chain whose states are the fitter's reference."""
    first = 0 if chain.levels[0] == 0 else 1
    times = [chain.teacher.times[k] for k in chain.levels]
    student = fitter.ask(fitter.start(first), first)
    for i, lift in enumerate(chain.lifts):
        here = first + 2 * i
        theory = get("dpmpp_3m").compile(chain.denoiser.path, [*times[: i + 1], lift.below]).rows[i]
        moved = lifted(fitter.step(student, here, here + 1, theory), lift, chain.draw(lift, times[i]))
        student = fitter.ask(moved, here + 2)
    theory = get("dpmpp_3m").compile(chain.denoiser.path, times).rows[-1]
    return fitter.step(student, first + 2 * len(chain.lifts), None, theory).rows


def lifted(student: Student, lift: Lift, eps: Tensor) -> Student:
    """Return the student after the lift, which is part of its last row."""
    row = student.rows[-1]
    scaled = {name: tuple(lift.keep * c for c in getattr(row, name)) for name in ("states", "outputs")}
    shift = None if row.shift is None else lift.keep * row.shift
    noises = (lift.fresh,) if lift.fresh > 0.0 else ()
    row = dataclasses.replace(row, next_time=lift.there, shift=shift, noises=noises, **scaled)
    return dataclasses.replace(student, rows=(*student.rows[:-1], row), x=lift.keep * student.x + lift.fresh * eps)
