"""A plan for few evaluations, fitted to posteriors that are known: levels, and the spread that rows leave to the data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde import laws
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.inverse.method import solve
from retrograde.noise import Bulk
from retrograde.operators import Measurement
from retrograde.paths import Path
from retrograde.plan import Plan, Row
from retrograde.run import NonFinite

Example = tuple[AbstractDenoiser, Measurement, Tensor]
"""A prior, a measurement, and draws of the posterior [k, *shape]: one is enough, the item that was measured."""


@final
@dataclasses.dataclass(frozen=True)
class Levels:
    """Four numbers that make a stochastic plan: noise levels from high to low, bent by rho, and the spread of the data.

    Rows draw from the law of the next state if x_0 given x_t is N(D, r^2), r^2 = spread^2 sigma^2/(spread^2 + sigma^2). With
    u = x/a and q = (sigma'/sigma)^2

        u' = q u + (1 - q) D + sqrt(sigma'^2 (1 - q) + (1 - q)^2 r^2) eps,   at the end D + r eps

    which is DDPM for spread = 0, and exact in rows of any length for data N(m, spread^2 I): what is left for the levels is
    what is not alike everywhere. sigma_i = (high^(1/rho) + i/(nfe - 1) (low^(1/rho) - high^(1/rho)))^rho.

    Attributes:
        high, low: noise levels s/a of the first and the last evaluation.
        rho: 1 is even, large is geometric.
        spread: of the data around what the levels decide, in their units.
    """

    high: float
    low: float
    rho: float = 7.0
    spread: float = 0.0

    def plan(self, path: Path, nfe: int) -> Plan:
        """Return the plan of exactly `nfe` evaluations.

        Raises:
            BadValue: levels that do not fall, or fewer than two evaluations.
        """
        if nfe < 2 or not self.high > self.low > 0.0 or not self.rho > 0.0 or not self.spread >= 0.0:
            given = f"nfe={nfe}, {self}"
            raise BadValue(given, "nfe >= 2, high > low > 0, rho > 0, spread >= 0", "Levels(80.0, 0.1).plan(path, 20)")
        ends = self.high ** (1.0 / self.rho), self.low ** (1.0 / self.rho)
        sigmas = [(ends[0] + i / (nfe - 1) * (ends[1] - ends[0])) ** self.rho for i in range(nfe)]
        times, rows = [path.time_of_sigma(min(sigma, path.sigma(path.t_max))) for sigma in sigmas], list[Row]()
        for t, to in zip(times, times[1:], strict=False):
            sigma, lower, a, a_next = path.sigma(t), path.sigma(to), path.a(t), path.a(to)
            q = (lower / sigma) ** 2
            drawn = math.hypot(lower * math.sqrt(1.0 - q), (1.0 - q) * self._left(sigma))
            rows.append(Row(t, to, (q * a_next / a,), (a_next * (1.0 - q),), (a_next * drawn,)))
        left = self._left(path.sigma(times[-1]))
        rows.append(Row(times[-1], None, (0.0,), (1.0,), (left,) if left else ()))
        provenance = {"recipe": "levels", "options": dataclasses.asdict(self)}
        misses = (laws.POINT_MASS,) if self.spread else ()
        return Plan(path, tuple(rows), "data", start=times[0], recipe="levels@1", provenance=provenance, misses=misses)

    def _left(self, sigma: float) -> float:
        return self.spread * sigma / math.hypot(self.spread, sigma)


def energy_score(samples: Tensor, draws: Tensor) -> float:
    """Return mean |X - Y| - mean |X - X'|/2 of samples X [n, *shape] and draws Y [k, *shape] of the law they should have.

    In the mean over Y no law of X has a lower one than Y's: a proper score, for which one draw of each posterior will do.
    Reference: Gneiting and Raftery, Strictly Proper Scoring Rules, Prediction, and Estimation, 2007.
    """
    x, y = samples.double().flatten(1), draws.to(samples.device).double().flatten(1)
    n = len(x)
    return float(torch.cdist(x, y).mean() - 0.5 * torch.cdist(x, x).sum() / (n * max(1, n - 1)))


def fit(
    examples: Sequence[Example],
    nfe: int,
    start: Levels,
    *,
    method: str = "tds",
    n: int = 128,
    rounds: int = 4,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    **settings: Any,
) -> tuple[Levels, float, float]:
    """Return levels for an inverse method of particles, fitted to posteriors, and the scores before and after.

    Each of the four numbers is tried a factor up and a factor down, kept where the mean `energy_score` over the examples
    falls, and the factors shrink from round to round; every trial has the same noise. The plan knows of no measurement, and
    serves others of the same data: hold some back, and measure it there.

    Args:
        examples: simulated ones: draw items, measure them, and give each as the one draw of its posterior.
        nfe: evaluations of the plan.
        start: where the search begins: `high` some times the size of the data, `low` below the least detail.
        method, settings: one that takes a `plan`, such as "tds".
        n: samples in a trial of one example.
        rounds: of all four numbers, each about eight trials.
        progress: called with a line about each better set.

    Raises:
        BadValue: no examples, or a start, budget or setting that makes no plan.
        NonFinite: the start itself diverges.
    """
    if not examples:
        raise BadValue("no examples", "one or more of (denoiser, measurement, draws)", "simulate some from your data")

    def score(levels: Levels) -> float:
        total = 0.0
        for k, (denoiser, measurement, draws) in enumerate(examples):
            table = levels.plan(denoiser.path, nfe)
            found = solve(denoiser, measurement, method, n, nfe, seed + k, noise=Bulk, plan=table, **settings)
            total += energy_score(found.samples, draws)
        return total / len(examples)

    def tried_score(levels: Levels) -> float:
        try:
            return score(levels)
        except (NonFinite, BadValue):  # what the search tries need not make a plan; what it was given must
            return math.inf

    begun = reached = score(start)
    best = start
    factors = {"high": 2.0, "low": 2.0, "rho": 1.5, "spread": 1.4}
    for _ in range(rounds):
        for name, factor in factors.items():
            for way in (factor, 1.0 / factor):
                tried = dataclasses.replace(best, **{name: getattr(best, name) * way})
                found = tried_score(tried)
                if found < reached:
                    best, reached = tried, found
                    if progress is not None:
                        progress(f"{reached:.5f} with {best}")
                    break
        factors = {name: math.sqrt(factor) for name, factor in factors.items()}
    return best, begun, reached
