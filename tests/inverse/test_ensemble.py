"""Weighted particles under the likelihood of the state: their rate, their limit, and what they are without weights."""

import math
import statistics

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.noise import Bulk
from retrograde.particles import Weighted, log_weights
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
    return operators.Measurement(A, torch.tensor([Y], dtype=torch.float64), operators.GaussianNoise(STD))


def solved(prior, measurement, n, seed, nfe=80, **settings):
    return inverse.solve(prior, measurement, "ensemble", n, nfe, seed, noise=Bulk, dtype=torch.float64, **settings)


def error(prior, measurement, samples):
    posterior = prior.posterior(measurement.linear.matrix(), measurement.y, STD)
    exact = posterior.sample(512, seed=1000).double()
    return sliced_wasserstein(samples.double(), exact, p=1, slices=50).value


@pytest.mark.parametrize("tempered", [True, False])
def test_a_small_row_gains_the_rate_of_the_equation(prior, measurement, tempered):
    """The mean of the ratio is v (-<S, b g> + |b g|^2/2 - b tr/2) - mu db, g and tr the gradient and Laplacian of mu."""
    path, n = prior.path, 40000
    t, x = 0.4, torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    sigma = path.sigma(t)
    to = path.time_of_sigma(sigma * (1.0 - 1e-3))
    task = inverse.Task(2, 0, range(n), Bulk(0, range(n)), (t, to), torch.float64)
    posed = inverse.get("ensemble").write(prior, measurement, task, tempered=tempered)
    run = rg.steps(
        posed.plan, posed.denoiser, x=x.repeat(n, 1), noise=Bulk, particles=Weighted(n, threshold=0.0, last=False)
    )
    state = next(iter(run))

    def energy(u, level):
        beta = STD**2 / (STD**2 + level**2) if tempered else 1.0
        return beta * measurement.log_likelihood(u), beta

    u = x / path.a(t)
    (before, beta), (after, beta_next) = energy(u, sigma), energy(state.x_t / path.a(to), path.sigma(to))
    gained = float((log_weights(state) - before + after - before).mean())
    A, v = measurement.linear.matrix(), sigma**2 - path.sigma(to) ** 2
    g = beta * ((u @ A.T - Y) @ A) / STD**2
    score = path.a(t) * prior(x, t).score
    trace = beta * float(A.square().sum()) / STD**2
    rate = float(-(score * g).sum() + 0.5 * g.square().sum()) - 0.5 * trace
    exact = v * rate + float(measurement.log_likelihood(u)) * (beta_next - beta)
    assert gained == pytest.approx(exact, rel=0.05)


def test_the_error_falls_with_the_number_of_particles(prior, measurement):
    """To twice the floor, and the mean weight is p(y); led without weights they stay biased, and untempered they are few."""
    few, many = ([solved(prior, measurement, n, seed) for seed in range(2)] for n in (16, 512))
    found = statistics.mean(error(prior, measurement, one.samples) for one in many)
    posterior = prior.posterior(measurement.linear.matrix(), measurement.y, STD)
    floor = statistics.mean(error(prior, measurement, posterior.sample(512, seed=seed)) for seed in range(4))
    assert found < 3.5 * floor
    assert found < 0.5 * statistics.mean(error(prior, measurement, one.samples) for one in few)
    A = measurement.linear.matrix()
    variance = float(VARIANCE * A.square().sum() + STD**2)
    logs = WEIGHTS.log() - 0.5 * (Y - (MEANS @ A.T)[:, 0]).square() / variance
    exact = float(torch.logsumexp(logs, 0)) - 0.5 * math.log(2.0 * math.pi * variance)
    assert abs(math.log(statistics.mean(math.exp(one.log_evidence) for one in many)) - exact) < 0.35
    plain = statistics.mean(
        error(prior, measurement, solved(prior, measurement, 512, s, tempered=False).samples) for s in (0, 1)
    )
    assert plain > 2.0 * found
    task = inverse.Task(80, 0, range(512), Bulk(0, range(512)), dtype=torch.float64)
    posed = inverse.get("ensemble").write(prior, measurement, task)
    *_, last = rg.steps(posed.plan, posed.denoiser, n=512, noise=Bulk, dtype=torch.float64)
    assert error(prior, measurement, last.x_t) > 3.0 * found


def test_an_operator_that_is_not_linear(prior):
    """A square is measured: particles lie where it explains y, on either side."""
    square = operators.function(lambda x: x.square().sum(1, keepdim=True), (2,))
    seen = operators.Measurement(square, torch.tensor([4.0], dtype=torch.float64), operators.GaussianNoise(0.5))
    samples = solved(prior, seen, 256, 0).samples
    weights = torch.softmax(seen.log_likelihood(prior.sample(20000, 1)).double(), 0)
    exact = weights @ prior.sample(20000, 1)
    assert float((samples.mean(0) - exact).norm()) < 0.25
