"""Weighted particles whose target has the likelihood at every level, applied to the state itself: no guess, no gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import carried
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadValue
from retrograde.guide import Transform
from retrograde.guide.branches import alone
from retrograde.inverse.guided import conditioned, level
from retrograde.inverse.method import Posed, Task, method
from retrograde.inverse.twisted import likelihood
from retrograde.operators import Linear, Measurement
from retrograde.particles import Weighted, log_evidence
from retrograde.recipes import plan
from retrograde.state import State

_ENERGY = "inverse/energy"


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Move:
    """A row without y, x' ~ N(c_x x + c_D D, kappa^2): its numbers, and at its end the path's a and the strength beta."""

    c_x: float
    c_data: float
    kappa: float
    a: float
    beta: float


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Everywhere(Transform):
    """A denoiser led towards exp(-beta mu(x/a)), mu = -log p(y | x), and what that adds to log-weights (see `ensemble`).

    It remembers -beta mu of the evaluation before, and takes back what they added in all where there is no next row.
    """

    measurement: Measurement
    moves: Mapping[float, Move]
    betas: Mapping[float, float]
    makes: ClassVar[frozenset[str]] = frozenset({"free"})

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        before = carried(knobs).get(_ENERGY, torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device))
        t, a, _ = level(self.path, t)
        free = alone(self.inner.predict(x_t, t, condition, knobs, network_time), "weighted particles")
        if t not in self.moves:
            return dataclasses.replace(free, log_weight=-before, carried={**free.carried, _ENERGY: 0.0 * before})
        move, data = self.moves[t], free.data
        energy = self.betas[t] * self.measurement.log_likelihood(x_t / a).double()
        ahead = (move.c_x * x_t + move.c_data * data) / move.a
        value = data + (move.a / move.c_data) * self._shift(ahead, (move.kappa / move.a) ** 2 * move.beta)
        made = conditioned(free, x_t, value, data, [])
        return dataclasses.replace(made, log_weight=energy - before, carried={**free.carried, _ENERGY: energy})

    def _shift(self, x: Tensor, size: float) -> Tensor:
        """Return the way from x to argmin |x' - x|^2/2 - size log p(y | x').

        For an A that is not linear a first step there, of at most twice sqrt(size): weights make up for what it lacks.
        """
        m = self.measurement
        if isinstance(m.operator, Linear):
            return m.linear.solve(m.linear.adjoint(m.residual(x)), m.std**2 / size)
        with torch.enable_grad():
            at = x.detach().requires_grad_(True)
            (pull,) = torch.autograd.grad(m.log_likelihood(at).sum(), at)
        length = pull.flatten(1).norm(dim=1).clamp(min=1e-300).reshape(-1, *(1,) * (x.ndim - 1))
        return pull * (2.0 * size**0.5 / length).clamp(max=size)


@method(
    "ensemble", "weighted particles under the likelihood of the state, tempered; no gradient", exact="all", together=True
)
def ensemble(
    denoiser: AbstractDenoiser,
    measurement: Measurement,
    task: Task,
    tempered: bool = True,
    threshold: float = 0.5,
) -> Posed:
    """Approximation-free ensemble sampling: particles follow q_t(x) ~ p_t(x) exp(-beta_t mu(x/a)), mu(x) = -log p(y | x).

    They move with the score of q_t, and what its divergence and its change leave over goes into their weights. With u = x/a,
    sigma = s/a, from sigma to sigma', v = sigma^2 - sigma'^2,

        d log w = v (-<grad log p, beta grad mu> + |beta grad mu|^2/2 - beta tr(Hess mu)/2) - mu d(beta)

    which is the limit for small rows of the ratio that weighs here, exact in each: q_t'/q_t of both ends and the kernels,
    led and not. A guess of p(y | x_t) is not made; the end is the posterior as particles grow, for every prior. But q_t is
    narrower than the law of x_t given y, and every octave of noise levels has to make up for that by weights: it takes many
    more particles than `mcgdiff` or `tds`. The pull is implicit for a linear operator, so that rows may be long.

    Args:
        tempered: beta = std^2/(std^2 + sigma^2), which asks of noisy states no more than they can have; without, beta = 1 as
            in the paper, whose weights have heavy tails: the samples are too narrow unless particles are very many.
        threshold: of the effective sample size below which particles are resampled, as a share of them.

    Reference: Chen, Ren, Min, Ying and Izzo, Solving Inverse Problems via Diffusion-Based Priors: An Approximation-Free
    Ensemble Sampling Approach, 2025, arXiv 2506.03979.
    """
    std = measurement.std
    if not std > 0.0:
        raise BadValue(f"std={std}", "noise above 0", "Measurement(A, y, 1e-2)")
    path = denoiser.path
    table = plan("ddpm", denoiser, nfe=task.nfe, grid=task.grid)
    betas = {t: std**2 / (std**2 + path.sigma(t) ** 2) if tempered else 1.0 for t in table.times}
    moves: dict[float, Move] = {}
    for row in table.rows[:-1]:
        t, to = float(row.time or 0.0), float(row.next_time or 0.0)
        c_x, c_data, kappa = (float(part[0]) for part in (row.states, row.outputs, row.noises))  # type: ignore[arg-type]
        moves[t] = Move(c_x, c_data, kappa, path.a(to), betas[to])
    particles = Weighted(task.n, likelihood(measurement), threshold=threshold)

    def evidence(state: State) -> float:
        return float(log_evidence(state, task.n)[0])

    return Posed(Everywhere(denoiser, measurement, moves, betas), table, particles=particles, log_evidence=evidence)


systems.register(
    systems.System(
        title="Solving Inverse Problems via Diffusion-Based Priors: An Approximation-Free Ensemble Sampling Approach",
        authors=("Haoxuan Chen", "Yinuo Ren", "Martin Renqiang Min", "Lexing Ying", "Zachary Izzo"),
        year=2025,
        arxiv="2506.03979",
        home="inverse",
        call="rg.inverse.solve(denoiser, measurement, method='ensemble', n=1024, nfe=100)",
        test="tests/inverse/test_ensemble.py::test_the_error_falls_with_the_number_of_particles",
    )
)
