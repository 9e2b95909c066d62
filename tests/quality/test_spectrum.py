"""Variance ratio and power spectrum: closed forms."""

import math

import pytest
import torch

from retrograde.errors import BadValue, ShapeError
from retrograde.quality import power_spectrum, spectrum_distance, variance_ratio


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_variance_ratio_is_the_square_of_a_scale_and_blind_to_shifts():
    x = normal(50, 3, 4)
    assert variance_ratio(0.9 * x + 7, x).value == pytest.approx(0.81, rel=1e-12)
    assert variance_ratio(x, 0.5 * x).value == pytest.approx(4, rel=1e-12)


def test_variance_ratio_is_the_ratio_of_traces():
    x, y = normal(50, 3), 2 * normal(70, 3, seed=1)
    expected = float(torch.cov(x.T).trace() / torch.cov(y.T).trace())
    assert variance_ratio(x, y).value == pytest.approx(expected, rel=1e-12)


def test_variance_ratio_refuses_a_constant_reference():
    with pytest.raises(BadValue, match="all equal"):
        variance_ratio(normal(9, 2), torch.ones(9, 2))


@pytest.mark.parametrize("shape", [(3, 16), (2, 8, 8), (2, 9, 6), (1, 4, 6, 5)])
def test_energy_is_kept(shape):
    x = normal(10, *shape)
    spectrum = power_spectrum(x)
    energy = float((spectrum.power * spectrum.modes).sum())
    assert energy == pytest.approx(float(x.square().sum()) / (10 * shape[0]), rel=1e-12)
    assert int(spectrum.modes.sum()) == math.prod(shape[1:])
    assert int(spectrum.modes[0]) == 1
    assert float(spectrum.frequency[0]) == 0


def test_white_noise_is_flat():
    spectrum = power_spectrum(3 * normal(400, 1, 16, 16))
    # Modes come in conjugate pairs, or are real: either way a ring's mean has variance 2 * 9^2 / (400 modes).
    error = 9 * torch.sqrt(2 / (400 * spectrum.modes.double()))
    assert bool(((spectrum.power - 9).abs() < 4 * error).all())


def test_a_wave_shows_at_its_frequency():
    wave = torch.cos(2 * math.pi * 3 * torch.arange(24, dtype=torch.float64) / 24)
    spectrum = power_spectrum(wave.expand(2, 1, 12, 24))
    assert float(spectrum.frequency[spectrum.power.argmax()]) == pytest.approx(3 / 24)
    assert float((spectrum.power * spectrum.modes).sum()) == pytest.approx(12 * 24 / 2, rel=1e-12)
    assert float(spectrum.power.max() * spectrum.modes[spectrum.power.argmax()]) == pytest.approx(12 * 24 / 2)


def test_directions_are_averaged():
    x = normal(5, 1, 12, 12)
    assert torch.allclose(power_spectrum(x).power, power_spectrum(x.transpose(2, 3)).power, rtol=1e-12)


def test_spectrum_distance_of_a_scale():
    x = normal(20, 1, 8, 8)
    # Power is the square of the amplitude: |ln 0.81| at every frequency.
    assert spectrum_distance(0.9 * x, x).value == pytest.approx(abs(math.log(0.81)), rel=1e-10)
    assert spectrum_distance(x, 0.9 * x).value == pytest.approx(abs(math.log(0.81)), rel=1e-10)


def test_spectrum_distance_sees_a_blur_that_keeps_the_mean():
    x = normal(20, 1, 8, 8)
    blurred = (x + x.roll(1, 2) + x.roll(1, 3) + x.roll((1, 1), (2, 3))) / 4
    power, before = power_spectrum(blurred).power, power_spectrum(x).power
    assert float(power[0]) == pytest.approx(float(before[0]), rel=1e-10)
    assert float(power[-1]) < 0.2 * float(before[-1])
    assert spectrum_distance(blurred[:, :, :7, :7], x[:, :, :7, :7]).value > 0.5


def test_refuses_shapes_without_a_grid():
    with pytest.raises(ShapeError):
        power_spectrum(normal(5, 8))
    with pytest.raises(ShapeError):
        power_spectrum(normal(0, 1, 8))
    with pytest.raises(ShapeError, match="equal item shapes"):
        spectrum_distance(normal(5, 1, 8), normal(5, 1, 9))
    with pytest.raises(BadValue, match="no power"):
        spectrum_distance(torch.ones(5, 1, 8), normal(5, 1, 8))
