"""Twisted particles on a mixture: the posterior's modes, their weights and the evidence are known."""

import math
import statistics

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.errors import BadValue, UnknownName
from retrograde.noise import Bulk
from retrograde.quality import sliced_wasserstein

MEANS = torch.tensor([[-2.0, -1.0], [0.0, 2.0], [2.0, -0.5]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64)
VARIANCE, STD, Y = 0.05, 0.4, 0.6


@pytest.fixture(scope="module")
def prior():
    return rg.oracles.GaussianMixture(rg.paths.VP(), MEANS, VARIANCE, WEIGHTS)


@pytest.fixture(scope="module")
def measurement():
    A = operators.Matrix(torch.tensor([[1.0, 0.6]], dtype=torch.float64))
    return operators.Measurement(A, torch.tensor([Y], dtype=torch.float64), STD)


@pytest.fixture(scope="module")
def posterior(prior, measurement):
    return prior.posterior(measurement.linear.matrix(), measurement.y, STD)


def solved(prior, measurement, method, n, seed, **settings):
    return inverse.solve(prior, measurement, method, n, 100, seed, noise=Bulk, dtype=torch.float64, spread=1.7, **settings)


def error(posterior, samples, seed):
    exact = posterior.sample(len(samples), seed=1000 + seed).double()
    return sliced_wasserstein(samples.double(), exact, p=1, slices=50).value


def test_the_error_falls_to_the_floor_as_particles_grow(prior, measurement, posterior):
    """The same proposals without weights stay where they are."""
    found = {}
    for n in (16, 512):
        runs = [(seed, solved(prior, measurement, "tds", n, seed).samples) for seed in range(6)]
        found[n] = statistics.mean(error(posterior, samples, seed) for seed, samples in runs)
    floor = statistics.mean(error(posterior, posterior.sample(512, seed=seed).double(), seed) for seed in range(6))
    unweighted = error(posterior, solved(prior, measurement, "pigdm", 512, 0).samples, 0)
    assert found[512] < 0.4 * found[16]
    assert found[512] < 2.5 * floor < 0.25 * unweighted


def test_the_mean_weight_is_the_evidence(prior, measurement):
    A = measurement.linear.matrix()
    off = Y - (MEANS @ A.T)[:, 0]
    variance = float(VARIANCE * A.square().sum() + STD**2)
    logs = WEIGHTS.log() - 0.5 * off.square() / variance - 0.5 * math.log(2.0 * math.pi * variance)
    exact = float(torch.logsumexp(logs, 0))
    found = [solved(prior, measurement, "tds", 256, seed).log_evidence for seed in range(8)]
    mean = math.log(statistics.mean(math.exp(one) for one in found))
    assert abs(mean - exact) < 0.15
    assert solved(prior, measurement, "pigdm", 4, 0).log_evidence is None


@pytest.mark.slow
def test_weights_are_even_where_the_guess_is_right(measurement):
    """Of data with one spread the twist is the truth: what is left of the evidence's error goes with the length of the rows.

    A wrong guess gives the same in the mean, and varies more.
    """
    prior = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(2, dtype=torch.float64), 1.7**2 * torch.eye(2).double())
    variance = float(1.7**2 * measurement.linear.matrix().square().sum() + STD**2)
    exact = -0.5 * Y**2 / variance - 0.5 * math.log(2.0 * math.pi * variance)

    def missed(nfe, spread):
        options = {"noise": Bulk, "dtype": torch.float64, "spread": spread}
        runs = [inverse.solve(prior, measurement, "tds", 64, nfe, seed, **options) for seed in range(8)]
        return statistics.mean((run.log_evidence - exact) ** 2 for run in runs) ** 0.5

    assert missed(200, 1.7) < 0.5 * missed(50, 1.7)
    assert missed(200, 1.7) < 0.25 * missed(200, 0.3)


def test_without_noise_there_is_no_likelihood(prior, measurement):
    sharp = operators.Measurement(measurement.operator, measurement.y, 0.0)
    with pytest.raises(BadValue, match="a spread above 0"):
        solved(prior, sharp, "tds", 4, 0)


def test_the_twist_of_the_covariance_is_exact_for_a_gaussian(gaussian):
    """Of Gaussian data it is p(y | x_t), it leads to the posterior, and all it added is taken back in the end."""
    problem = gaussian()
    m, path, A = problem.measurement, problem.prior.path, problem.measurement.linear.matrix()
    task = inverse.Task(4, 0, range(5), Bulk(0, range(5)), dtype=torch.float64)
    posed = inverse.get("tds").write(problem.prior, m, task, twist="covariance")
    x, C = 2.0 * torch.randn(5, 4, dtype=torch.float64), problem.prior.moments()[1]
    before = torch.zeros(5, dtype=torch.float64)
    for t in posed.plan.times[:-1]:
        found = posed.denoiser.predict(x, t, knobs={"carried": {"inverse/twist": before}})
        left = torch.linalg.inv(torch.linalg.inv(C) + (path.a(t) / path.s(t)) ** 2 * torch.eye(4))
        S = A @ left @ A.T + m.std**2 * torch.eye(2, dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(problem.prior(x, t).data @ A.T, S).log_prob(m.y)
        assert torch.allclose(found.log_weight + before, exact + math.log(2.0 * math.pi), atol=1e-6)
        assert torch.allclose(found.data, problem.prior.posterior(A, m.y, m.std)(x, t).data, atol=1e-6)
        before = found.carried["inverse/twist"]
    last = posed.denoiser.predict(x, posed.plan.times[-1], knobs={"carried": {"inverse/twist": before}})
    assert torch.equal(last.log_weight, -before)
    assert torch.equal(last.data, problem.prior(x, posed.plan.times[-1]).data)


def test_the_twist_of_the_covariance_weighs_modes(prior, measurement, posterior):
    samples = inverse.solve(
        prior, measurement, "tds", 512, 60, 0, noise=Bulk, dtype=torch.float64, twist="covariance"
    ).samples
    floor = error(posterior, posterior.sample(512, seed=1).double(), 0)
    assert error(posterior, samples, 0) < 3.0 * floor
    led = inverse.solve(prior, measurement, "mmps", 512, 60, 0, noise=Bulk, dtype=torch.float64).samples
    assert error(posterior, led, 0) > 6.0 * floor


def test_twists_are_known(prior, measurement):
    with pytest.raises(UnknownName, match="covariance"):
        solved(prior, measurement, "tds", 4, 0, twist="covarianse")
    wide = operators.measure(operators.mask((1, 4, 4)), torch.zeros(1, 4, 4), 0.1)
    with pytest.raises(BadValue, match="at most 8"):
        inverse.solve(rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(1, 4, 4), 1.0), wide, "tds", 4, 4, twist="covariance")
