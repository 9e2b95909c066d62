"""Programs of solvers: what every step decides (order, parameterization, corrector, level), and how programs are varied."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import Any

import torch

from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan
from retrograde.recipes.solver_schedule import from_solver_schedule

CHOICES: dict[str, tuple[Any, ...]] = {
    "order": (1, 2, 3),
    "kind": ("data", "noise"),
    "relaxation": (None, "dpmsolver-2", "unipc-bh2"),
    "low": (False, True),
    "corrector": (0, 2, 3),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """What one step decides.

    Attributes:
        order: terms of the expansion; fewer where the history is short.
        kind: the prediction that is expanded, "data" or "noise".
        relaxation: factor on the first derivative (see `recipes.solver_schedule`).
        low: whether the first derivative is taken from one past prediction, and not from all.
        corrector: terms of a correction with the new prediction, 0 for none; it costs no evaluation.
    """

    order: int = 1
    kind: str = "data"
    relaxation: str | None = None
    low: bool = False
    corrector: int = 0


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A program: places of its levels among the candidates, first and last included, and what each step decides."""

    places: tuple[int, ...]
    steps: tuple[Step, ...]

    def decisions(self, times: Sequence[float]) -> dict[str, Any]:
        """Return it as the authors store it; the last step has no corrector, for that would ask once more."""
        derivatives, correctors = [], []
        last = len(self.steps) - 1
        orders = [min(step.order, i + 1) for i, step in enumerate(self.steps)]
        for i, (step, order) in enumerate(zip(self.steps, orders, strict=True)):
            back = [*range(-2, -1 - order, -1)]
            derivatives.append([_difference(back[:1] if step.low and k == 0 else back, step) for k in range(order - 1)])
            terms = min(step.corrector, i + 2) if i < last else 0
            around = [-1, *range(-3, -1 - terms, -1)]
            found = {"type": "pseudo" if terms else "no_corrector", "start_point": -2, "taylor_order": terms}
            correctors.append(found | {"derivative_type": [_difference(around, step)] * (terms - 1)})
        return {
            "timesteps": torch.tensor([times[k] for k in self.places], dtype=torch.float64),
            "orders": orders,
            "prediction_types": [f"{step.kind}_prediction" for step in self.steps],
            "start_points": [-1] * len(self.steps),
            "derivative_types": derivatives,
            "corrector_types": correctors,
        }

    def plan(self, denoiser: AbstractDenoiser, times: Sequence[float]) -> Plan:
        """Return the plan of as many evaluations as it has steps."""
        plan = from_solver_schedule(self.decisions(times), denoiser.path)
        provenance = {name: value for name, value in plan.provenance.items() if name != "start_noise"}
        return dataclasses.replace(plan, recipe="s3@1", provenance=provenance)


def _difference(points: Sequence[int], step: Step) -> dict[str, Any]:
    return {"active_points": [*points], "relaxation": step.relaxation}


SINGLE = (
    Step(),
    Step(2, relaxation="dpmsolver-2"),
    Step(2),
    Step(3),
    Step(2, "noise", "unipc-bh2"),
    Step(2, "noise"),
    Step(2, relaxation="unipc-bh2", corrector=3),
    Step(3, "noise"),
    Step(3, relaxation="unipc-bh2", corrector=3),
)
"""Published solvers as decisions: DDIM, DPM-Solver++(2M), exponential multistep of order 2 and 3, DPM-Solver-2 (multistep),
two of DEIS in log-SNR, UniPC-2 and -3."""


def first(m: int, nfe: int, count: int, dice: random.Random) -> list[Schedule]:
    """Return single solvers on three spacings, and random schedules."""
    made = []
    for power, step in itertools.product((1.0, 0.7, 1.4), SINGLE):
        places = [round((i / nfe) ** power * (m - 1)) for i in range(nfe + 1)]
        if len({*places}) == nfe + 1:
            made.append(Schedule(tuple(places), (step,) * nfe))
    while len(made) < count + len(SINGLE):
        inner = sorted(dice.sample(range(1, m - 1), nfe - 1))
        steps = (Step(**{name: dice.choice(every) for name, every in CHOICES.items()}) for _ in range(nfe))
        made.append(Schedule((0, *inner, m - 1), tuple(steps)))
    return made


def child(best: Sequence[Schedule], m: int, heat: float, dice: random.Random) -> Schedule:
    """Return a mutated cross of two parents (often of one): levels move by up to a tenth of all times `heat`."""
    one, other = dice.choice(best), dice.choice(best)
    if dice.random() < 0.5:
        other = one
    places, reach = {0, m - 1}, max(1, round(0.1 * heat * m))
    for pair in zip(one.places[1:-1], other.places[1:-1], strict=True):
        place = dice.choice(pair) + (dice.randint(-reach, reach) if dice.random() < 0.4 else 0)
        free = [k for k in range(1, m - 1) if k not in places]
        places.add(min(free, key=lambda k, near=place: abs(k - near)))
    steps = []
    for pair in zip(one.steps, other.steps, strict=True):
        step = dice.choice(pair)
        if dice.random() < 0.1 + 0.2 * heat:
            name = dice.choice([*CHOICES])
            step = dataclasses.replace(step, **{name: dice.choice(CHOICES[name])})
        steps.append(step)
    return Schedule(tuple(sorted(places)), tuple(steps))
