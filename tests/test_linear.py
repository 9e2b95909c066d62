import torch

from retrograde.linear import LinearMap


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
