"""Parallel tempering on mixtures: exchanges keep the law of every level, and without them, or with others, it is lost."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.controllers import Levels, Replicas, parallel_tempering
from retrograde.denoisers import AtOwnTimes
from retrograde.errors import BadValue, ShapeError
from retrograde.noise import Noise

LEVELS = Levels(torch.tensor([0.1, 0.25, 0.6, 1.5]).double())
PATH = rg.paths.EDM(sigma_min=0.1, sigma_max=1.5)
DEN = rg.oracles.GaussianMixture(PATH, torch.tensor([[-1.0], [1.0]]), 0.04, weights=[0.8, 0.2])
POSTERIOR = LEVELS.exact(DEN)


def drawn(groups: int, seed: int = 1) -> Tensor:
    """States of every level with their law, [groups, levels, 1]."""
    clean = DEN.sample(groups * 4, seed).view(groups, 4, 1)
    eps = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return clean + LEVELS.s[:, None] * eps


def away(x: Tensor, level: int) -> float:
    """Total variation of 30 bins between states and the law of their level."""
    edges = torch.linspace(-3, 3, 31, dtype=torch.float64)
    line = torch.linspace(-4, 4, 4001, dtype=torch.float64)[:, None]
    density = torch.softmax(DEN.log_prob(line, PATH.time_of_sigma(float(LEVELS.s[level]))), 0)

    def histogram(x, weights):
        bins = torch.bucketize(x.double().flatten().contiguous(), edges)
        return torch.zeros(32, dtype=torch.float64).index_add_(0, bins, weights)

    found = histogram(x, torch.full((x.numel(),), 1.0 / x.numel(), dtype=torch.float64))
    return 0.5 * float((found - histogram(line, density)).abs().sum())


class Quick:
    """Noise of a batch of hundreds in one draw; keyed by interval, not by item."""

    def __init__(self, seed, items):
        self.seed, self.items = seed, items

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        generator = torch.Generator().manual_seed(hash((self.seed, interval, occurrence)) % 2**63)
        return torch.randn(len(self.items), *shape, dtype=torch.float64, generator=generator).to(dtype)


def walked(x: Tensor, rows: int, **settings) -> tuple[list[Tensor], Tensor]:
    """States by level, [groups, levels, 1], after every row of a walk that begins at x, and the share of exchanges taken."""
    options = {"posterior": POSTERIOR, "eta": 0.3} | settings
    walk = Replicas(LEVELS, noise=Quick(1, range(4 * len(x))), **options)  # type: ignore[arg-type]
    one = walk.begin()
    found = [
        state.x_t[one.holders]
        for state in rg.steps(walk.plan(rows), AtOwnTimes(DEN), x=x.flatten(0, 1), noise=Quick, controllers=[one])
    ]
    return found, one.taken / one.tried.clamp(min=1.0)


def test_replicas_that_begin_in_the_wrong_mode_come_to_have_the_law():
    """All begin at the light mode. Without exchanges the low levels stay there; where all are taken they have no law.

    Total variation of 800 draws from the exact law is 0.07; the light mode alone is 0.8 away.
    """
    x = torch.ones(200, 4, 1) + LEVELS.s[:, None] * torch.randn(200, 4, 1, generator=torch.Generator().manual_seed(0))
    found, accepted = walked(x, 160)
    states = torch.cat(found[99::20])
    for level in range(4):
        assert away(states[:, level], level) < 0.1, level
    assert abs(float((states[:, 0] > 0).double().mean()) - 0.2) < 0.05
    assert ((accepted > 0.2) & (accepted < 0.9)).all()
    still, _ = walked(x, 100, every=0)
    assert away(still[-1][:, 0], 0) > 0.75
    always, accepted = walked(x, 100, posterior=lambda x: torch.zeros(len(x), 4))
    assert away(always[-1][:, 0], 0) > 0.3
    assert (accepted == 1.0).all()


def test_exchanges_alone_keep_the_law_of_the_group():
    """Steps of no size: what moves are the levels alone, by the published rule, group by group."""
    x = drawn(4000)
    found, _ = walked(x, 5, eta=1e-12)
    assert ((found[-1] - x).abs().amax((0, 2)) > 0.1).all()
    for level in range(4):
        assert away(found[-1][:, level], level) < 1.2 * away(x[:, level], level)
    assert torch.allclose(found[-1].sort(1).values, x.sort(1).values, atol=1e-4)  # the same states, elsewhere

    walk = Replicas(LEVELS, POSTERIOR, 0.1, Noise.first(8, 3)).begin()
    pairs = x[:2].flatten(0, 1)
    log_p = torch.stack([DEN.log_prob(pairs, PATH.time_of_sigma(float(s))) for s in LEVELS.s], 1)
    u = torch.special.ndtr(Noise.first(8, 3).draw((1,), (-1991.0, -1.0), 2, torch.float64))[:, 0]
    walk.exchange(pairs, 2)
    for group in range(2):
        for low in (0, 2):
            here, there = 4 * group + low, 4 * group + low + 1
            ratio = (log_p[here, low + 1] + log_p[there, low] - log_p[here, low] - log_p[there, low + 1]).exp()
            assert bool(walk.holders[group, low] == there) == bool(u[here] < ratio)


def test_samples_are_data_means_of_the_least_level():
    found = parallel_tempering(DEN, LEVELS, POSTERIOR, 3, draws=2, skip=4, burn_in=5)
    assert found.samples.shape == (3, 2, 1)
    assert found.states.shape == (3, 2, 4, 1)
    assert torch.allclose(found.samples, DEN(found.states[:, :, 0].reshape(6, 1), 0.1).data.view(3, 2, 1))
    assert found.ledger.nfe == 4 * 13 + 2
    fewer = parallel_tempering(DEN, LEVELS, POSTERIOR, 2, draws=2, skip=4, burn_in=5)
    assert torch.equal(fewer.states, found.states[:2])


def test_the_condition_is_that_of_walk_and_means():
    """Of two labels, one mode each: every sample is the data mean under its group's label."""
    den = rg.oracles.GaussianMixture(PATH, torch.tensor([[-1.0], [1.0]]), 0.04, labels=[0, 1])
    found = parallel_tempering(den, LEVELS, POSTERIOR, 2, draws=2, skip=2, burn_in=2, every=0, condition=[0, 1])
    low = found.states[:, :, 0]
    for label in (0, 1):
        assert torch.allclose(found.samples[label], den(low[label], 0.1, label=[label, label]).data)
    assert float(found.samples[0].max()) < 0.0 < float(found.samples[1].min())


