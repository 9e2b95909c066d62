"""Replicas at several noise levels that exchange their levels: parallel tempering."""

from __future__ import annotations

import dataclasses
from typing import Any, final

import torch
from torch import Tensor

from retrograde.controllers.denoising_mcmc import Levels, Posterior, langevin, langevin_plan
from retrograde.denoisers import AbstractDenoiser, AtOwnTimes, on_path, prepare_condition
from retrograde.errors import BadValue, ShapeError
from retrograde.grids import karras
from retrograde.noise import Noise
from retrograde.paths import EDM
from retrograde.plan import Plan, Row
from retrograde.recipes.recipe import get
from retrograde.run import State
from retrograde.sampling import steps
from retrograde.state import Ledger

_START, _SWAP = (-1991.0, -1991.0), (-1991.0, -1.0)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Replicas:
    """The controller of groups of replicas: writes each Langevin row for the levels of the items, then exchanges these.

    A group is as many items as there are levels, which hold one level each: item i of a group begins at level i. After a row
    neighbours on the ladder, (0, 1), (2, 3), .. and (1, 2), (3, 4), .. by turns, change places with probability

        min(1, p_k(x_l) p_l(x_k) / (p_k(x_k) p_l(x_l))),     p_k = p_data * N(0, s_k^2),

    which keeps the law of the group, the product of all p_k. Only ratios of p(s | x) are in it: no density of the data.

    Attributes:
        levels, posterior: the ladder, and log p(s | x) on it (see `Levels.exact`, `train.noise_posterior`).
        eta: size of the Langevin step; times s^2 with `relative`.
        noise: of the exchanges.
        ndim: number of axes of an item.
        every: rows between two exchanges; 0 for none.
        relative: whether eta is in units of s^2.
    """

    levels: Levels
    posterior: Posterior
    eta: float
    noise: Noise
    ndim: int = 1
    every: int = 1
    relative: bool = True

    def begin(self) -> Exchanging:
        """Return the controller of one run."""
        return Exchanging(self)

    def plan(self, count: int) -> Plan:
        """Return the rows of `count` steps, before they are written for the levels of the items."""
        settings = {"eta": self.eta, "relative": self.relative, "every": self.every}
        return langevin_plan(self.levels, count, "replicas@1", **settings)


