"""Whose noise an item gets: complaints 22 to 24 of docs/complaints.md."""

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.interop import schedulers
from retrograde.noise import Brownian, Noise

VP = rg.paths.VP()
DATA = rg.oracles.GaussianMixture(VP, torch.tensor([[1.0, 0.5], [-0.8, 0.9]]), 0.1)
STOCHASTIC = [name for name in rg.recipes.names() if rg.recipes.get(name).stochastic]


@pytest.mark.parametrize("noise", [Noise, Brownian])
@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "euler_ancestral"])
def test_batch_size_and_company_do_not_change_an_item(name, noise):
    plan = rg.plan(name, VP, nfe=9)
    together = rg.sample(DATA, plan, n=5, seed=7, noise=noise)
    for size in (1, 2, 3):
        assert torch.equal(rg.sample(DATA, plan, n=5, seed=7, noise=noise, batch_size=size), together)
    assert torch.equal(rg.sample(DATA, plan, seed=7, items=[4, 1], noise=noise), together[[4, 1]])


def test_noise_of_ones_own_is_taken_as_it_is():
    """The initial state is `x`, and the draws are those of any object that has `draw`."""

    class Zeros:
        def __init__(self, seed, items):
            self.items = items

        def draw(self, shape, interval, occurrence=0, dtype=torch.float32, device="cpu"):
            return torch.zeros(len(self.items), *shape, dtype=dtype, device=device)

    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    ddpm, ddim = (rg.plan("ddim", VP, nfe=6, eta=eta) for eta in (1.0, 0.0))
    *_, last = rg.steps(ddpm, DATA, x=x, noise=Zeros)
    state = x
    for row in ddpm.bind(DATA).rows:  # by hand, without the noise term
        state = row.states[0] * state + row.outputs[0] * DATA(state, row.time).read(ddpm.basis)
    torch.testing.assert_close(last.x_t, state)
    assert not torch.equal(last.x_t, rg.sample(DATA, ddim, x=x))


@pytest.mark.diffusers
def test_a_generator_for_each_item_makes_the_item_it_makes_alone():
    from retrograde.interop.diffusers import PlanScheduler

    path = schedulers.path_of({"_class_name": "DDIMScheduler"})
    plan = rg.plan("dpmpp_2m_sde", path, nfe=5)
    scheduler, den = PlanScheduler(plan), rg.oracles.Gaussian(path, torch.zeros(2), torch.ones(2))
    x = torch.tensor([[1.0, -1.0], [0.5, 2.0]])

    def run(state, generator):
        scheduler.set_timesteps(5)
        for step, t in zip(scheduler.timesteps, plan.times, strict=True):
            state = scheduler.step(den(state, t).noise, step, state, generator=generator).prev_sample
        return state

    seeds = (11, 12)
    together = run(x, [torch.Generator().manual_seed(seed) for seed in seeds])
    for k, seed in enumerate(seeds):
        torch.testing.assert_close(run(x[k : k + 1], [torch.Generator().manual_seed(seed)]), together[k : k + 1])
    assert not torch.allclose(together, run(x, [torch.Generator().manual_seed(seed + 1) for seed in seeds]))


@pytest.mark.parametrize("noise", [Noise, Brownian])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_seed_is_all_there_is(name, noise):
    """Generators of torch and numpy are neither read nor moved."""
    plan = rg.plan(name, VP, nfe=6)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    one = rg.sample(DATA, plan, n=2, seed=3, noise=noise)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    torch.manual_seed(2)
    assert torch.equal(rg.sample(DATA, plan, n=2, seed=3, noise=noise), one)
    assert not torch.equal(rg.sample(DATA, plan, n=2, seed=4, noise=noise), one)


def test_seed_zero_is_a_seed_like_others():
    plan = rg.plan("ddpm", VP, nfe=6)
    assert torch.equal(rg.sample(DATA, plan, seed=0), rg.sample(DATA, plan, seed=0))
    assert not torch.equal(rg.sample(DATA, plan, seed=0), rg.sample(DATA, plan, seed=1))
