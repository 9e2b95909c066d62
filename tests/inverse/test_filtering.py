"""Particles that see y at every level, on a mixture: posterior and evidence are known, and where a filter misses."""

import math
import statistics

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.noise import Bulk
from retrograde.quality import sliced_wasserstein

MEANS = torch.tensor([[-2.0, -1.0], [0.0, 2.0], [2.0, -0.5]], dtype=torch.float64)
WEIGHTS = torch.tensor([0.3, 0.4, 0.3], dtype=torch.float64)
VARIANCE, Y = 0.05, 0.6


@pytest.fixture(scope="module")
def prior():
    return rg.oracles.GaussianMixture(rg.paths.VP(), MEANS, VARIANCE, WEIGHTS)


def measured(std):
    A = operators.Matrix(torch.tensor([[1.0, 0.6]], dtype=torch.float64))
    return operators.Measurement(A, torch.tensor([Y], dtype=torch.float64), std)


def solved(prior, std, method, n, seed, nfe=100, **settings):
    return inverse.solve(prior, measured(std), method, n, nfe, seed, noise=Bulk, dtype=torch.float64, **settings)


def error(posterior, samples):
    exact = posterior.sample(512, seed=1000).double()
    return sliced_wasserstein(samples.double(), exact, p=1, slices=50).value


def test_mcgdiff_has_the_posterior_and_the_evidence(prior):
    """The error falls to twice the floor as particles grow, and the mean weight is p(y)."""
    std = 0.4
    posterior = prior.posterior(measured(std).linear.matrix(), measured(std).y, std)
    few, many = ([solved(prior, std, "mcgdiff", n, seed) for seed in range(2)] for n in (16, 512))
    floor = statistics.mean(error(posterior, posterior.sample(512, seed=seed).double()) for seed in range(4))
    found = statistics.mean(error(posterior, one.samples) for one in many)
    assert found < 2.5 * floor
    assert found < 0.4 * statistics.mean(error(posterior, one.samples) for one in few)
    A = measured(std).linear.matrix()
    variance = float(VARIANCE * A.square().sum() + std**2)
    logs = WEIGHTS.log() - 0.5 * (Y - (MEANS @ A.T)[:, 0]).square() / variance
    exact = float(torch.logsumexp(logs, 0)) - 0.5 * math.log(2.0 * math.pi * variance)
    assert abs(math.log(statistics.mean(math.exp(one.log_evidence) for one in many)) - exact) < 0.3


def test_fps_is_exact_without_noise_and_too_narrow_with_it(prior):
    """Without noise the runs of many seeds are samples of the posterior; with it the filter counts y many times."""
    for std, seeds in ((0.0, 8), (0.4, 3)):
        posterior = prior.posterior(measured(std).linear.matrix(), measured(std).y, max(std, 1e-6))
        pooled = torch.cat([solved(prior, std, "fps_smc", 64, seed, nfe=60).samples for seed in range(seeds)])
        mean, covariance = posterior.moments()
        if std == 0.0:
            assert float((pooled.mean(0) - mean).norm()) < 0.25 * float(covariance.trace().sqrt())
            assert 0.6 < float(pooled.var(0).sum() / covariance.trace()) < 1.4
            assert float((measured(std).residual(pooled)).abs().max()) < 0.2
        else:
            assert float(pooled.var(0).sum() / covariance.trace()) < 0.4
            weighed = solved(prior, std, "mcgdiff", 256, 0, nfe=60).samples
            assert float(weighed.var(0).sum() / covariance.trace()) > 0.6


@pytest.mark.parametrize("method", ["mcgdiff", "fps_smc"])
def test_a_gaussian_seen_without_noise_has_its_posterior(gaussian, method):
    """Columns that are seen lie at y, the others have the conditional mean."""
    problem = gaussian(std=1e-4)
    samples = torch.cat(
        [
            inverse.solve(problem.prior, problem.measurement, method, 64, 40, seed, noise=Bulk, dtype=torch.float64).samples
            for seed in range(2)
        ]
    )
    mean, _ = problem.errors(samples)
    assert mean < 0.35
    misfit = problem.measurement.residual(samples).square().mean().sqrt()
    assert float(misfit) < 0.1


def test_levels_of_the_noise_are_on_the_grid(gaussian):
    """Two columns of different singular values: each is last seen at the level of its own noise."""
    problem = gaussian()
    A = operators.Matrix(torch.tensor([[2.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0]], dtype=torch.float64))
    task = inverse.Task(20, 0, range(4), Bulk(0, range(4)), dtype=torch.float64)
    posed = inverse.get("mcgdiff").write(problem.prior, operators.Measurement(A, problem.measurement.y, 0.4), task)
    noises = torch.tensor([0.2, 0.4 / 0.3], dtype=torch.float64)
    sigmas = torch.tensor([problem.prior.path.sigma(t) for t in posed.plan.times], dtype=torch.float64)
    assert float(((sigmas[:, None] - noises).abs() / noises).amin(0).max()) < 1e-9
    assert posed.plan.nfe == 20
