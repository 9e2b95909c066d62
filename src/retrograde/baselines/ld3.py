"""LD3: levels, and the times the network is told, by gradient through the whole table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde import grids, systems
from retrograde.baselines.unrolled import Descent, Table, adams_bashforth, as_plan, even, lessons
from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan

systems.register(
    systems.System(
        title="Learning to Discretize Denoising Diffusion ODEs",
        authors=("Vinh Tong", "Trung-Dung Hoang", "Anji Liu", "Guy Van den Broeck", "Mathias Niepert"),
        year=2024,
        arxiv="2405.15506",
        home="tune",
        call="rg.baselines.ld3(denoiser, nfe=4)",
        test="tests/baselines/test_descent.py::test_descent_does_not_end_above_its_start",
    )
)


def ld3(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    order: int = 4,
    grid: str = "karras",
    seed: int = 0,
    n: int = 64,
    levels: int = 48,
    steps: int = 100,
    batch: int = 32,
    rate: float = 0.05,
    relax: float = 0.01,
    condition: Any = None,
) -> Plan:
    """Return iPNDM on learned levels, with the network told learned times of its own.

    The shares of log sigma between levels are a softmax of free numbers; a told level may leave its own by at most half
    of the smallest gap. Both descend on the mean squared distance of the end from the reference's (the paper's choice for
    images is LPIPS, which needs a trained network), relaxed: an item's noise may move by `relax` of its size.

    Args:
        order: order of iPNDM; `grid`: where the descent starts.
        steps, batch, rate: of the descent; the told levels learn at a tenth of the rate.

    Raises:
        BadValue: nfe < 1.

    Reference: Tong et al., Learning to Discretize Denoising Diffusion ODEs, 2024, arXiv 2405.15506.
    """
    given = even(denoiser, nfe, grid)
    taught, held, spent = lessons(denoiser, n, max(16, n // 2), seed, levels, condition)
    low = min(math.log(grids.levels(denoiser.path)[0]), float(given[-1]) - 0.1)
    ends = torch.cat([given, torch.tensor([low], dtype=torch.float64)])

    def table(values: Mapping[str, Tensor]) -> Table:
        shares = torch.softmax(values["gaps"], 0)
        inner = ends[0] + (ends[-1] - ends[0]) * shares.cumsum(0)[:-1]
        level = torch.cat([ends[:1], inner])
        most = 0.5 * float((level[:-1] - level[1:]).min().detach()) if nfe > 1 else 0.0
        told = level + torch.cat([values["told"][:1] * 0.0, values["told"][1:].clamp(-most, most)])
        return Table(level, told, *adams_bashforth(level, order))

    start = {"gaps": (ends[:-1] - ends[1:]).log(), "told": torch.zeros(nfe, dtype=torch.float64)}
    descent = Descent({"gaps": rate, "told": 0.1 * rate}, steps=steps, batch=batch, relax=relax)
    best, error, more = descent.run(table, start, taught, held, seed)
    report = {"evaluations": spent + more, "validation_error": error}
    with torch.no_grad():
        provenance = {"tuner": "ld3", "nfe": nfe, "seed": seed, "order": order, "steps": steps}
        return as_plan(denoiser, table(best), "ld3@1", provenance, report)
