"""The benchmark of inverse methods judges by exact draws: they have the moments of the posterior in closed form."""

import runpy
from pathlib import Path

import torch


def test_its_draws_are_those_of_the_posterior():
    made = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "inverse.py"))
    prior, measurement = made["problem"](8, 2, 3)
    posterior = prior.posterior(measurement.linear.matrix(), measurement.y, measurement.std)
    weights = made["weights_given"](prior, measurement)
    assert torch.allclose(weights, posterior.log_weights.exp(), atol=1e-9)
    draws = made["exact"](prior, measurement, 20000, 0)
    mean, covariance = posterior.moments()
    assert float((draws.mean(0) - mean).norm() / covariance.trace().sqrt()) < 0.02
    assert float((torch.cov(draws.T) - covariance).norm() / covariance.norm()) < 0.03
    same = made["judged"](
        prior, weights, made["exact"](prior, measurement, 400, 1), made["exact"](prior, measurement, 400, 2)
    )
    assert same["modes"] < 0.06
    assert abs(same["coverage"] - 0.9) < 0.03
