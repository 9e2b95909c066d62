"""S4S and BNS: the coefficients of a multistep table by gradient through the whole of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde import systems
from retrograde.baselines.unrolled import Descent, Table, adams_bashforth, as_plan, even, lessons
from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan

_TEST = "tests/baselines/test_descent.py::test_descent_does_not_end_above_its_start"

systems.register(
    systems.System(
        title="S4S: Solving for a Diffusion Model Solver",
        authors=("Eric Frankel", "Sitan Chen", "Jerry Li", "Pang Wei Koh", "Lillian J. Ratliff", "Sewoong Oh"),
        year=2025,
        arxiv="2502.17423",
        call="rg.baselines.s4s(denoiser, nfe=4)",
        home="tune",
        test=_TEST,
    )
)
systems.register(
    systems.System(
        title="Bespoke Non-Stationary Solvers for Fast Sampling of Diffusion and Flow Models",
        authors=(
            "Neta Shaul",
            "Uriel Singer",
            "Ricky T. Q. Chen",
            "Matthew Le",
            "Ali Thabet",
            "Albert Pumarola",
            "Yaron Lipman",
        ),
        year=2024,
        arxiv="2403.01329",
        call="rg.baselines.bns(denoiser, nfe=4)",
        home="tune",
        test=_TEST,
    )
)


def s4s(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    order: int = 3,
    grid: str = "karras",
    rounds: int = 2,
    seed: int = 0,
    n: int = 64,
    levels: int = 48,
    steps: int = 100,
    batch: int = 32,
    rate: float = 0.02,
    relax: float = 0.01,
    condition: Any = None,
) -> Plan:
    """Return a linear multistep method of learned coefficients, levels learned in turn with them (S4S-Alt).

    x/a moves by (sigma' - sigma) sum_k b_ik eps_k, k over the last `order` noise predictions; b starts as iPNDM's. With
    `rounds` = 0 the levels of the grid stay (S4S); else coefficients and levels descend in turn, `rounds` times each.

    Raises:
        BadValue: nfe < 1.

    Reference: Frankel et al., S4S: Solving for a Diffusion Model Solver, 2025, arXiv 2502.17423.
    """
    given = even(denoiser, nfe, grid)
    taught, held, spent = lessons(denoiser, n, max(16, n // 2), seed, levels, condition)
    band = torch.ones(nfe, nfe, dtype=torch.float64).tril() - torch.ones(nfe, nfe, dtype=torch.float64).tril(-order)

    def table(values: Mapping[str, Tensor]) -> Table:
        level = torch.cat([given[:1], given[:1] - values["gaps"].exp().cumsum(0)])
        slopes = adams_bashforth(level, order)[1] + values["weights"] * band * _steps(level)[:, None] / level.exp()
        # y' = y + sum of slopes on the noise (y_j - m_j)/sigma_j
        return Table(level, level, torch.eye(nfe, dtype=torch.float64) - slopes, slopes)

    values = {"gaps": (given[:-1] - given[1:]).log(), "weights": torch.zeros(nfe, nfe, dtype=torch.float64)}
    turns = [{"weights": rate}] if rounds == 0 else [{"weights": rate}, {"gaps": rate}] * rounds
    error = float("nan")
    for k, rates in enumerate(turns):
        descent = Descent(rates, steps=max(1, steps // len(turns)), batch=batch, relax=relax)
        values, error, more = descent.run(table, values, taught, held, seed + k)
        spent += more
    provenance = {"tuner": "s4s", "nfe": nfe, "seed": seed, "order": order, "rounds": rounds, "steps": steps}
    report = {"evaluations": spent, "validation_error": error}
    return as_plan(denoiser, table(values), "s4s@1", provenance, report)


def bns(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    grid: str = "karras",
    seed: int = 0,
    n: int = 64,
    levels: int = 48,
    steps: int = 100,
    batch: int = 32,
    rate: float = 0.02,
    relax: float = 0.0,
    condition: Any = None,
) -> Plan:
    """Return a table whose coefficients on all states and all predictions, and whose levels, descended together.

    It starts as DDIM. `bns` descends on the mean squared distance from the reference's end points (the paper on its
    logarithm); coefficients on all earlier states as well as predictions are also what GS fits (2510.17699).

    Raises:
        BadValue: nfe < 1.

    Reference: Shaul et al., Bespoke Non-Stationary Solvers, 2024, arXiv 2403.01329.
    """
    given = even(denoiser, nfe, grid)
    taught, held, spent = lessons(denoiser, n, max(16, n // 2), seed, levels, condition)
    lower = torch.ones(nfe, nfe, dtype=torch.float64).tril()

    def table(values: Mapping[str, Tensor]) -> Table:
        level = torch.cat([given[:1], given[:1] - values["gaps"].exp().cumsum(0)])
        # in units of what a state is made of: one part of data, sigma parts of noise
        unit = _next(level)[:, None] / level.exp()
        states, outputs = adams_bashforth(level, 1)
        return Table(level, level, states + values["states"] * lower * unit, outputs + values["outputs"] * lower)

    zero = torch.zeros(nfe, nfe, dtype=torch.float64)
    start = {"gaps": (given[:-1] - given[1:]).log(), "states": zero, "outputs": zero}
    descent = Descent({"gaps": rate, "states": rate, "outputs": rate}, steps=steps, batch=batch, relax=relax)
    best, error, more = descent.run(table, start, taught, held, seed)
    report = {"evaluations": spent + more, "validation_error": error}
    return as_plan(denoiser, table(best), "bns@1", {"tuner": "bns", "nfe": nfe, "seed": seed, "steps": steps}, report)


def _next(level: Tensor) -> Tensor:
    return torch.cat([level[1:].exp(), level.new_zeros(1)])


def _steps(level: Tensor) -> Tensor:
    """Return sigma - sigma' of each row."""
    return level.exp() - _next(level)
