"""PAS: directions corrected by a few coordinates in a basis that each sample's own trajectory spans."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.baselines.gits import FIRST_ITEM, asked_at, one_evaluation, trajectories
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import PlanError
from retrograde.plan import Plan, Row
from retrograde.recipes import level
from retrograde.sampling import steps
from retrograde.state import State

KNOB = "directions"

systems.register(
    systems.System(
        title="Diffusion Sampling Correction via Approximately 10 Parameters",
        authors=("Guangyi Wang", "Wei Peng", "Lijiang Li", "Wenyu Chen", "Yuren Cai", "Songzhi Su"),
        year=2025,
        arxiv="2411.06503",
        home="tune",
        call="rg.sample(denoiser, rg.baselines.pas(denoiser, nfe=6), controllers=[rg.baselines.Directions()])",
        test="tests/baselines/test_pas.py::test_it_brings_ddim_nearer_on_fresh_items",
    )
)


@final
@dataclasses.dataclass(frozen=True)
class Directions:
    """The controller that runs plans of `pas`: it obeys the coordinates in their rows' knob "directions".

    It keeps the directions of the run so far, one state for each row.
    """

    consumes: frozenset[str] = frozenset({KNOB})

    def begin(self) -> _Course:
        """Return the controller of one run."""
        return _Course(lambda state, *_: state.row.knobs.get(KNOB))


@final
class _Course:
    """The controller of one run: sees each step as a direction, and asks `choose` for coordinates to take instead.

    Args:
        choose: from the state, y before the step, its length and its direction, and the basis, to coordinates or None.
    """

    def __init__(self, choose: Callable[..., Sequence[float] | None]) -> None:
        self.consumes = frozenset({KNOB})
        self._choose, self._trail = choose, list[Tensor]()

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        """Leave the rows."""
        return remaining

    def correct(self, state: State) -> Tensor:
        """Return the state at the end of the corrected step."""
        if state.prediction is None or state.row.time is None:
            raise PlanError("a row without an evaluation", "one evaluation per step", "rg.baselines.pas(denoiser, nfe)")
        path = state.prediction.path
        here = level(path, state.row.time)
        gain, sigma = (1.0, 0.0) if state.t is None else (path.a(state.t), path.sigma(state.t))
        shape = state.x_t.shape
        y, y_next = (state.prediction.x_t / here.a).flatten(1), (state.x_t / gain).flatten(1)
        step = sigma - here.sigma
        direction = (y_next - y) / step
        trail = self._trail = self._trail or [y]
        coordinates = self._choose(state, y, step, direction, lambda: basis([*trail, direction], y - trail[0]))
        if coordinates is not None:
            weights = torch.as_tensor(coordinates, dtype=y.dtype, device=y.device)
            direction = torch.einsum("k,nkd->nd", weights, basis([*trail, direction], y - trail[0]))
        trail.append(direction)
        return state.x_t if coordinates is None else (gain * (y + step * direction)).reshape(shape)


def basis(trail: Sequence[Tensor], way: Tensor, count: int = 4) -> Tensor:
    """Return for each item the newest direction, and the principal ones of its trail, made orthonormal, [n, count, d].

    Where a trail spans less, the rest is zero. Signs are those of the way gone so far, [n, d] (of the trail's first at the
    start, where none is gone), so that a coordinate means the same to all items.
    """
    rows = torch.stack(list(trail), 1).double()
    centred = rows - rows.mean(1, keepdim=True)
    values, mixes = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    principal = (mixes.transpose(1, 2) @ centred).flip(1)[:, : count - 1]
    towards = way.double() if float(way.abs().amax()) > 0.0 else rows[:, 0]
    kept = [_unit(rows[:, -1])]
    for axis in principal.unbind(1):
        whole = axis.norm(dim=1, keepdim=True)
        rest = axis
        for one in kept + kept:  # twice: once leaves what rounding put back
            rest = rest - (rest * one).sum(1, keepdim=True) * one
        sign = torch.where((rest * towards).sum(1, keepdim=True) < 0.0, -1.0, 1.0)
        least = 1e-6 * values[:, -1:].clamp(min=0.0).sqrt()
        kept.append(
            torch.where(rest.norm(dim=1, keepdim=True) > torch.maximum(1e-6 * whole, least), sign * _unit(rest), 0.0)
        )
    kept += [torch.zeros_like(kept[0])] * (count - len(kept))
    return torch.stack(kept, 1).to(trail[-1])


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=1e-30)


def pas(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    recipe: str = "ddim",
    grid: str = "karras",
    seed: int = 0,
    n: int = 256,
    levels: int = 61,
    tolerance: float = 1e-4,
    condition: Any = None,
) -> Plan:
    """Return a published solver some of whose steps take a corrected direction; it runs with the controller `Directions`.

    In y = x/a a step is y' = y + (sigma' - sigma) d. Its d gives way to sum_k c_k u_k, where u is an orthonormal basis of
    each sample's own past (`basis`: d, and the three principal directions of the start and all directions so far) and the
    four coordinates c are common to all samples: those that bring y' nearest to the reference, in mean square, which are

        c_k = mean over items of <u_k, (y'_reference - y)/(sigma' - sigma)>

    (over those whose past spans u_k). Steps are learned in turn on the states that the corrected ones made. A step is
    corrected only where its mean squared distance, per element, falls by more than `tolerance` on the half of the items that
    was not averaged: corrected everywhere, samples get worse. Coordinates lie in the rows' knob "directions".

    The paper finds c by gradient descent, on the absolute distance as well, and accepts on the items it learned from.

    Args:
        recipe: a deterministic solver of one evaluation per step.
        n: reference trajectories; `levels`: their levels.

    Raises:
        BadValue: a recipe of several evaluations per step.

    Reference: Wang et al., Diffusion Sampling Correction via Approximately 10 Parameters, 2025, arXiv 2411.06503.
    """
    written, path = one_evaluation(recipe), denoiser.path
    plan = written.compile(path, asked_at(denoiser, nfe, grid))
    teacher = trajectories(denoiser, n, seed, levels, condition, through=plan.times)
    learned: dict[int, list[float]] = {}
    half = n // 2

    def choose(state: State, y: Tensor, step: float, direction: Tensor, axes: Callable[[], Tensor]) -> list[float] | None:
        goal = teacher.end
        if state.t is not None:
            goal = teacher.states[teacher.times.index(state.t)] / path.a(state.t)
        wanted, spanned = (goal.to(y) - y) / step, axes()
        lengths = spanned[:half].square().sum((0, 2))  # of one each, where the trails span that direction
        coordinates = torch.einsum("nkd,nd->k", spanned[:half], wanted[:half]) / lengths.clamp(min=1e-30)
        made = torch.einsum("k,nkd->nd", coordinates, spanned)
        before, after = (float((one - wanted)[half:].mul(step).pow(2).mean()) for one in (direction, made))
        if after + tolerance >= before:
            return None
        learned[state.index] = coordinates.tolist()
        return learned[state.index]

    items = [FIRST_ITEM + i for i in range(n)]
    for _ in steps(plan, denoiser, n, seed, items=items, condition=condition, controllers=[_Course(choose)]):
        pass
    rows = tuple(
        dataclasses.replace(row, knobs={**row.knobs, KNOB: learned[i]}) if i in learned else row
        for i, row in enumerate(plan.rows)
    )
    provenance = {**plan.provenance, "tuner": "pas", "nfe": nfe, "seed": seed, "corrected": sorted(learned)}
    report = {"evaluations": (teacher.evaluations + plan.nfe) * n}
    return dataclasses.replace(plan, rows=rows, provenance=provenance, report=report)
