"""Guidance by bands: plain guidance where the weights are equal, and more of what a lower resolution cannot show."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue
from retrograde.guide.bands import high_band

PATH = rg.paths.VP()
MEANS = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
DEN = rg.oracles.GaussianMixture(PATH, MEANS, torch.tensor([0.1, 0.2]), labels=[0, 1])
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_bands_are_weighted_one_by_one():
    """m_u + w_low L(d) + w_high H(d), whatever the parameterization; equal weights are plain guidance."""
    low, high = 3.0, 10.0
    made = rg.guide.bands(rg.guide.cfg(DEN, low), high - low, (4, 4))(X, 0.5, label=1)
    d = made.parts["conditional"].data - made.parts["unconditional"].data
    expected = made.parts["unconditional"].data + low * (d - high_band(d, (4, 4))) + high * high_band(d, (4, 4))
    assert torch.allclose(made.data, expected, atol=1e-10)
    plain = rg.guide.cfg(DEN, low)(X, 0.5, label=1)
    assert torch.equal(rg.guide.bands(rg.guide.cfg(DEN, low), 0.0, (4, 4))(X, 0.5, label=1).value, plain.value)
    assert torch.allclose(made.data - plain.data, (high - low) * high_band(d, (4, 4)), atol=1e-10)


def test_the_high_band_is_what_is_lost():
    assert torch.equal(high_band(X, (8, 8)), torch.zeros_like(X))
    constant = torch.ones_like(X)
    assert float(high_band(constant, (4, 4)).abs().max()) < 1e-12
    checkers = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).mul(2.0).sub(1.0).expand(1, 1, 8, 8)
    assert torch.allclose(high_band(checkers, (4, 4)), checkers)


def test_what_it_cannot_do_is_said():
    with pytest.raises(BadType, match="two branches"):
        rg.guide.bands(DEN, 2.0, (4, 4))
    with pytest.raises(BadValue, match="size"):
        rg.guide.bands(rg.guide.cfg(DEN, 2.0), 2.0, (0, 4))