@final
class Exchanging:
    """The controller of one run; who holds which level lives here.

    Attributes:
        holders: places in the batch of those who hold each level, [groups, levels].
        tried, taken: exchanges of the levels k and k + 1, [levels - 1].
    """

    consumes: frozenset[str] = frozenset()

    def __init__(self, settings: Replicas) -> None:
        count, n = len(settings.levels.s), len(settings.noise.items)
        if n % count:
            given = f"{n} items for {count} levels"
            raise ShapeError(given, "whole groups, one item for each level", f"n={-(-n // count) * count}")
        self.settings = settings
        self.holders = torch.arange(n).view(-1, count)
        self.tried, self.taken = torch.zeros(2, count - 1, dtype=torch.float64)

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        own = self.settings
        if state is not None and own.every and (state.index + 1) % own.every == 0:
            self.exchange(state.x_t, (state.index + 1) // own.every)
        if not remaining:
            return remaining
        s = torch.empty(self.holders.numel(), dtype=torch.float64)
        s[self.holders] = own.levels.s.double().expand(self.holders.shape)
        return (langevin(remaining[0], s, own.eta, own.relative, own.ndim), *remaining[1:])

    def exchange(self, x: Tensor, turn: int) -> None:
        """Let every other pair of neighbours change places, or not."""
        own = self.settings
        said = own.posterior(x).double().cpu()
        u = torch.special.ndtr(own.noise.draw((1,), _SWAP, turn, torch.float64))[:, 0]
        low = torch.arange(turn % 2, len(own.levels.s) - 1, 2)
        here, there = self.holders[:, low], self.holders[:, low + 1]
        gained = said[here, low + 1] + said[there, low] - said[here, low] - said[there, low + 1]
        taken = u[here].log() < gained
        self.holders[:, low] = torch.where(taken, there, here)
        self.holders[:, low + 1] = torch.where(taken, here, there)
        self.tried[low] += len(here)
        self.taken[low] += taken.double().sum(0)

    def correct(self, state: State) -> Tensor:
        return state.x_t


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Tempered:
    """What replicas drew.

    Attributes:
        samples: data means of the states at the least level, [groups, draws, *shape].
        states: states of every level, [groups, draws, levels, *shape]; each level's have the law of the data noised by it.
        accepted: share of the exchanges of the levels k and k + 1 that were taken, [levels - 1].
        ledger: the cost of a group.
    """

    samples: Tensor
    states: Tensor
    accepted: Tensor
    ledger: Ledger


def parallel_tempering(
    denoiser: AbstractDenoiser,
    levels: Levels,
    posterior: Posterior,
    groups: int,
    draws: int = 1,
    *,
    skip: int = 20,
    burn_in: int = 50,
    eta: float = 0.1,
    every: int = 1,
    x: Tensor | None = None,
    seed: int = 0,
    condition: Any = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tempered:
    """Return samples of replicas at all levels that walk by Langevin steps and exchange their levels.

    What a replica at a high level finds goes down the ladder to the least one, whose own steps are too short to leave a
    mode; so the share of every mode is that of the law, wherever the replicas begin. Every row costs one evaluation for each
    level. The Langevin steps, of size eta s^2, are not corrected: the variance v + s^2 of Gaussian data at a level comes out
    as (v + s^2)/(1 - eta s^2/(4 (v + s^2))), 2.6 % too large at most for eta = 0.1. The exchanges are exact.

    Neighbouring levels want a ratio at which `accepted` is neither near 0 nor near 1; it grows more slowly the more
    dimensions the data have. The replicas of a group depend on each other, groups do not, nor on the batch.

    Args:
        levels: the ladder, for instance `Levels(torch.tensor([0.1, 0.3, 1.0, 3.0]))`.
        posterior: log p(s | x); see `Replicas`.
        groups, draws: groups side by side, and draws of each.
        skip: rows between two draws.
        every: rows between two exchanges; 0 for none.
        condition: for all groups, or one for each; the replicas of a group share it, and `posterior` is that of the data
            under it.
        x: where the replicas begin, [groups, levels, *shape]; samples of a quick plan, noised, if not given.

    Raises:
        BadValue: counts below one, or fewer than two levels.
        ShapeError: x of another shape.

    References: Swendsen, Wang, Replica Monte Carlo simulation of spin glasses, 1986; Geyer, Markov chain Monte Carlo maximum
    likelihood, 1991.
    """
    count = len(levels.s)
    if min(groups, draws, skip) < 1 or min(burn_in, every) < 0 or count < 2:
        given = f"groups={groups}, draws={draws}, skip={skip}, burn_in={burn_in}, every={every}, {count} levels"
        raise BadValue(given, "1 or more of the first three, two levels or more", "groups=16, draws=4, skip=20")
    path = EDM(sigma_min=float(levels.s[0]), sigma_max=float(levels.s[-1]))
    asked = AtOwnTimes(on_path(denoiser, path))
    n, noise = groups * count, Noise(seed, range(groups * count))
    told = prepare_condition(asked, condition, groups, device)
    each = {name: value.repeat_interleave(count, 0) for name, value in told.items()}
    if x is None:
        quick = get("heun").compile(path, karras(path, 10))
        *_, begun = steps(quick, asked, n, seed, condition=each, dtype=dtype, device=device)
        s = levels.s.repeat(groups).reshape(-1, *(1,) * len(asked.shape)).to(begun.x_t)
        start = begun.x_t + s * noise.draw(asked.shape, _START, 0, dtype, begun.x_t.device)
    elif x.shape != (groups, count, *asked.shape):
        raise ShapeError(f"x of shape {list(x.shape)}", f"{[groups, count, *asked.shape]}", "one state for each level")
    else:
        start = x.flatten(0, 1)
    walk = Replicas(levels, posterior, eta, noise, len(asked.shape), every)
    one = walk.begin()
    found, ledger = [], Ledger()
    rows = burn_in + draws * skip
    for last in steps(walk.plan(rows), asked, x=start, seed=seed, condition=each, controllers=[one]):
        done = last.index + 1 - burn_in
        if done > 0 and done % skip == 0:
            found.append(last.x_t[one.holders.to(last.x_t.device)])
        ledger = last.ledger
    states = torch.stack(found, 1)
    low = states[:, :, 0].flatten(0, 1)
    with torch.no_grad():
        drawn = {name: value.repeat_interleave(draws, 0) for name, value in told.items()}
        means = asked.predict(low, path.time_of_sigma(float(levels.s[0])), drawn)
    spent = Ledger({name: count * share for name, share in ledger.evaluations.items()}, ledger.rows, ledger.seconds)
    spent.count({name: draws * share for name, share in means.evaluations.items()}, 0.0)
    samples = means.data.reshape(groups, draws, *asked.shape)
    return Tempered(samples, states, one.taken / one.tried.clamp(min=1.0), spent)
