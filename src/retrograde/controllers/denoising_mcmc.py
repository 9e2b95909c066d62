"""Denoising MCMC: a chain over states and noise levels, denoised from the low levels it comes by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from retrograde import laws, systems
from retrograde.denoisers import AbstractDenoiser, AtOwnTimes, on_path
from retrograde.denoisers.oracles import GaussianMixture
from retrograde.denoisers.own_times import KNOB
from retrograde.errors import BadValue, ShapeError
from retrograde.grids import karras
from retrograde.noise import Noise
from retrograde.paths import EDM
from retrograde.plan import Plan, Row
from retrograde.recipes.own_levels import own_levels
from retrograde.recipes.recipe import get
from retrograde.run import Controller, State
from retrograde.sampling import record, steps

Posterior = Callable[[Tensor], Tensor]
"""From states [n, *shape] on the path x_0 + s eps to log p(s | x) over the levels, [n, levels], up to a constant."""

_START, _LEVEL = -52.0, (-52.0, -1.0)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Levels:
    """The noise levels of a chain, s = s_min (s_max/s_min)^u for even u in [1e-3, 1], equally likely.

    Attributes:
        s: rising levels, [levels] float64.
    """

    s: Tensor

    @classmethod
    def geometric(cls, s_min: float = 0.01, s_max: float = 50.0, count: int = 1000) -> Levels:
        """Return the levels of the paper."""
        if not 0.0 < s_min < s_max or count < 2:
            raise BadValue(f"s_min={s_min}, s_max={s_max}, count={count}", "0 < s_min < s_max, count >= 2", "s_min=0.01")
        u = torch.linspace(1e-3, 1.0, count, dtype=torch.float64)
        return cls(s_min * (s_max / s_min) ** u)

    def exact(self, oracle: GaussianMixture) -> Posterior:
        """Return the posterior of an oracle on a path x_0 + s eps: its density at every level, under the even prior."""
        times = [oracle.path.time_of_sigma(float(s)) for s in self.s]

        def log_posterior(x: Tensor) -> Tensor:
            return torch.stack([oracle.log_prob(x, t) for t in times], 1)

        return log_posterior

    def draw(self, log_posterior: Tensor, noise: Noise, step: int, greedy: bool = False) -> Tensor:
        """Return a level for each item, [n] float64: a draw, or with `greedy` the most likely."""
        if log_posterior.shape[1] != len(self.s):
            raise ShapeError(f"log-probabilities {list(log_posterior.shape)}", f"[n, {len(self.s)}]", "one for each level")
        if greedy:
            return self.s[log_posterior.argmax(1).cpu()]
        share = torch.softmax(log_posterior.double().cpu(), 1).cumsum(1)
        uniform = torch.special.ndtr(noise.draw((1,), _LEVEL, step, torch.float64))
        return self.s[torch.searchsorted(share, uniform * share[:, -1:])[:, 0].clamp(max=len(self.s) - 1)]


@final
@dataclasses.dataclass(frozen=True, eq=False)
class LangevinGibbs:
    """The controller of a chain: writes each Langevin row for the levels of the items, then draws these anew.

    x <- x + (eta/2) score(x, s) + sqrt(eta) z and s ~ p(s | x), for each item of the batch by itself.

    Attributes:
        levels, posterior: where the chain may be, and p(s | x).
        start: level of each item at the begin, [n].
        eta: size of a step; times s^2 with `relative`.
        noise: of the draws of s.
        ndim: number of axes of an item.
        relative: whether eta is in units of s^2, so that the error of a Langevin step is the same at every level.
        greedy: takes the most likely level instead of a draw, as the authors' code does; the chain then has another law.
    """

    levels: Levels
    posterior: Posterior
    start: Tensor
    eta: float
    noise: Noise
    ndim: int = 1
    relative: bool = False
    greedy: bool = False

    def begin(self) -> Controller:
        """Return the controller of one run."""
        return _Chain(self)

    def plan(self, count: int) -> Plan:
        """Return the rows of `count` steps, before they are written for the levels of the items."""
        settings = {"eta": self.eta, "relative": self.relative, "greedy": self.greedy}
        return langevin_plan(self.levels, count, "langevin_gibbs@1", **settings)


class _Chain:
    """The controller of one run; the level each item is at lives here."""

    consumes: frozenset[str] = frozenset()

    def __init__(self, settings: LangevinGibbs) -> None:
        self.settings, self.s = settings, settings.start.double().cpu()

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        if not remaining:
            return remaining
        own = self.settings
        if state is not None:
            self.s = own.levels.draw(own.posterior(state.x_t), own.noise, state.index, own.greedy)
        row = langevin(remaining[0], self.s, own.eta, own.relative, own.ndim)
        return (row, *remaining[1:])

    def correct(self, state: State) -> Tensor:
        return state.x_t


def langevin(row: Row, own: Tensor, eta: float, relative: bool, ndim: int) -> Row:
    """Return the row written as x + (eta/2) score(x, s) + sqrt(eta) z, on the path x_0 + s eps, for levels s [n]."""
    s = own.reshape(-1, *(1,) * ndim)
    step = eta * s * s if relative else torch.full_like(s, eta)
    drift = 0.5 * step / (s * s)
    written = {"states": (1.0 - drift,), "outputs": (drift,), "noises": (step.sqrt(),)}
    return dataclasses.replace(row, knobs={KNOB: own.tolist()}, **written)


def langevin_plan(levels: Levels, count: int, recipe: str, **provenance: Any) -> Plan:
    """Return the rows of `count` Langevin steps, before they are written for the levels of the items."""
    top = EDM(sigma_min=float(levels.s[0]), sigma_max=float(levels.s[-1]))
    rows = (Row(top.t_max, top.t_max, (1.0,), (0.0,), (0.0,), renoise=True),) * count
    return Plan(top, rows, "data", recipe, misses=(laws.POINT_MASS,), provenance=provenance)


def denoising_mcmc(
    denoiser: AbstractDenoiser,
    levels: Levels,
    posterior: Posterior,
    chains: int,
    draws: int = 1,
    *,
    skip: int = 10,
    nfe: int = 10,
    eta: float = 0.5,
    burn_in: int = 20,
    recipe: str = "heun",
    relative: bool = False,
    greedy: bool = False,
    seed: int = 0,
    condition: Any = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return samples [chains, draws, *shape] of denoising Langevin-Gibbs: `skip` + nfe evaluations for each.

    A chain over (x, s) with the law p(s) (p_data * N(0, s^2)) takes `skip` steps; the state with the least s of them is
    carried to the data by `recipe` on Karras levels between its own s and the least level, and its data mean there is the
    sample. Chains begin with a sample of a quick plan, noised, and `burn_in` steps. The samples of one chain depend on
    each other, and a chain moves between far modes only by way of high levels: with small steps it may not.

    The Langevin step is not corrected, so its law is that of p only for eta much smaller than the s^2 it comes by. Where
    eta is not, noise feeds on itself, the chain drifts up and its denoising costs more; `relative` steps do not. On an
    exact mixture of small digits ten evaluations a sample came nearer to the data than ten of Heun's from the noise end;
    twenty did not, and DPM-Solver++(2M) was as near at ten with independent samples.

    Args:
        posterior: log p(s | x) on the path x_0 + s eps; `levels.exact(oracle)`, or `train.noise_posterior(network)` of a
            classifier that `train.fit_noise_classifier` trained on `levels.s`.
        chains, draws: chains side by side, and samples of each.
        recipe: what denoises, for instance "heun" or "dpmpp_2m".

    Raises:
        BadValue: counts below one.

    Reference: Kim and Ye, Denoising MCMC for Accelerating Diffusion-Based Generative Models, 2022, arXiv 2209.14593.
    """
    if min(chains, draws, skip, nfe) < 1 or burn_in < 0:
        given = f"chains={chains}, draws={draws}, skip={skip}, nfe={nfe}, burn_in={burn_in}"
        raise BadValue(given, "1 or more of each, burn_in >= 0", "chains=16, draws=4, skip=10, nfe=10")
    s_min, s_max = float(levels.s[0]), float(levels.s[-1])
    path = EDM(sigma_min=s_min, sigma_max=s_max)
    asked = AtOwnTimes(on_path(denoiser, path))
    quick = get("heun").compile(path, karras(path, 10))
    *_, begun = steps(quick, asked, chains, seed, condition=condition, dtype=dtype, device=device)
    noise = Noise(seed, range(chains))
    x = begun.x_t + 0.5 * noise.draw(asked.shape, (_START, _START), 0, dtype, begun.x_t.device)
    s = levels.draw(posterior(x), noise, 10**6, greedy)
    chain = LangevinGibbs(levels, posterior, s, eta, noise, len(asked.shape), relative, greedy)
    rec = record(asked, chain.plan(burn_in + skip * draws), x=x, seed=seed, condition=condition, controllers=[chain])
    emitted, starts = lowest_met(rec.plan, rec.trajectory, burn_in, draws)
    down = _denoising(path, starts, recipe, nfe, len(asked.shape))
    repeated = None if condition is None else _repeated(condition, chains, draws)
    *_, last = steps(down, asked, x=emitted, seed=seed, condition=repeated)
    return last.x_t.reshape(draws, chains, *asked.shape).transpose(0, 1)


