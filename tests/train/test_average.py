"""The running average: its recursion, its profile and its width."""

import math

import pytest
import torch
from torch import nn

from retrograde.errors import BadValue
from retrograde.train import PowerAverage, power_gamma


@pytest.mark.parametrize("relative_std", [0.01, 0.05, 0.1, 0.25])
def test_gamma_gives_the_width_it_was_asked_for(relative_std: float) -> None:
    gamma = power_gamma(relative_std)
    assert math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(relative_std, rel=1e-9)


def test_published_exponents() -> None:
    # Karras et al. 2024 list gamma 6.94 for a width of 10 % and 16.97 for 5 %.
    assert power_gamma(0.10) == pytest.approx(6.94, abs=0.005)
    assert power_gamma(0.05) == pytest.approx(16.97, abs=0.005)


def averaged(values: list[float], relative_std: float) -> float:
    network = nn.Linear(1, 1, bias=False).double()
    average = PowerAverage(network, relative_std)
    for value in values:
        nn.init.constant_(network.weight, value)
        average.update(network)
    return float(average.network.weight)  # type: ignore[arg-type]


def test_recursion_is_the_formula() -> None:
    values = [0.3, -1.0, 2.0, 5.0, 0.5]
    gamma, mean = power_gamma(0.1), 0.0
    for n, value in enumerate(values, start=1):
        beta = (1 - 1 / n) ** (gamma + 1)
        mean = beta * mean + (1 - beta) * value
    assert averaged(values, 0.1) == pytest.approx(mean, rel=1e-6)


def test_profile_of_a_long_training() -> None:
    n, gamma = 4000, power_gamma(0.1)
    # Parameters equal to their time average to (gamma + 1)/(gamma + 2) of the last time.
    assert averaged([k / n for k in range(1, n + 1)], 0.1) == pytest.approx((gamma + 1) / (gamma + 2), abs=1e-3)


def test_first_update_copies_and_buffers_follow() -> None:
    network = nn.BatchNorm1d(2)
    average = PowerAverage(network)
    nn.init.constant_(network.weight, 7.0)
    network.running_mean.fill_(3.0)  # type: ignore[union-attr]
    average.update(network)
    assert torch.equal(average.network.weight, network.weight)  # type: ignore[arg-type]
    assert torch.equal(average.network.running_mean, network.running_mean)  # type: ignore[arg-type]
    assert all(not p.requires_grad for p in average.network.parameters())
    assert network.weight.requires_grad


def test_impossible_width() -> None:
    with pytest.raises(BadValue, match=r"0\.28"):
        power_gamma(0.5)
