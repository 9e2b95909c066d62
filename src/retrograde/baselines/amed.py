"""AMED: steps along the direction at an inner level, which level and how far being learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde import systems
from retrograde.baselines.unrolled import Descent, Table, as_plan, even, lessons
from retrograde.denoisers import AbstractDenoiser
from retrograde.grids import levels as ends_of
from retrograde.plan import Plan

systems.register(
    systems.System(
        title="Fast ODE-based Sampling for Diffusion Models in Around 5 Steps",
        authors=("Zhenyu Zhou", "Defang Chen", "Can Wang", "Chun Chen"),
        year=2024,
        arxiv="2312.00094",
        home="tune",
        call="rg.baselines.amed(denoiser, nfe=4)",
        test="tests/baselines/test_descent.py::test_descent_does_not_end_above_its_start",
    )
)


def amed(
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
    condition: Any = None,
) -> Plan:
    """Return steps of two evaluations each, the second at a learned level along whose direction the whole step goes.

    In y = x/a, with eps = (y - m)/sigma and, for every step, three numbers r, c and tau that descend together:

        log sigma_mid = (1 - r) log sigma + r log sigma',
        y_mid = y + (sigma_mid - sigma) eps(y, sigma),
        y' = y + c (sigma' - sigma) eps(y_mid, sigma_mid), the network being told the level e^tau sigma_mid.

    It starts as DPM-Solver-2 (r = 1/2, c = 1, tau = 0). An odd budget ends with a step of Euler, whose one evaluation is at
    its beginning. The paper predicts the three for each sample, from the features in the network's middle; here they are
    numbers of the table, the same for all.

    Args:
        grid: the published levels between steps, which stay.
        n: items to learn from; `levels`: evaluations of the reference.

    Raises:
        BadValue: nfe < 1.

    Reference: Zhou et al., Fast ODE-based Sampling for Diffusion Models in Around 5 Steps, 2024, arXiv 2312.00094.
    """
    pairs = nfe // 2
    given = even(denoiser, nfe - pairs, grid)
    taught, held, spent = lessons(denoiser, n, max(16, n // 2), seed, levels, condition)
    below = torch.cat([given[1:], given.new_tensor([ends_of(denoiser.path)[0]]).log()])

    def table(values: Mapping[str, Tensor]) -> Table:
        share = values["share"].sigmoid()
        middle = given[:pairs] + share * (below - given)[:pairs]
        asked = [*torch.stack([given[:pairs], middle], 1).flatten(), *given[pairs:]]
        told = [*torch.stack([given[:pairs], middle + values["told"]], 1).flatten(), *given[pairs:]]
        ends = [*given[1:].exp(), given.new_zeros(())]
        zero = given.new_zeros(())
        states, outputs = [[zero] * nfe for _ in range(nfe)], [[zero] * nfe for _ in range(nfe)]
        for k, (start, end) in enumerate(zip(given.exp(), ends, strict=True)):
            i = 2 * k
            if k >= pairs:
                outputs[i][i] = 1.0 - end / start
                states[i][i] = end / start
                continue
            mid = middle[k].exp()
            outputs[i][i] = 1.0 - mid / start
            states[i][i] = mid / start
            slope = (1.0 + values["scale"][k]) * (end - start) / mid
            states[i + 1][i], states[i + 1][i + 1], outputs[i + 1][i + 1] = 1.0 + zero, slope, -slope
        table = (torch.stack([torch.stack(row) for row in made]) for made in (states, outputs))
        return Table(torch.stack(asked), torch.stack(told), *table)

    start = {name: torch.zeros(pairs, dtype=torch.float64) for name in ("share", "scale", "told")}
    rates = dict.fromkeys(start, rate) if pairs else {}
    best, error, more = (start, float("nan"), 0)
    if rates:
        best, error, more = Descent(rates, steps=steps, batch=batch).run(table, start, taught, held, seed)
    report = {"evaluations": spent + more, "validation_error": error}
    return as_plan(denoiser, table(best), "amed@1", {"tuner": "amed", "nfe": nfe, "seed": seed, "steps": steps}, report)