def lowest_met(plan: Plan, trajectory: tuple[Tensor, ...], burn_in: int, draws: int) -> tuple[Tensor, list[float]]:
    """Return the states of least level of each of `draws` parts of a recorded chain, [draws * chains, *shape], and these.

    A row's times are the levels of the states it was asked about, those before it.
    """
    visited = torch.tensor([row.knobs[KNOB] for row in plan.rows], dtype=torch.float64)[burn_in:]
    visited = visited.reshape(draws, -1, visited.shape[-1])
    states = torch.stack(trajectory[burn_in:-1])
    states = states.reshape(draws, -1, *states.shape[1:])
    lowest = visited.argmin(1)
    place, item = torch.arange(draws)[:, None], torch.arange(visited.shape[-1])
    return states[place, lowest, item].flatten(0, 1), visited[place, lowest, item].flatten().tolist()


def _denoising(path: EDM, starts: list[float], recipe: str, nfe: int, ndim: int) -> Plan:
    """Return the plan that takes each item from its own level to the least one and on to the data mean."""
    chosen = get(recipe)
    count, stages = chosen.points(nfe)
    low = path.t_min / (1.0 + 1e-3)
    plans = []
    for start in starts:
        times = karras(path, count, sigma_min=low, sigma_max=start)
        plans.append(chosen.compile(path, (start, *times[1:]), stages))
    return own_levels(plans, ndim)


def _repeated(condition: Any, chains: int, draws: int) -> Any:
    """Return conditions of the chains for all draws of each."""
    if isinstance(condition, dict):
        return {name: _repeated(value, chains, draws) for name, value in condition.items()}
    given = torch.as_tensor(condition)
    return given.repeat(draws, *(1,) * (given.ndim - 1)) if given.ndim and len(given) == chains else condition


systems.register(
    systems.System(
        title="Denoising MCMC for Accelerating Diffusion-Based Generative Models",
        authors=("Beomsu Kim", "Jong Chul Ye"),
        year=2022,
        arxiv="2209.14593",
        home="solvers",
        number=52,
        call="rg.controllers.denoising_mcmc(denoiser, levels, levels.exact(oracle), chains=16, draws=4)",
        test="tests/controllers/test_denoising_mcmc.py::test_the_chain_keeps_the_law_of_levels_and_states",
    )
)
