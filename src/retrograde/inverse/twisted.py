"""Twisted particles: guidance proposes, weights make up for what it guessed."""

from __future__ import annotations

from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue
from retrograde.guide import interval
from retrograde.inverse.guided import Likelihood, Look
from retrograde.inverse.method import Posed, Task, method
from retrograde.operators import Measurement
from retrograde.particles import Weighted, log_evidence
from retrograde.recipes import plan
from retrograde.state import State


@method("tds", "guided particles, weighed and resampled: the posterior as their number grows", exact="all", together=True)
def tds(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    spread: float = 1.0,
    threshold: float = 0.5,
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

    Reference: Wu, Trippe, Naesseth, Blei, Cunningham, Practical and Asymptotically Exact Conditional Sampling in Diffusion
    Models, 2023, arXiv 2306.17775.
    """
    A, std, path = measurement.linear, measurement.std, denoiser.path
    if not std > 0.0 or not spread > 0.0:
        raise BadValue(f"std={std}, spread={spread}", "noise and a spread above 0", "Measurement(A, y, 1e-2)")

    def solved(residual: Tensor, sigma: float) -> Tensor:
        r = spread**2 * sigma**2 / (spread**2 + sigma**2)
        return A.solve_measured(residual, std**2 / r) / r

    def twist(data: Tensor, t: float | None) -> Tensor:
        if t is None:
            return measurement.log_likelihood(data)
        residual = measurement.residual(data)
        # what S adds beside is the same for all particles, and gone from the weights in the end
        return -0.5 * (residual * solved(residual, path.sigma(t))).flatten(1).sum(1)

    def rule(look: Look) -> Tensor:
        return solved(look.residual, look.sigma)

    table = plan("ddpm", denoiser, nfe=task.nfe, grid=task.grid)
    guided = interval(Likelihood(denoiser, measurement, rule), path.sigma(table.times[-1]))
    particles = Weighted(task.n, twist, threshold=threshold)

    def evidence(state: State) -> float:
        return float(log_evidence(state, task.n)[0])

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
