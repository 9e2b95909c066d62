"""A Gaussian prior seen through a matrix: posterior mean and covariance in closed form."""

import dataclasses

import pytest
import torch

import retrograde as rg


@dataclasses.dataclass(frozen=True)
class Problem:
    """A prior, a measurement, and the exact posterior's mean and covariance."""

    prior: rg.oracles.GaussianMixture
    measurement: rg.operators.Measurement
    mean: torch.Tensor
    covariance: torch.Tensor

    def errors(self, samples):
        """Relative errors of mean (in units of the posterior's spread) and covariance."""
        x = samples.double().flatten(1)
        spread = self.covariance.diagonal().sum().sqrt()
        covariance = torch.cov(x.T)
        return float((x.mean(0) - self.mean).norm() / spread), float(
            (covariance - self.covariance).norm() / self.covariance.norm()
        )


@pytest.fixture(scope="session")
def gaussian():
    """Make the problem: d numbers with a covariance from the scales, m of their mixtures seen with noise of size std."""

    def make(scales=(2.0, 1.0, 0.5, 0.3), m=2, std=0.4, path=None, seed=0, turned=True):
        generator = torch.Generator().manual_seed(seed)
        d = len(scales)
        turn = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator))[0]
        turn = turn if turned else torch.eye(d, dtype=torch.float64)
        C = turn @ torch.diag(torch.tensor(scales, dtype=torch.float64) ** 2) @ turn.T
        mean = torch.randn(d, dtype=torch.float64, generator=generator)
        A = torch.randn(m, d, dtype=torch.float64, generator=generator) if turned else torch.eye(d, dtype=torch.float64)[:m]
        prior = rg.oracles.Gaussian(rg.paths.VP() if path is None else path, mean, C)
        measurement = rg.operators.measure(rg.operators.Matrix(A), prior.sample(1, 5)[0], std, seed=1)
        posterior = prior.posterior(A, measurement.y, std)
        return Problem(prior, measurement, *posterior.moments())

    return make


@pytest.fixture(scope="session")
def corners():
    """Make 2 d points with mean and covariance of the noise end: what a sampler that is linear makes of them is its law."""

    def make(problem):
        path, d = problem.prior.path, len(problem.mean)
        edges = (d - 0.5) ** 0.5 * torch.eye(d, dtype=torch.float64)  # the unbiased covariance of 2 d points is one
        return path.a(path.t_max) * problem.mean + path.s(path.t_max) * torch.cat([edges, -edges])

    return make


@pytest.fixture(scope="session")
def mixture():
    """Make a prior of four Gaussians in four dimensions, seen in two directions with noise, and the exact posterior."""

    def make(seed, std=0.2):
        generator = torch.Generator().manual_seed(seed)
        means = 1.2 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        prior = rg.oracles.GaussianMixture(rg.paths.VP(), means, 0.3)
        A = torch.randn(2, 4, generator=generator, dtype=torch.float64) / 2.0
        measurement = rg.operators.measure(rg.operators.Matrix(A), prior.sample(1, seed)[0], std, seed=seed)
        return prior, measurement, prior.posterior(A, measurement.y, std)

    return make


@pytest.fixture(scope="session")
def distance(mixture):
    """Sliced Wasserstein distance (p = 2) of a method's samples to the exact posterior's, on one problem of `mixture`."""

    def measure(seed, method, n=200, nfe=60, **settings):
        prior, measurement, posterior = mixture(seed)
        made = rg.inverse.solve(prior, measurement, method, n=n, nfe=nfe, seed=seed, noise=rg.noise.Bulk, **settings)
        return rg.quality.sliced_wasserstein(made.samples.double(), posterior.sample(n, 1).double(), p=2, slices=100).value

    return measure
