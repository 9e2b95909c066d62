"""Models in closed form and a noise that is drawn for all particles at once."""

import pytest
import torch

import retrograde as rg


class Quick:
    """Noise of a batch of thousands in one draw; keyed by interval, not by item."""

    def __init__(self, seed, items):
        self.seed, self.n = seed, len(items)

    def draw(self, shape, interval, occurrence=0, dtype=torch.float32, device="cpu"):
        generator = torch.Generator().manual_seed(hash((self.seed, interval, occurrence)) % 2**63)
        return torch.randn(self.n, *shape, dtype=torch.float64, generator=generator).to(dtype)


@pytest.fixture
def quick():
    return Quick


@pytest.fixture
def path():
    return rg.paths.VP()


@pytest.fixture
def one(path):
    return rg.oracles.GaussianMixture(path, torch.tensor([[-1.0], [0.5], [1.5]]), 0.04, weights=[0.3, 0.4, 0.3])


@pytest.fixture
def other(path):
    return rg.oracles.GaussianMixture(path, torch.tensor([[0.0], [1.0]]), 0.09, weights=[0.5, 0.5])


@pytest.fixture
def component(path):
    """A part of `one`, so that its square over `one` can be normalized."""
    return rg.oracles.GaussianMixture(path, torch.tensor([[0.5], [1.5]]), 0.04, weights=[0.8, 0.2])


@pytest.fixture
def distance():
    """Total variation of 40 bins between weighted points and the density exp(log_density) on the line."""
    line = torch.linspace(-4, 4, 8001, dtype=torch.float64)[:, None]
    edges = torch.linspace(-3, 3, 41, dtype=torch.float64)

    def histogram(x, weights):
        bins = torch.bucketize(x.double().flatten(), edges)
        return torch.zeros(42, dtype=torch.float64).index_add_(0, bins, weights.double())

    def total_variation(x, log_density, weights=None):
        weights = torch.full((len(x),), 1.0 / len(x)) if weights is None else weights
        return 0.5 * float((histogram(x, weights) - histogram(line, torch.softmax(log_density(line), 0))).abs().sum())

    return total_variation
