"""Denoising MCMC on mixtures, where p(s | x) is known: the law the chain keeps, what a sample costs, how it mixes."""

import dataclasses

import pytest
import torch
from scipy import stats
from torch import Tensor

import retrograde as rg
from retrograde.controllers import LangevinGibbs, Levels, denoising_mcmc
from retrograde.controllers.denoising_mcmc import lowest_met
from retrograde.data import digits8
from retrograde.denoisers import AtOwnTimes
from retrograde.errors import BadValue, ShapeError
from retrograde.noise import Noise
from retrograde.plan import Plan
from retrograde.recipes.own_levels import own_levels

MEANS = torch.tensor([[1.5, 0.0], [-1.2, 0.8], [0.2, -1.4]])
LEVELS = Levels.geometric(0.3, 3.0, 20)
N = 3000


def oracle(levels: Levels, means: Tensor = MEANS, variance: float = 0.05) -> rg.oracles.GaussianMixture:
    path = rg.paths.EDM(sigma_min=float(levels.s[0]), sigma_max=float(levels.s[-1]))
    return rg.oracles.GaussianMixture(path, means, variance)


def exact_pairs(den: rg.oracles.GaussianMixture, seed: int) -> tuple[Tensor, Tensor]:
    """States and levels with the law the chain should keep."""
    generator = torch.Generator().manual_seed(seed)
    s = LEVELS.s[torch.randint(0, len(LEVELS.s), (N,), generator=generator)]
    return den.sample(N, seed) + s[:, None] * torch.randn(N, 2, generator=generator, dtype=torch.float64), s


def after_some_steps(greedy: bool) -> tuple[float, Tensor, Tensor, rg.oracles.GaussianMixture]:
    """p-value of even levels after 20 steps from the exact law, and the states with their levels."""
    den = oracle(LEVELS)
    x, s = exact_pairs(den, 1)
    posterior = LEVELS.exact(den)
    chain = LangevinGibbs(LEVELS, posterior, s, 0.02, Noise.first(N, 3), greedy=greedy)
    *_, last = rg.steps(chain.plan(20), AtOwnTimes(den), x=x, seed=5, controllers=[chain])
    s = LEVELS.draw(posterior(last.x_t), Noise.first(N, 9), 77, greedy)
    counts = torch.stack([(s == v).sum() for v in LEVELS.s])
    return float(stats.chisquare(counts.numpy()).pvalue), last.x_t, s, den


def test_the_chain_keeps_the_law_of_levels_and_states():
    p_value, x, s, den = after_some_steps(greedy=False)
    assert p_value > 0.01
    for level in (LEVELS.s[4], LEVELS.s[12]):
        at = x[s == level]
        noisy = den.sample(len(at), 8) + level * torch.randn(at.shape, generator=torch.Generator().manual_seed(2)).double()
        assert rg.quality.mmd_test(at, noisy, seed=0).p_value > 0.01


def test_the_most_likely_level_is_not_a_draw():
    """What the authors' code takes: the histogram of levels is far from even, so the test above has power."""
    assert after_some_steps(greedy=True)[0] < 1e-6


def test_a_row_of_the_chain_is_the_langevin_step_of_each_item():
    den = oracle(LEVELS)
    x, s = exact_pairs(den, 4)
    x, s = x[:5], s[:5]
    for relative in (False, True):
        chain = LangevinGibbs(LEVELS, LEVELS.exact(den), s, 0.02, Noise.first(5, 3), relative=relative)
        rec = rg.record(AtOwnTimes(den), chain.plan(3), x=x, seed=5, controllers=[chain])
        z = Noise.first(5, 5).draw((2,), (den.path.t_max, den.path.t_max), 0, torch.float64)
        eta = 0.02 * (s[:, None] ** 2 if relative else 1.0)
        score = torch.stack([den.predict(x[i : i + 1], float(s[i])).score[0] for i in range(5)])
        wanted = x + 0.5 * eta * score + torch.as_tensor(eta) ** 0.5 * z
        assert torch.allclose(rec.trajectory[1], wanted, atol=1e-12)
        # the table that ran is the chain: it replays without the controller
        assert torch.equal(rg.sample(AtOwnTimes(den), rec.plan, x=x, seed=5), rec.samples)
    alone = dataclasses.replace(chain, start=s[2:3], noise=Noise(3, [2]))
    again = rg.sample(AtOwnTimes(den), alone.plan(3), x=x[2:3], items=[2], seed=5, controllers=[alone])
    assert torch.allclose(again, rec.samples[2:3], atol=1e-12)


def test_each_part_of_a_chain_emits_the_state_of_the_least_level_it_met():
    plan = LangevinGibbs(LEVELS, lambda x: x, torch.ones(2), 0.1, Noise.first(2, 0)).plan(5)
    met = [[9.0, 9.0], [3.0, 1.0], [2.0, 2.0], [5.0, 7.0], [4.0, 8.0]]
    rows = tuple(dataclasses.replace(row, knobs={"times": s}) for row, s in zip(plan.rows, met, strict=True))
    trajectory = tuple(torch.tensor([[10.0 * k], [10.0 * k + 1.0]]) for k in range(6))
    states, levels = lowest_met(dataclasses.replace(plan, rows=rows), trajectory, burn_in=1, draws=2)
    assert levels == [2.0, 1.0, 4.0, 7.0]
    assert states.flatten().tolist() == [20.0, 11.0, 40.0, 31.0]


