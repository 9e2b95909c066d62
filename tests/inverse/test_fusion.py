"""Several measurements of one field at once: a coarse one and a few sensors, whose joint posterior is known."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.noise import Bulk

POINTS, COARSE, SENSORS = 32, 4, (3, 14, 27)


@dataclasses.dataclass(frozen=True)
class Field:
    """A smooth random field, a truth, and two ways to see it."""

    prior: rg.oracles.GaussianMixture
    truth: torch.Tensor
    coarse: operators.Matrix
    sensors: operators.Matrix

    def seen(self, *pairs, seed=0):
        """Measure the truth through operators, each with its noise; joined to one measurement."""
        made = [operators.measure(A, self.truth, std, seed=seed + k) for k, (A, std) in enumerate(pairs)]
        return operators.stack_measurements(made)

    def posterior(self, measurement):
        return self.prior.posterior(measurement.linear.matrix(), measurement.y, 1.0)


@pytest.fixture(scope="module")
def field():
    x = torch.linspace(0.0, 1.0, POINTS, dtype=torch.float64)
    C = torch.exp(-0.5 * ((x[:, None] - x) / 0.12) ** 2) + 1e-6 * torch.eye(POINTS, dtype=torch.float64)
    prior = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(POINTS, dtype=torch.float64), C)
    pool = torch.zeros(COARSE, POINTS, dtype=torch.float64)
    for k in range(COARSE):
        pool[k, k * POINTS // COARSE : (k + 1) * POINTS // COARSE] = COARSE / POINTS
    points = torch.eye(POINTS, dtype=torch.float64)[list(SENSORS)]
    return Field(prior, prior.sample(1, 4)[0], operators.Matrix(pool), operators.Matrix(points))


def law(field, measurement, method, nfe=60, **settings):
    """Mean and covariance of what a method that is linear in its start makes of noise."""
    d, path = POINTS, field.prior.path
    edges = (d - 0.5) ** 0.5 * torch.eye(d, dtype=torch.float64)
    start = path.s(path.t_max) * torch.cat([edges, -edges])
    task = inverse.Task(nfe, 0, range(2 * d), Bulk(0, range(2 * d)), dtype=torch.float64)
    posed = inverse.get(method).write(field.prior, measurement, task, recipe="dpmpp_2m", **settings)
    *_, last = rg.steps(posed.plan, posed.denoiser, x=start, noise=Bulk)
    return last.x_t.mean(0), torch.cov(last.x_t.T)


def errors(posterior, found):
    mean, covariance = posterior.moments()
    off = float((found[0] - mean).norm() / covariance.trace().sqrt())
    return off, float((found[1] - covariance).norm() / covariance.norm())


def test_a_coarse_field_and_sensors_have_their_joint_posterior(field):
    """With the exact covariance both moments are right to 5 %; a scalar in its place is biased."""
    both = field.seen((field.coarse, 0.1), (field.sensors, 0.05))
    posterior = field.posterior(both)
    exact = max(errors(posterior, law(field, both, "mmps", 120)))
    assert exact < 0.05
    assert max(errors(posterior, law(field, both, "sda", 120))) > max(0.1, 3.0 * exact)


def test_the_quieter_sensor_leads(field):
    """Less noise in one moves the estimate towards it as in closed form; both are better than each alone."""
    estimates = {}
    for name, pairs in {
        "loud": ((field.coarse, 0.1), (field.sensors, 0.5)),
        "quiet": ((field.coarse, 0.1), (field.sensors, 0.05)),
        "coarse": ((field.coarse, 0.1),),
        "sensors": ((field.sensors, 0.05),),
    }.items():
        measurement = field.seen(*pairs)
        exact, found = field.posterior(measurement).moments()[0], law(field, measurement, "mmps")[0]
        assert float((found - exact).norm() / exact.norm()) < 0.08
        estimates[name] = float((found - field.truth).norm()), found
    at = list(SENSORS)
    loud, quiet = (float((estimates[name][1][at] - field.truth[at]).norm()) for name in ("loud", "quiet"))
    assert quiet < 0.5 * loud
    assert estimates["quiet"][0] < min(estimates["coarse"][0], estimates["sensors"][0])


@pytest.mark.slow
def test_an_ensemble_covers_the_truth_as_often_as_it_says(field):
    """Truths drawn from the prior lie in the central 90 % in 85 to 95 % of points."""
    inside = []
    for seed in range(6):
        truth = dataclasses.replace(field, truth=field.prior.sample(1, 50 + seed)[0])
        both = truth.seen((field.coarse, 0.1), (field.sensors, 0.05), seed=10 * seed)
        mean, covariance = law(field, both, "mmps")
        draws = torch.distributions.MultivariateNormal(mean, covariance + 1e-9 * torch.eye(POINTS)).sample((400,))
        ends = torch.quantile(draws, torch.tensor([0.05, 0.95], dtype=torch.float64), 0)
        inside.append(((truth.truth >= ends[0]) & (truth.truth <= ends[1])).double().mean())
    assert 0.82 <= float(torch.stack(inside).mean()) <= 0.97
