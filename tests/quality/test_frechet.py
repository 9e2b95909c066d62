"""Fréchet distance: closed forms, peers, invariances."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from retrograde.errors import BadValue, ShapeError
from retrograde.quality import frechet_distance, frechet_from_moments


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(d, seed):
    a = normal(d, 2 * d, seed=seed)
    return a @ a.T / d


def test_two_gaussians_with_commuting_covariances():
    mu_1, mu_2 = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    s_1, s_2 = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 0.0])
    turn = torch.linalg.qr(normal(3, 3)).Q
    c_1, c_2 = (turn @ torch.diag(s.double() ** 2) @ turn.T for s in (s_1, s_2))
    # Commuting covariances: |mu_1 - mu_2|^2 + |s_1 - s_2|^2 = (1 + 4) + (4 + 0 + 1/4).
    assert frechet_from_moments(mu_1, c_1, mu_2, c_2) == pytest.approx(9.25, rel=1e-12)


def test_two_gaussians_in_two_dimensions():
    # 2x2: tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)) for M = C1 C2, with no eigenvectors involved.
    c_1, c_2 = covariance(2, 1), covariance(2, 2)
    product = c_1 @ c_2
    cross = math.sqrt(product.trace() + 2 * math.sqrt(torch.linalg.det(product)))
    expected = float(c_1.trace() + c_2.trace()) - 2 * cross
    assert frechet_from_moments(torch.zeros(2), c_1, torch.zeros(2), c_2) == pytest.approx(expected, rel=1e-10)


def test_against_the_scipy_square_root():
    x, y = normal(200, 12), normal(150, 12, seed=1) @ covariance(12, 3) + 0.3
    c_x, c_y = np.cov(x.numpy().T), np.cov(y.numpy().T)
    gap = x.numpy().mean(0) - y.numpy().mean(0)
    expected = gap @ gap + np.trace(c_x + c_y) - 2 * np.trace(scipy.linalg.sqrtm(c_x @ c_y)).real
    assert frechet_distance(x, y).value == pytest.approx(expected, rel=1e-9)


def test_against_torchmetrics():
    class Corner(torch.nn.Module):
        num_features = 6

        def forward(self, images):
            return images[:, :, 0, 0].double()

    x, y = (torch.rand(n, 6, 1, 1, generator=torch.Generator().manual_seed(n)).double() for n in (80, 120))
    y = y.square()
    metric = FrechetInceptionDistance(feature=Corner(), normalize=True).set_dtype(torch.float64)
    metric.update(y, real=True)
    metric.update(x, real=False)
    assert frechet_distance(x, y, features=Corner()).value == pytest.approx(float(metric.compute()), rel=1e-6)


def test_symmetric_and_zero_on_itself():
    x, y = normal(100, 5), 2 * normal(80, 5, seed=1)
    assert frechet_distance(x, y).value == pytest.approx(frechet_distance(y, x).value, rel=1e-10)
    assert frechet_distance(x, x).value == pytest.approx(0, abs=1e-10)


def test_does_not_see_rotations_and_shifts_of_both():
    x, y = normal(100, 5), 2 * normal(80, 5, seed=1)
    turn, shift = torch.linalg.qr(normal(5, 5, seed=2)).Q, normal(5, seed=3)
    value = frechet_distance(x, y).value
    assert frechet_distance(x @ turn + shift, y @ turn + shift).value == pytest.approx(value, rel=1e-9)
    assert frechet_distance(x @ turn, y).value != pytest.approx(value, rel=1e-3)


def test_scales_with_the_square():
    x, y = normal(100, 5), normal(80, 5, seed=1) + 1
    assert frechet_distance(3 * x, 3 * y).value == pytest.approx(9 * frechet_distance(x, y).value, rel=1e-10)


def test_a_shift_counts_its_squared_length_even_when_singular():
    x, shift = normal(10, 40), normal(40, seed=1)
    figure = frechet_distance(x, x + shift)
    assert figure.value == pytest.approx(float(shift.square().sum()), rel=1e-10)
    assert "rank 9 at most" in str(figure)


def test_keeps_its_digits_on_singular_covariances():
    # Two sets on the same line of a 40-dimensional space, standard deviations s and 3 s: distance (3 s - s)^2.
    line = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None] * normal(1, 40)
    spread = float(line.var(0).sum())
    assert frechet_distance(line, 3 * line).value == pytest.approx(4 * spread, rel=1e-9)


def test_warns_exactly_when_rank_deficient():
    assert frechet_distance(normal(6, 5), normal(60, 5)).warning is None
    assert frechet_distance(normal(5, 5), normal(60, 5)).warning is not None
    assert frechet_distance(normal(60, 5), normal(5, 5)).warning is not None


def test_refuses_what_is_no_covariance():
    eye, zero = torch.eye(2), torch.zeros(2)
    with pytest.raises(BadValue, match="not symmetric"):
        frechet_from_moments(zero, torch.tensor([[1.0, 0.5], [0.0, 1.0]]), zero, eye)
    with pytest.raises(BadValue, match="eigenvalue"):
        frechet_from_moments(zero, eye, zero, torch.diag(torch.tensor([1.0, -1.0])))
    with pytest.raises(ShapeError):
        frechet_from_moments(zero, eye, torch.zeros(3), eye)