def test_ten_calls_a_sample_come_nearer_than_ten_of_heun():
    """On a mixture of small digits, energy distance to the data, mean of two runs: seven to denoise, three of the chain."""
    levels = Levels.geometric(0.01, 50.0, 60)
    den = oracle(levels, digits8("train")[0][:200].flatten(1), 0.01)
    truth = den.sample(384, 7)

    def distance(samples: Tensor) -> float:
        return float(rg.quality.energy_distance(samples, truth).value)

    plan = rg.plan("heun", den.path, nfe=10)
    plain = sum(distance(rg.sample(den, plan, n=256, seed=seed, dtype=torch.float64)) for seed in (1, 2))
    settings = {"skip": 3, "nfe": 7, "eta": 0.05, "dtype": torch.float64}
    made = [denoising_mcmc(den, levels, levels.exact(den), 128, 2, seed=seed, **settings) for seed in (2, 3)]
    assert made[0].shape == (128, 2, 64)
    assert sum(distance(samples.flatten(0, 1)) for samples in made) < 0.9 * plain


def test_far_modes_are_not_crossed_by_small_steps():
    """Known failure: a chain of small steps stays in its mode, one that reaches high levels does not."""
    levels = Levels.geometric(0.05, 20.0, 30)
    den = oracle(levels, torch.tensor([[-6.0, 0.0], [6.0, 0.0]]), 0.1)

    def switches(eta: float, relative: bool) -> float:
        settings = {"skip": 5, "nfe": 5, "eta": eta, "relative": relative, "dtype": torch.float64, "seed": 2}
        right = denoising_mcmc(den, levels, levels.exact(den), 32, 12, **settings)[..., 0] > 0
        return float((right[:, 1:] != right[:, :-1]).double().mean())

    assert switches(0.02, relative=False) < 0.01
    assert switches(0.5, relative=True) > 0.05


def test_items_of_one_plan_start_from_their_own_levels(tmp_path):
    """Laid over one another, tables give what each gives alone, also from a file."""
    path = rg.paths.EDM()
    den = oracle(LEVELS)
    starts = (5.0, 0.9, 30.0)
    for name in ("heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc_2"):
        grids = [rg.grids.karras(path, 5, sigma_max=start) for start in starts]
        plans = [rg.plan(name, path, grid=(start, *grid[1:])) for start, grid in zip(starts, grids, strict=True)]
        together = own_levels(plans, 1)
        x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).double() * torch.tensor(starts)[:, None]
        wide = dataclasses.replace(den, path=path)
        made = rg.sample(AtOwnTimes(wide), together, x=x)
        if not together.stochastic:
            alone = torch.cat([rg.sample(wide, plan, x=x[i : i + 1]) for i, plan in enumerate(plans)])
            assert torch.allclose(made, alone, atol=1e-10)
        together.save(tmp_path / "plan.json")
        assert torch.equal(rg.sample(AtOwnTimes(wide), Plan.load(tmp_path / "plan.json"), x=x), made)
    with pytest.raises(BadValue, match="3 times for 2 items"):
        rg.sample(AtOwnTimes(wide), together, x=x[:2])
    with pytest.raises(BadValue, match="2 layouts"):
        own_levels([rg.plan("ddim", path, nfe=4), rg.plan("ddim", path, nfe=5)], 1)


def test_networks_with_conditions_on_another_path_are_denoised_too():
    den = rg.load("digits8-flow")
    levels = Levels.geometric(0.02, 20.0, 30)
    exact = oracle(levels, digits8("train")[0][:64].flatten(1), 0.01)

    def posterior(x: Tensor) -> Tensor:
        return levels.exact(exact)(x.flatten(1))

    made = denoising_mcmc(den, levels, posterior, 3, 2, skip=2, nfe=5, eta=0.05, burn_in=2, condition=[1, 2, 3])
    assert made.shape == (3, 2, 1, 8, 8)
    assert made.isfinite().all()
    again = denoising_mcmc(den, levels, posterior, 3, 2, skip=2, nfe=5, eta=0.05, burn_in=2, condition=[1, 2, 3])
    assert torch.equal(made, again)


def test_what_does_not_fit_is_named():
    den = oracle(LEVELS)
    with pytest.raises(BadValue, match="skip=0"):
        denoising_mcmc(den, LEVELS, LEVELS.exact(den), 4, skip=0)
    with pytest.raises(BadValue, match="s_max"):
        Levels.geometric(2.0, 1.0)
    with pytest.raises(ShapeError, match=r"\[n, 20\]"):
        LEVELS.draw(torch.zeros(4, 3), Noise.first(4, 0), 0)
