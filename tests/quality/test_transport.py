"""Sliced Wasserstein and energy distance: one-dimensional peers, closed forms, scaling."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrograde.errors import BadValue
from retrograde.quality import energy_distance, sliced_wasserstein


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 10**6))
def test_one_dimension_against_scipy(n, m, seed):
    x, y = normal(n, seed=seed), 2 * normal(m, seed=seed + 1) + 0.5
    expected = scipy.stats.wasserstein_distance(x.numpy(), y.numpy())
    assert sliced_wasserstein(x, y, p=1, slices=3).value == pytest.approx(expected, rel=1e-9)


def test_unequal_sizes_of_order_two_by_repetition():
    # 4 and 6 items are the laws of 12 items each, every one repeated.
    x, y = normal(4), normal(6, seed=1)
    expected = (x.sort().values.repeat_interleave(3) - y.sort().values.repeat_interleave(2)).square().mean().sqrt()
    assert sliced_wasserstein(x, y, p=2, slices=1).value == pytest.approx(float(expected), rel=1e-12)


def test_sliced_distance_of_a_shift():
    # Along theta a shift v moves by theta.v, whose mean square over the sphere of dimension d is |v|^2 / d.
    x, shift = normal(50, 6), normal(6, seed=1)
    value = sliced_wasserstein(x, x + shift, slices=20000).value
    assert value == pytest.approx(float(shift.norm()) / math.sqrt(6), rel=0.03)


def test_maximum_approaches_the_length_of_a_shift():
    x, shift = normal(50, 2), normal(2, seed=1)
    value = sliced_wasserstein(x, x + shift, slices=2000, over="max").value
    assert value == pytest.approx(float(shift.norm()), rel=1e-4)
    assert value <= float(shift.norm()) * (1 + 1e-12)


def test_order_of_the_aggregates():
    x, y = normal(40, 3), 2 * normal(60, 3, seed=1)
    one, two = sliced_wasserstein(x, y, p=1), sliced_wasserstein(x, y, p=2)
    assert one.value < two.value < sliced_wasserstein(x, y, over="max").value


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("over", ["mean", "max"])
def test_sliced_symmetry_identity_and_scale(p, over):
    x, y = normal(40, 3), normal(55, 3, seed=1) + 1
    value = sliced_wasserstein(x, y, p=p, over=over).value
    assert sliced_wasserstein(y, x, p=p, over=over).value == pytest.approx(value, rel=1e-12)
    assert sliced_wasserstein(x, x.flip(0), p=p, over=over).value == pytest.approx(0, abs=1e-14)
    assert sliced_wasserstein(-3 * x, -3 * y, p=p, over=over).value == pytest.approx(3 * value, rel=1e-9)


def test_sliced_states_its_settings():
    assert "p=1, 64 slices" in str(sliced_wasserstein(normal(9, 2), normal(8, 2), p=1, slices=64))


def test_sliced_of_equal_laws_shrinks_like_the_root_of_n():
    def mean(n):
        return sum(sliced_wasserstein(normal(n, 3, seed=i), normal(n, 3, seed=500 + i)).value for i in range(20))

    assert mean(100) / mean(1600) == pytest.approx(4, rel=0.2)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 10**6))
def test_energy_against_scipy(n, m, seed):
    x, y = normal(n, seed=seed), 2 * normal(m, seed=seed + 1) + 0.5
    expected = scipy.stats.energy_distance(x.numpy(), y.numpy())
    assert energy_distance(x, y).value == pytest.approx(expected, rel=1e-9)


def test_energy_of_two_points_is_the_root_of_twice_their_distance():
    assert energy_distance(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])).value == pytest.approx(math.sqrt(10))


def test_energy_invariances_and_scale():
    x, y = normal(40, 3), normal(60, 3, seed=1) + 1
    turn = torch.linalg.qr(normal(3, 3, seed=2)).Q
    value = energy_distance(x, y).value
    assert energy_distance(x @ turn - 2, y @ turn - 2).value == pytest.approx(value, rel=1e-10)
    assert energy_distance(4 * x, 4 * y).value == pytest.approx(2 * value, rel=1e-10)
    assert energy_distance(y, x).value == pytest.approx(value, rel=1e-10)
    assert energy_distance(x, x.flip(0)).value == pytest.approx(0, abs=1e-6)


def test_refuses_other_settings():
    x = normal(9, 2)
    with pytest.raises(BadValue, match="p=3"):
        sliced_wasserstein(x, x, p=3)
    with pytest.raises(BadValue, match="over='median'"):
        sliced_wasserstein(x, x, over="median")
    with pytest.raises(BadValue, match="slices=0"):
        sliced_wasserstein(x, x, slices=0)
