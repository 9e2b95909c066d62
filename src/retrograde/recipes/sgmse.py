"""Sampling of score-based speech enhancement: Langevin steps and Euler-Maruyama on the path towards the noisy speech."""

from __future__ import annotations

import math

import numpy as np

from retrograde import laws, systems
from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Plan, Row


def plan(path: Path, nfe: int = 60, snr: float = 0.5, corrections: int = 1) -> Plan:
    """Return the predictor-corrector plan of Richter et al., 2022, arXiv 2208.05830, with exactly `nfe` evaluations.

    At each of N times, evenly from t_max to t_min: `corrections` steps x + e score + sqrt(2 e) eps, e = 2 (snr s)^2, then
    x' = x - (f x + (b' - f b) y - g^2 score) dt + g sqrt(dt) eps; the last of these reaches t = 0 and adds no noise. The y
    of the drift is discretized as the rest is, so that all parts miss the point-mass law, and the plan says so.

    Raises:
        BadValue: nfe that is no multiple of corrections + 1, or snr or corrections out of range.
    """
    if corrections < 0 or snr <= 0.0:
        raise BadValue(f"snr={snr}, corrections={corrections}", "snr > 0, corrections >= 0", "snr=0.5, corrections=1")
    steps, rest = divmod(nfe, corrections + 1)
    if steps < 1 or rest:
        cost = corrections + 1
        raise BadValue(f"nfe={nfe}", f"a multiple of {cost}, what one step costs", f"nfe={cost * max(steps, 1)}")
    times = [float(t) for t in np.linspace(path.t_max, path.t_min, steps)]
    rows: list[Row] = []
    for t, t_next in zip(times, [*times[1:], None], strict=True):
        s, dt = path.s(t), t - (0.0 if t_next is None else t_next)
        e = 2.0 * (snr * s) ** 2
        rows += [Row(t, t, (1.0,), (-e / s,), (math.sqrt(2.0 * e),))] * corrections
        f, variance = path.drift(t), path.diffusion_squared(t) * dt
        reverted = -(path.b_dot(t) - f * path.b(t)) * dt if path.anchored else None
        noises = () if t_next is None else (math.sqrt(variance),)
        rows.append(Row(t, t_next, (1.0 - f * dt,), (-variance / s,), noises, anchor=reverted))
    provenance = {"recipe": "sgmse", "snr": snr, "corrections": corrections, "times": times}
    return Plan(path, tuple(rows), "noise", "sgmse@1", times[0], (laws.POINT_MASS,), provenance=provenance)


systems.register(
    systems.System(
        title="Speech Enhancement and Dereverberation with Diffusion-based Generative Models",
        authors=("Julius Richter", "Simon Welker", "Jean-Marie Lemercier", "Bunlong Lay", "Timo Gerkmann"),
        year=2022,
        arxiv="2208.05830",
        home="restore",
        call="rg.recipes.sgmse.plan(rg.paths.OrnsteinUhlenbeck(), nfe=60)",
        test="tests/recipes/test_sgmse.py::test_sgmse_is_the_published_loop",
    )
)
