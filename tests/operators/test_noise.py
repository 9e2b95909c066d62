"""Noise of measurements: what is drawn is what the likelihood says."""

import math

import pytest
import torch

from retrograde import operators
from retrograde.errors import BadType, BadValue, ShapeError
from retrograde.operators import GaussianNoise, ImpulseNoise, Measurement, PoissonNoise


@pytest.mark.parametrize("noise", [GaussianNoise(0.3), PoissonNoise(0.05), ImpulseNoise(0.2, 0.1)])
def test_a_draw_has_the_law_of_its_likelihood(noise):
    """The score's mean is zero and the mean likelihood falls away from the truth, on both sides."""
    clean = torch.full((1, 40_000), 0.2, dtype=torch.float64)
    y = noise.corrupt(clean)

    def mean(level):
        return float(noise.log_likelihood(y, torch.full_like(clean, level))) / y.numel()

    h = 1e-3
    assert abs(mean(0.2 + h) - mean(0.2 - h)) / (2 * h) < 0.15
    assert mean(0.2) > max(mean(0.3), mean(0.1))


def test_the_moments_of_counts_are_those_of_poisson():
    noise = PoissonNoise(gain=0.02, dark=-1.0)
    clean = torch.full((100_000,), 0.5, dtype=torch.float64)
    y = noise.corrupt(clean)
    assert float(y.mean()) == pytest.approx(0.5, abs=0.003)
    assert float(y.var()) == pytest.approx(0.02 * 1.5, rel=0.03)
    counts = (y + 1.0) / 0.02
    assert torch.allclose(counts, counts.round(), atol=1e-6)


def test_likelihoods_are_normalized():
    grid = torch.linspace(-6, 6, 24_001, dtype=torch.float64)[:, None]
    clean = torch.zeros(len(grid), 1, dtype=torch.float64)
    step = float(grid[1, 0] - grid[0, 0])
    assert float(GaussianNoise(0.5).log_likelihood(grid, clean).exp().sum() * step) == pytest.approx(1.0, abs=1e-6)
    impulse = ImpulseNoise(0.3, 0.2, low=-6.0, high=6.0).log_likelihood(grid, clean).exp().sum() * step
    assert float(impulse) == pytest.approx(1.0, abs=1e-3)
    poisson = PoissonNoise(0.1, dark=0.0)
    counts = 0.1 * torch.arange(200, dtype=torch.float64)[:, None]
    assert float(poisson.log_likelihood(counts, torch.full((200, 1), 3.0)).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_impulses_let_outliers_go():
    y = torch.tensor([[0.0, 5.0]], dtype=torch.float64)
    x = torch.zeros(1, 2, dtype=torch.float64)
    assert float(ImpulseNoise(0.1, 0.1).log_likelihood(y, x)) > float(GaussianNoise(0.1).log_likelihood(y, x)) + 100


def test_a_measurement_is_checked():
    A = operators.blur((1, 6, 6), 1.0)
    x = torch.rand(1, 6, 6)
    m = operators.measure(A, x, 0.05)
    assert m.std == 0.05
    assert m.linear is A
    assert float(m.residual(x[None]).std()) == pytest.approx(0.05, rel=0.5)
    assert torch.allclose(m.log_likelihood(x[None]), GaussianNoise(0.05).log_likelihood(m.y[None], A(x[None])))
    assert torch.equal(Measurement(A, m.y[None], 0.05).y, m.y)
    with pytest.raises(ShapeError, match="settings"):
        Measurement(A, torch.rand(1, 3, 3), 0.05)
    with pytest.raises(BadValue, match="NaN"):
        Measurement(A, torch.full((1, 6, 6), math.nan), 0.05)
    with pytest.raises(BadType):
        Measurement("blur", m.y, 0.05)
    with pytest.raises(BadValue, match="linear operator"):
        _ = operators.measure(operators.hdr((1, 6, 6)), x, 0.05).linear
    with pytest.raises(BadValue, match="PoissonNoise"):
        _ = operators.measure(A, x, PoissonNoise(0.05)).std


def test_measurements_of_different_noise_are_stacked_to_noise_of_size_one():
    A, B = operators.mask((1, 6, 6), 0.5), operators.down((1, 6, 6), 3)
    x = torch.rand(1, 6, 6, dtype=torch.float64)
    one, two = operators.measure(A, x, 0.1), operators.measure(B, x, 0.02, seed=1)
    both = operators.stack_measurements([one, two])
    trial = torch.rand(3, 1, 6, 6, dtype=torch.float64)
    apart = one.log_likelihood(trial) + two.log_likelihood(trial)
    together = both.log_likelihood(trial)
    assert torch.allclose(together - together[0], apart - apart[0])
    with pytest.raises(BadValue):
        operators.stack_measurements([])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GaussianNoise(-1.0),
        lambda: PoissonNoise(0.0),
        lambda: ImpulseNoise(1.0, 0.1),
        lambda: GaussianNoise(0.0).log_likelihood(torch.zeros(1, 1), torch.zeros(1, 1)),
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(BadValue):
        wrong()
