"""Quaternion sub-bands: exact there and back, exact phases, and how little their strength minds a shift."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import ShapeError
from retrograde.train import from_quaternion_wavelets, quaternion_wavelets
from retrograde.train.wavelets import _hilbert, _parts, _wavelets

DOUBLE = torch.float64


def digits() -> torch.Tensor:
    return rg.data.digits("test")[0][:40].double()


def test_there_and_back_is_exact():
    x = digits()
    assert torch.allclose(from_quaternion_wavelets(quaternion_wavelets(x)), x, rtol=0.0, atol=1e-10)
    wide = torch.randn(2, 3, 8, 12, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    assert quaternion_wavelets(wide).shape == (2, 3, 4, 4, 4, 6)
    assert torch.allclose(from_quaternion_wavelets(quaternion_wavelets(wide)), wide, rtol=0.0, atol=1e-10)
    with pytest.raises(ShapeError, match="even sides"):
        quaternion_wavelets(wide[..., :7])


def test_the_four_trees_are_those_of_wavelets_and_of_their_hilbert_pairs():
    """Magnitude and phases give all four parts back, not the first alone; W is orthonormal, H makes sines of cosines."""
    x = torch.randn(1, 1, 8, 8, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))
    W, H = _wavelets(8), _hilbert(8)
    assert torch.allclose(W @ W.T, torch.eye(8, dtype=DOUBLE), atol=1e-12)
    wave = torch.cos(2.0 * torch.pi * 3.0 * torch.arange(8, dtype=DOUBLE) / 8.0)
    assert torch.allclose(H @ wave, torch.sin(2.0 * torch.pi * 3.0 * torch.arange(8, dtype=DOUBLE) / 8.0), atol=1e-12)
    bands = quaternion_wavelets(x)
    size, phi, psi, theta = bands.unbind(3)
    for part, picture in zip(_parts(phi, psi, theta), (x, x @ H.T, H @ x, H @ x @ H.T), strict=True):
        whole = W @ picture @ W.T
        assert torch.allclose((size * part)[:, :, 3], whole[..., 4:, 4:], atol=1e-10)
        assert torch.allclose((size * part)[:, :, 1], whole[..., :4, 4:], atol=1e-10)


def test_magnitudes_move_less_than_coefficients_when_the_picture_does():
    """The energy of a sub-band is the same after a shift; that of plain wavelets is not, by a fifth in the mean."""
    x = digits()
    for shift, axis in ((1, -1), (1, -2)):
        pairs = [quaternion_wavelets(one) for one in (x, x.roll(shift, axis))]
        before, after = (one[:, 0, :, 0].square().flatten(2).sum(2) for one in pairs)
        assert torch.allclose(before, after, rtol=1e-10)
        plain = [(one[:, 0, 1:, 0] * _parts(*one[:, 0, 1:, 1:].unbind(2))[0]).square().flatten(2).sum(2) for one in pairs]
        assert float(((plain[1] - plain[0]).abs() / plain[0]).mean()) > 0.15