def test_groups_do_not_hang_on_the_batch_and_a_run_is_a_table():
    x = drawn(3).flatten(0, 1)
    walk = Replicas(LEVELS, POSTERIOR, 0.1, Noise.first(12, 3))
    rec = rg.record(AtOwnTimes(DEN), walk.plan(6), x=x, seed=5, controllers=[walk])
    assert torch.equal(rg.sample(AtOwnTimes(DEN), rec.plan, x=x, seed=5), rec.samples)
    alone = Replicas(LEVELS, POSTERIOR, 0.1, Noise(3, range(4, 8)))
    again = rg.sample(AtOwnTimes(DEN), alone.plan(6), x=x[4:8], items=range(4, 8), seed=5, controllers=[alone])
    assert torch.allclose(again, rec.samples[4:8], atol=1e-12)
    levels = torch.tensor([row.knobs["times"] for row in rec.plan.rows], dtype=torch.float64).view(6, 3, 4)
    assert torch.allclose(levels.sort(-1).values, LEVELS.s.expand(6, 3, 4))
    assert not torch.equal(levels[0], levels[-1])


def test_mistakes_are_named():
    with pytest.raises(BadValue, match="two levels"):
        parallel_tempering(DEN, Levels(torch.tensor([0.1]).double()), POSTERIOR, 3)
    with pytest.raises(ShapeError, match="whole groups"):
        Replicas(LEVELS, POSTERIOR, 0.1, Noise.first(6, 0)).begin()
    with pytest.raises(ShapeError, match="one state for each level"):
        parallel_tempering(DEN, LEVELS, POSTERIOR, 3, x=torch.zeros(3, 1))
