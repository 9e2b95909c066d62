"""Arithmetic of log-weights."""

import math

import pytest
import torch

from retrograde.errors import BadValue
from retrograde.particles import effective_size, log_mean, normalized, tempered

LOGS = torch.tensor([[0.0, 0.0, 0.0, 0.0], [5.0, -900.0, -math.inf, 5.0], [-2000.0, -3000.0, -3000.0, -3000.0]]).double()


def test_effective_sizes_count_who_matters():
    assert torch.allclose(effective_size(LOGS), torch.tensor([4.0, 2.0, 1.0]).double())
    assert torch.allclose(effective_size(LOGS + 700.0), effective_size(LOGS))


def test_a_group_whose_weights_are_all_zero_is_no_nan():
    gone = torch.full((1, 4), -math.inf).double()
    assert torch.equal(normalized(gone), torch.full((1, 4), 0.25).double())
    assert torch.isneginf(log_mean(gone)).all()


def test_the_mean_weight_in_logs():
    weights = torch.tensor([[0.5, 2.0, 3.5]]).double()
    assert torch.allclose(log_mean(weights.log()), weights.mean(-1).log())


def test_tempering_meets_the_size_it_was_asked():
    gains = 10.0 * torch.randn(6, 50, generator=torch.Generator().manual_seed(0)).double()
    logs = torch.zeros_like(gains)
    exponent = tempered(logs, gains, 25.0)
    assert ((exponent > 0) & (exponent < 1)).all()
    assert torch.allclose(effective_size(exponent[:, None] * gains), torch.full((6,), 25.0).double(), rtol=1e-6)
    assert torch.equal(tempered(logs, 1e-6 * gains, 25.0), torch.ones(6).double())
    assert torch.equal(tempered(logs, gains, 25.0, exponent + 0.1), exponent + 0.1)


def test_no_group_has_a_size_beyond_its_number():
    with pytest.raises(BadValue, match="1 <= size <= 4"):
        tempered(LOGS, LOGS, 5.0)
