"""DC-Solver: the newest prediction moved along its own history, by a ratio fitted for each step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from retrograde import laws, systems
from retrograde.baselines.gits import asked_at, one_evaluation, trajectories
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.errors import BadValue
from retrograde.plan import Plan, Row

systems.register(
    systems.System(
        title="DC-Solver: Improving Predictor-Corrector Diffusion Sampler via Dynamic Compensation",
        authors=("Wenliang Zhao", "Haolin Wang", "Jie Zhou", "Jiwen Lu"),
        year=2024,
        arxiv="2409.03755",
        home="tune",
        call="rg.baselines.dc_solver(denoiser, nfe=6)",
        test="tests/baselines/test_dc_solver.py::test_each_ratio_is_the_best_of_its_step",
    )
)


def dc_solver(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    recipe: str = "unip_3",
    grid: str = "log_snr",
    order: int = 2,
    seed: int = 0,
    n: int = 32,
    levels: int = 96,
    condition: Any = None,
) -> Plan:
    """Return a published solver whose newest prediction is read at t' = rho t_i + (1 - rho) t_(i-1) instead of t_i.

    The prediction at t' is that of the polynomial of degree `order` through the last predictions, older ones as they were
    compensated. Each step's rho is the one whose state lies nearest the reference's at the next level, on policy: the
    squared distance is a polynomial in rho, so its minimum is found exactly, where the published code takes forty steps of
    AdamW. On the predictor alone; the published one also has UniPC's corrector.

    Raises:
        BadValue: a recipe that asks more than once per step, or does not step with data predictions.

    Reference: Zhao et al., DC-Solver, 2024, arXiv 2409.03755.
    """
    written, path = one_evaluation(recipe), denoiser.path
    if written.basis(path) != "data":
        raise BadValue(f"recipe {recipe!r}", "a recipe that steps with data predictions", "recipe='unip_3'")
    times = asked_at(denoiser, nfe, grid)
    base = written.compile(path, times)
    teacher = trajectories(denoiser, n, seed, levels, condition, times)
    prepared = prepare_condition(denoiser, condition, n)
    goals = [teacher.states[teacher.times.index(t)] for t in times[1:]] + [teacher.end]
    x, asked = teacher.states[0], list[Tensor]()
    mixtures: list[np.ndarray] = []  # of each compensated prediction: over all raw ones, oldest first
    rows, ratios = list[Row](), list[float]()
    for i, (row, goal) in enumerate(zip(base.rows, goals, strict=True)):
        if len(row.states) != 1:
            raise BadValue(f"recipe {recipe!r}", "a recipe that reads one state", "recipe='unip_3'")
        with torch.no_grad():
            asked.append(denoiser.predict(x.reshape(-1, *denoiser.shape), times[i], prepared).data.flatten(1))
        state, weights = cast(float, row.states[0]), np.array(row.outputs, dtype=np.float64)
        newest, ratio = np.eye(len(times))[i], 1.0
        older = weights[1:] @ np.array(mixtures[::-1][: len(weights) - 1]).reshape(len(weights) - 1, len(times))
        if i >= order:
            powers = _in_ratio(times[i - order : i + 1][::-1], [newest, *reversed(mixtures[-order:])])
            ratio = nearest(state * x + _mix(older, asked), [weights[0] * _mix(p, asked) for p in powers], goal)
            newest = np.sum([ratio**k * p for k, p in enumerate(powers)], axis=0)
        mixtures.append(newest)
        on = weights[0] * newest + older
        x = state * x + _mix(on, asked)
        used = on[: i + 1][::-1]
        rows.append(dataclasses.replace(row, outputs=tuple(used[: int(np.flatnonzero(used)[-1]) + 1].tolist())))
        ratios.append(ratio)
    provenance = {**base.provenance, "tuner": "dc_solver", "nfe": nfe, "seed": seed, "ratios": ratios}
    report = {"evaluations": (teacher.evaluations + len(times)) * n}
    return Plan(path, tuple(rows), "data", "dc_solver@1", times[0], (laws.POINT_MASS,), provenance=provenance, report=report)


def nearest(kept: Tensor, powers: Sequence[Tensor], goal: Tensor) -> float:
    """Return the rho that minimizes |kept + sum_k rho^k powers[k] - goal|^2."""
    parts = torch.stack([(kept + powers[0] - goal), *powers[1:]]).flatten(1).double()
    gram = (parts @ parts.T).numpy()
    squared = np.polynomial.Polynomial(
        [sum(gram[i, k - i] for i in range(len(gram)) if 0 <= k - i < len(gram)) for k in range(2 * len(gram) - 1)]
    )
    roots = squared.deriv().roots()
    real = roots.real[np.abs(roots.imag) <= 1e-8 * (1.0 + np.abs(roots.real))]
    return float(min(real, key=squared)) if len(real) else 1.0


def _mix(weights: np.ndarray, asked: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * m for w, m in zip(weights.tolist(), asked, strict=False)]).sum(0)


def _in_ratio(times: Sequence[float], values: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the coefficients, by power of rho, of the polynomial through (times, values) at rho t_0 + (1 - rho) t_1."""
    places = [(t - times[1]) / (times[0] - times[1]) for t in times]
    total = [np.zeros_like(values[0]) for _ in times]
    for i, (place, value) in enumerate(zip(places, values, strict=True)):
        basis = np.polynomial.Polynomial([1.0])
        for j, other in enumerate(places):
            if j != i:
                basis *= np.polynomial.Polynomial([-other, 1.0]) / (place - other)
        for k, c in enumerate(basis.coef):
            total[k] = total[k] + c * value
    return total
