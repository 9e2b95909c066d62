import math

import pytest
import torch

from retrograde.errors import PlanError
from retrograde.linear import LinearMap, combine


def test_a_linear_map_is_its_matrix():
    basis = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(0)).double())[0]
    gains = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)
    matrix = 0.25 * (torch.eye(12).double() - basis @ basis.T) + basis @ torch.diag(gains) @ basis.T
    x = torch.randn(5, 1, 3, 4, generator=torch.Generator().manual_seed(1)).double()
    mapped = LinearMap(basis, gains, 0.25)(x)
    assert mapped.shape == x.shape
    assert torch.allclose(mapped.flatten(1), x.flatten(1) @ matrix.T, atol=1e-12)
    assert LinearMap(basis, gains, 0.25) == LinearMap(basis.clone(), gains.clone(), 0.25) != LinearMap(basis, gains, 0.3)
    assert not LinearMap(basis, gains * torch.inf, 0.25).finite


def test_a_whole_number_counts_as_the_float_it_is():
    """Nought of a tensor leaves it out, whatever it holds; once a tensor is a copy of it, or a sum in one pass."""
    x, bad = torch.ones(2), torch.tensor([1.0, math.inf])
    assert torch.equal(combine([(1, x), (0, bad)]), x)
    assert torch.equal(combine([(1, x), (2, x)]), 3 * x)
    alone = combine([(1.0, x)])
    alone.add_(1.0)
    assert torch.equal(x, torch.ones(2))
    with pytest.raises(PlanError):
        combine([(0, x)])
