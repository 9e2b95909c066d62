"""A policy of initial noise: where it goes on a mixture, its gradient on a line, and what clipping is for."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, PlanError

MODES = torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])


@pytest.fixture
def mixture(path):
    return rg.oracles.GaussianMixture(path, MODES, 0.02)


def near(x, searches):
    return -(x - MODES[2]).square().sum(1).double()


def test_it_moves_to_what_becomes_the_mode_that_is_liked(mixture, path):
    """A sample of the policy, one run, is better than the best of all the runs that it took to learn it."""
    plan = rg.plan("ddim", path, nfe=6)
    policy = rg.search.learn(mixture, plan, near, rounds=30, batch=16, rate=1.0)
    drawn = near(rg.sample(mixture, plan, x=policy.starts(200, seed=1)), None)
    best = rg.search.random(mixture, plan, near, n=2, draws=30 * 16)
    assert policy.ledger.nfe == best.ledger.nfe == 30 * 16 * 6
    assert drawn.mean() > best.verdicts.mean()
    centre = rg.sample(mixture, plan, x=policy.scale * policy.mean[None])
    assert float((centre - MODES[2]).norm()) < 3 * 0.02**0.5
    assert policy.trace[-1][1] > policy.trace[0][1]
    assert policy.ledger.verdicts == 30 * 16


def test_of_a_line_the_first_step_is_along_the_gradient(path):
    """x_0 = c z and r = w x_0: the mean moves along w, the spread stays, on the average over a large batch."""
    den = rg.oracles.Gaussian(path, torch.zeros(4), 1.0)
    w = torch.tensor([1.0, -2.0, 0.5, 0.0])
    plan = rg.plan("ddim", path, nfe=4)
    policy = rg.search.learn(den, plan, lambda x, i: x @ w, rounds=1, batch=600, updates=1, rate=0.1)
    cosine = torch.nn.functional.cosine_similarity(policy.mean, w, dim=0)
    assert cosine > 0.95
    assert float(policy.mean.norm()) == pytest.approx(0.1, rel=0.2)  # rate, in units of the spread of rewards
    assert torch.allclose(policy.spread, torch.ones(4), atol=0.02)


def test_without_clipping_old_batches_are_followed_too_far(mixture, path):
    """Many long steps on batches of long ago: clipped it stays near N(0, I), free it is further for no more, or diverges."""
    plan = rg.plan("ddim", path, nfe=6)

    def learned(clip):
        return rg.search.learn(mixture, plan, near, rounds=12, batch=16, updates=20, rate=8.0, reuse=6, clip=clip)

    held = learned(0.2)
    assert held.divergence < 4.0
    free = learned(None)
    gained = [float(near(rg.sample(mixture, plan, x=p.starts(200, seed=1)), None).mean()) for p in (held, free)]
    assert free.divergence > 2.0 * held.divergence
    assert gained[1] < gained[0] + 0.01
    with pytest.raises(BadValue, match="diverged"):
        rg.search.learn(mixture, plan, near, rounds=8, batch=16, updates=10, rate=1000.0, clip=None)


def test_nothing_learned_is_plain_noise(mixture, path):
    plan = rg.plan("ddim", path, nfe=4)
    policy = rg.search.learn(mixture, plan, lambda x, i: torch.zeros(len(x)), rounds=2, batch=4)
    assert policy.divergence == pytest.approx(0.0, abs=1e-9)
    assert torch.equal(rg.sample(mixture, plan, x=policy.starts(3)), rg.sample(mixture, plan, n=3))


def test_mistakes_are_named(mixture, path):
    with pytest.raises(PlanError, match="deterministic"):
        rg.search.learn(mixture, rg.plan("ddpm", path, nfe=3), near)
    with pytest.raises(BadValue, match="batch"):
        rg.search.learn(mixture, rg.plan("ddim", path, nfe=3), near, batch=1)
