"""What guidance is judged with: mixtures whose components have classes, exact with and without them."""

from collections.abc import Callable

import pytest
import torch

import retrograde as rg

MEANS = torch.tensor([[1.5, 0.0], [-0.5, 1.0], [-1.0, -1.0], [0.5, 0.5]])


@pytest.fixture(scope="session")
def labelled() -> Callable[..., rg.oracles.GaussianMixture]:
    """Make a mixture of three classes in the plane."""

    def make(path: rg.paths.Path, predicts: str = "data") -> rg.oracles.GaussianMixture:
        variances = torch.tensor([0.3, 0.5, 0.2, 0.4])
        return rg.oracles.GaussianMixture(path, MEANS, variances, labels=[0, 1, 0, 2], predicts=predicts)

    return make


@pytest.fixture
def x() -> torch.Tensor:
    """Some states in the plane."""
    return torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.7]], dtype=torch.float64)
