"""CFG++: the data mean is guided, the noise that is added back is the unconditional one."""

from __future__ import annotations

import dataclasses
import math
from typing import cast

from retrograde import systems
from retrograde.denoisers.prediction import KINDS, conversion
from retrograde.errors import BadValue, PlanError
from retrograde.guide.weight import KNOB
from retrograde.plan import Plan, Row

systems.register(
    systems.System(
        title="CFG++: Manifold-constrained Classifier Free Guidance for Diffusion Models",
        authors=("Hyungjin Chung", "Jeongsol Kim", "Geon Yeong Park", "Hyelin Nam", "Jong Chul Ye"),
        year=2024,
        arxiv="2406.08070",
        home="guidance",
        call="rg.guide.cfgpp(rg.plan('ddim', path, nfe=50), 0.6)",
        test="tests/guide/test_cfgpp.py::test_it_is_the_published_step",
    )
)


def cfgpp(plan: Plan, scale: float) -> Plan:
    """Return the plan whose rows ask for the weight that makes classifier-free guidance CFG++.

    CFG++ steps to a' D_scale + k E_u: D_scale = D_u + scale (D_c - D_u) is guided, the noise E_u is unconditional. A row
    x' = c x + d D with x = a D_u + s E_u moves the unconditional prediction so already, and needs the guided part
    a' scale (D_c - D_u) in d D: its weight is scale a'/d (in another basis, d is what it gives the data). So CFG++ is a
    column of the table, and runs on rg.guide.cfg(denoiser, any weight). The last row, which returns the data mean, has
    scale itself.

    Args:
        plan: of rows that step by one evaluation: DDIM, with or without noise, and other recipes of order one.
        scale: lambda of the authors, in [0, 1] there; 0 is the unconditional model.

    Raises:
        BadValue: a scale that is not finite.
        PlanError: a row combines several evaluations, of which CFG++ does not say which noise to add back.

    Reference: Chung, Kim, Park, Nam, Ye, 2024, arXiv 2406.08070, algorithm 1.
    """
    if not math.isfinite(scale):
        raise BadValue(f"scale={scale}", "a finite number; 0 to 1 as published", "scale=0.6")
    rows = tuple(row if row.time is None else _weighted(plan, place, row, scale) for place, row in enumerate(plan.rows))
    return dataclasses.replace(plan, rows=rows, provenance={**plan.provenance, "cfgpp": scale})


def _weighted(plan: Plan, place: int, row: Row, scale: float) -> Row:
    numbers = len(row.states) <= 1 and len(row.outputs) == 1 and all(isinstance(c, float) for c in row.outputs)
    if plan.basis not in KINDS or not numbers or row.outputs[0] == 0.0:
        raise PlanError(
            f"CFG++ on row {place} of {plan.recipe}, which combines {len(row.states)} states and {len(row.outputs)} outputs",
            "rows that step by one evaluation from one state",
            "rg.guide.cfgpp(rg.plan('ddim', path, nfe=50), 0.6)",
        )
    time, coefficient = cast(float, row.time), cast(float, row.outputs[0])
    moved = coefficient * cast(float, conversion(plan.path, time, "data", plan.basis)[1])
    held = 1.0 if row.next_time is None else plan.path.a(row.next_time)
    return dataclasses.replace(row, knobs={**row.knobs, KNOB: scale * held / moved})
