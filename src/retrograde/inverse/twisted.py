"""Twisted particles: guidance proposes, weights make up for what it guessed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import recipes, systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import carried
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue, UnknownName
from retrograde.guide import Transform, interval
from retrograde.inverse.guided import DENSE, Likelihood, Look, conditioned, covariance_of_y, level, with_backward
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Measurement
from retrograde.particles import Weighted, log_evidence
from retrograde.particles.potential import PotentialFunction
from retrograde.plan import Plan
from retrograde.state import State

TWISTS = ("isotropic", "covariance")
_TWIST = "inverse/twist"


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Twisted(Transform):
    """A denoiser led by the twist N(y; A D, S) with S = A C A^T + std^2, and what the twist adds to log-weights (see `tds`).

    It remembers the twist of the evaluation before. At `last`, the lowest level, it does not lead, and takes back what the
    twists added in all.
    """

    measurement: Measurement
    last: float
    makes: ClassVar[frozenset[str]] = frozenset({"free"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        before = carried(knobs).get(_TWIST, torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device))
        t, a, s = level(self.path, t)
        if t == self.last:
            free = self.inner.predict(x_t, t, condition, knobs, network_time)
            return dataclasses.replace(free, log_weight=-before, carried={**free.carried, _TWIST: 0.0 * before})
        free, data, counted, backward = with_backward(self.inner, x_t, t, condition, knobs, network_time)
        A = self.measurement.linear
        with torch.no_grad():
            residual = self.measurement.residual(data)
            values, basis = covariance_of_y(A, self.measurement.std, Look(residual, a, s, backward))
            turned = (basis.mT @ residual.double().flatten(1)[..., None])[..., 0]
            twist = -0.5 * (turned.square() / values + values.log()).sum(1)
            u = (basis @ (turned / values)[..., None])[..., 0].to(residual).reshape(residual.shape)
            value = data + (s * s / a) * backward(A.adjoint(u))
        made = conditioned(free, x_t, value, data, counted)
        return dataclasses.replace(made, log_weight=twist - before, carried={**free.carried, _TWIST: twist})


def likelihood(measurement: Measurement) -> PotentialFunction:
    """Return the potential that weighs finished samples alone, by p(y | x_0)."""

    def potential(data: Tensor, t: float | None) -> Tensor:
        return measurement.log_likelihood(data) if t is None else torch.zeros(len(data), device=data.device)

    return potential


@method("tds", "guided particles, weighed and resampled: the posterior as their number grows", exact="all", together=True)
def tds(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    spread: float = 1.0,
    threshold: float = 0.5,
    twist: str = "isotropic",
    plan: Plan | str | None = None,
) -> Posed:
    """Twisted diffusion sampler: sequential Monte Carlo whose proposals and weights share a guess of p(y | x_t).

        p~(y | x_t) = N(y; A D(x_t), S),   S = r^2 A A^T + std^2,   r^2 = spread^2 sigma^2/(spread^2 + sigma^2)

    Particles move by DDPM with the score of p~ added, and their weights grow by

        p~(y | x_t')/p~(y | x_t) * N(x_t'; free row)/N(x_t'; guided row),

    in the end with p(y | x_0) itself. So the guess may be wrong: with more particles the samples come from the posterior
    under the law that the free rows draw from, and their mean weight is an estimate of p(y) there, without bias. `pigdm`
    has the same guess without the weights. The last row is not guided, for it draws nothing that could be weighed.

    Args:
        spread: of the data, in the guess; weights are the more even the better it is.
        threshold: of the effective sample size below which particles are resampled, as a share of them.
        twist: the guess: "isotropic", or "covariance", whose S = A C A^T + std^2 has the covariance C of x_0 given x_t that
            the network has (as `mmps`; not of the paper): for up to eight numbers of y, a backward pass for each.
        plan: in the place of DDPM's, a plan of stochastic rows or the file of one, fitted to few evaluations
            (`inverse.fit`); it says how many there are, and the samples are of the posterior under the law it draws from.

    Reference: Wu, Trippe, Naesseth, Blei, Cunningham, Practical and Asymptotically Exact Conditional Sampling in Diffusion
    Models, 2023, arXiv 2306.17775.
    """
    A, std, path = measurement.linear, measurement.std, denoiser.path
    if not std > 0.0 or not spread > 0.0:
        raise BadValue(f"std={std}, spread={spread}", "noise and a spread above 0", "Measurement(A, y, 1e-2)")

    if twist not in TWISTS:
        raise UnknownName("twist", twist, TWISTS)
    if plan is None:
        table = recipes.plan("ddpm", denoiser, nfe=task.nfe, grid=task.grid)
    else:
        table = Plan.load(plan) if isinstance(plan, str) else plan

    def evidence(state: State) -> float:
        return float(log_evidence(state, task.n)[0])

    if twist == "covariance":
        if math.prod(A.measured) > DENSE:
            given = f"the twist 'covariance' of {math.prod(A.measured)} numbers"
            raise BadValue(given, f"at most {DENSE}", "twist='isotropic'")
        led = Twisted(denoiser, measurement, table.times[-1])
        particles = Weighted(task.n, likelihood(measurement), threshold=threshold)
        return Posed(led, table, particles=particles, log_evidence=evidence)

    def solved(residual: Tensor, sigma: float) -> Tensor:
        r = spread**2 * sigma**2 / (spread**2 + sigma**2)
        return A.solve_measured(residual, std**2 / r) / r

    def guess(data: Tensor, t: float | None) -> Tensor:
        if t is None:
            return measurement.log_likelihood(data)
        residual = measurement.residual(data)
        # what S adds beside is the same for all particles, and gone from the weights in the end
        return -0.5 * (residual * solved(residual, path.sigma(t))).flatten(1).sum(1)

    def rule(look: Look) -> Tensor:
        return solved(look.residual, look.sigma)

    guided = interval(Likelihood(denoiser, measurement, rule), path.sigma(table.times[-1]))
    particles = Weighted(task.n, guess, threshold=threshold)
    return Posed(guided, table, particles=particles, log_evidence=evidence)


systems.register(
    systems.System(
        title="Practical and Asymptotically Exact Conditional Sampling in Diffusion Models",
        authors=("Luhuan Wu", "Brian L. Trippe", "Christian A. Naesseth", "David M. Blei", "John P. Cunningham"),
        year=2023,
        arxiv="2306.17775",
        home="inverse",
        call="rg.inverse.solve(denoiser, measurement, method='tds', n=256, nfe=100)",
        test="tests/inverse/test_twisted.py::test_the_error_falls_to_the_floor_as_particles_grow",
    )
)
