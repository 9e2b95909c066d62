"""Fitted plans that draw noise: the law at every level is the path's."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise
from retrograde.quality import energy_distance
from retrograde.recipes import level
from retrograde.tune import Effort, Reference, stochastic
from retrograde.tune.stochastic import lifts

SMALL = Effort(128, 32, 32, 64, 32, 8, 1, 8, 256, ("ddim",))
PATHS = [rg.paths.EDM(), rg.paths.VP(), rg.paths.Flow()]


@pytest.fixture(scope="module")
def mixture():
    means = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return rg.oracles.GaussianMixture(rg.paths.EDM(), means, 0.05)


@pytest.fixture(scope="module")
def fitted(mixture):
    return stochastic(mixture, 5, effort=SMALL, seed=1)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_lift_ends_at_the_law_of_its_level(path, eta):
    times = [path.time_of_sigma(s) for s in (20.0, 3.0, 0.5)]
    den = rg.oracles.GaussianMixture(path, torch.zeros(1, 2), 1.0)
    for here, lift in zip(times, lifts(den, times, eta), strict=False):
        below, there = level(path, lift.below), level(path, lift.there)
        assert lift.keep * below.a == pytest.approx(there.a)
        assert (lift.keep * below.s) ** 2 + lift.fresh**2 == pytest.approx(there.s**2)
        ancestral = there.s * (1 - (there.sigma / path.sigma(here)) ** 2) ** 0.5
        assert lift.fresh == pytest.approx(eta * ancestral)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_state_of_gaussian_data_has_the_moments_of_its_level(path):
    n, d, mean, spread = 4000, 4, 0.5, 0.7
    den = rg.oracles.GaussianMixture(path, torch.full((1, d), mean), spread**2)
    plan = stochastic(den, 3, eta=0.8, effort=SMALL, seed=1)
    assert plan.stochastic
    for state in rg.steps(plan, den, n=n, seed=7):
        a, s = (1.0, 0.0) if state.t is None else (path.a(state.t), path.s(state.t))
        variance = (a * spread) ** 2 + s**2
        assert float(state.x_t.double().mean()) == pytest.approx(a * mean, abs=5 * (variance / (n * d)) ** 0.5)
        assert float(state.x_t.double().var()) == pytest.approx(variance, rel=5 * (2 / (n * d)) ** 0.5)


def test_its_samples_are_nearer_to_the_law_than_those_of_every_published_stochastic_solver(mixture, fitted):
    exact = mixture.sample(2000)
    made = energy_distance(rg.sample(mixture, fitted, n=2000, seed=3), exact).value
    published = {}
    for name in ("ddpm", "dpmpp_2m_sde", "dpmpp_3m_sde", "sa_solver", "er_sde_3", "euler_ancestral"):
        for grid in ("karras", "log_snr"):
            plan = rg.plan(name, mixture, nfe=5, grid=grid)
            assert plan.stochastic
            published[name, grid] = energy_distance(rg.sample(mixture, plan, n=2000, seed=3), exact).value
    assert made < 0.6 * min(published.values()), (made, published)


def test_the_report_says_what_a_run_with_the_same_noise_comes_to(mixture, fitted):
    assert fitted.nfe == 5
    assert sum(bool(row.noises) for row in fitted.rows) == 4  # not the one that ends
    x = [rg.sample(mixture, fitted, n=3, seed=seed) for seed in (3, 3, 4)]
    assert torch.equal(x[0], x[1])
    assert not torch.equal(x[0], x[2])
    assert fitted.report["median"] <= fitted.report["error"] < 0.2


def test_the_noise_is_drawn_after_the_first_state(mixture, fitted):
    """From one initial state different noise leads to different samples; a deterministic plan cannot."""
    x = Noise.first(64, 1).prior((8,)) * mixture.path.s(mixture.path.t_max)
    ends = []
    for seed in (5, 6):
        *_, last = rg.run(fitted, mixture, x, noise=Noise.first(64, seed))
        ends.append(last.x_t)
    assert float((ends[0] - ends[1]).square().mean().sqrt()) > 0.05


def test_without_noise_it_is_the_deterministic_fit(mixture):
    plan = stochastic(mixture, 4, eta=0.0, effort=SMALL, seed=1)
    assert not plan.stochastic
    usual = rg.tune(mixture, 4, effort=SMALL, seed=1, compare=False)
    items = range(200)
    *_, fine = rg.steps(rg.plan("dpmpp_3m", mixture, nfe=60), mixture, n=200, seed=9)
    errors = [float(Reference(mixture, items, 9, fine.x_t).errors(p).mean()) for p in (plan, usual)]
    assert errors[0] < 3 * errors[1]


def test_it_comes_back_from_a_file(fitted, tmp_path):
    fitted.save(tmp_path / "plan.json")
    assert rg.Plan.load(tmp_path / "plan.json") == fitted


@pytest.mark.parametrize("given", [{"eta": 1.5}, {"eta": -0.1}, {"nfe": 0}])
def test_what_is_out_of_range_is_refused(mixture, given):
    with pytest.raises(BadValue, match=next(iter(given))):
        stochastic(mixture, **{"nfe": 3, "effort": SMALL, **given})
