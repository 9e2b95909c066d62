import pytest
import torch

import retrograde as rg
from retrograde.data import digits8


@pytest.fixture(scope="session")
def mixture():
    """Data that is hard to sample: a sharp mixture over 200 small digits, in 64 dimensions."""
    images, _ = digits8("train")
    return rg.oracles.GaussianMixture(rg.paths.EDM(), images[:200].flatten(1), 0.01)


@pytest.fixture(scope="session")
def gaussian():
    """Correlated Gaussian data in 4 dimensions."""
    mixing = torch.tensor([[1.0, 0.5, 0, 0], [0, 0.8, 0.3, 0], [0, 0, 0.5, 0.2], [0, 0, 0, 0.1]], dtype=torch.float64)
    return rg.oracles.Gaussian(rg.paths.EDM(), torch.tensor([1.0, -1.0, 0.5, 0.0]), mixing @ mixing.T)
