"""A line of data whose flow is the identity, and a denoiser that counts what it is asked."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import AbstractDenoiser


@dataclasses.dataclass(frozen=True, eq=False)
class Counted(AbstractDenoiser):
    """The denoiser it is given, with the number of items it was asked for."""

    inner: AbstractDenoiser
    asked: list

    def __post_init__(self):
        for name in ("path", "shape", "predicts", "conditions", "consumes", "name"):
            object.__setattr__(self, name, getattr(self.inner, name))

    def network_time(self, t):
        return t

    def snap(self, t):
        return t

    def predict(self, x_t, t, condition=None, knobs=None, network_time=None):
        self.asked.append(len(x_t))
        return self.inner.predict(x_t, t, condition or {}, knobs or {}, network_time)


@pytest.fixture
def counted():
    """Return a denoiser's counting double, and its list of batch sizes."""

    def make(inner):
        asked = []
        return Counted(inner, asked), asked

    return make


@pytest.fixture
def path():
    return rg.paths.VP()


@pytest.fixture
def normal(path):
    """Data N(0, 1) on a path that preserves variance: the flow is the identity."""
    return rg.oracles.Gaussian(path, torch.zeros(1), 1.0)


@pytest.fixture
def modes(path):
    """Two modes, of which the right one has a weight of 0.2."""
    return rg.oracles.GaussianMixture(path, torch.tensor([[-1.0], [1.0]]), 0.04, weights=[0.8, 0.2])
