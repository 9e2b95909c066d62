"""Paired errors and the bootstrap: by hand, against scipy, and coverage of the interval."""

import math

import pytest
import scipy.stats
import torch

from retrograde.errors import BadValue, ShapeError
from retrograde.quality import bootstrap, paired_error


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand():
    # Items of four elements with errors 1, 2, 3, 10 in each element, of either sign.
    size = torch.tensor([1.0, 2.0, 3.0, 10.0])[:, None, None]
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    error = paired_error(size * signs, torch.zeros(4, 2, 2))
    assert error.per_item.tolist() == [1, 2, 3, 10]
    assert error.rms.value == pytest.approx(math.sqrt(114 / 4), rel=1e-14)
    assert error.median.value == pytest.approx(2.5, rel=1e-14)
    assert (error.rms.n_samples, error.rms.n_reference) == (4, 4)


def test_rms_is_over_all_elements():
    x, y = normal(30, 2, 5), normal(30, 2, 5, seed=1)
    assert paired_error(x, y).rms.value == pytest.approx(float((x - y).square().mean().sqrt()), rel=1e-12)


def test_symmetric_and_linear_in_scale():
    x, y = normal(30, 5), normal(30, 5, seed=1)
    error, scaled = paired_error(x, y), paired_error(-2 * y, -2 * x)
    assert scaled.rms.value == pytest.approx(2 * error.rms.value, rel=1e-12)
    assert scaled.median.value == pytest.approx(2 * error.median.value, rel=1e-12)
    assert scaled.rms.interval == pytest.approx(tuple(2 * end for end in error.rms.interval), rel=1e-12)


def test_interval_holds_the_value_and_is_repeatable():
    x, y = normal(60, 5), normal(60, 5, seed=1)
    error = paired_error(x, y, seed=3)
    for figure in (error.rms, error.median):
        low, high = figure.interval
        assert low < figure.value < high
        assert "95% interval" in str(figure)
    assert paired_error(x, y, seed=3).rms == error.rms
    assert paired_error(x, y, seed=4).rms.interval != error.rms.interval


def test_one_pair_has_no_interval():
    assert paired_error(normal(1, 5), normal(1, 5, seed=1)).rms.interval is None


def test_pairs_through_features():
    x, y = normal(30, 5), normal(30, 5, seed=1)
    error = paired_error(x, y, features=lambda items: items.sum(1))
    assert error.per_item == pytest.approx((x - y).sum(1).abs(), rel=1e-10)


def test_refuses_pairs_that_do_not_match():
    with pytest.raises(ShapeError, match="item i belongs to item i"):
        paired_error(normal(3, 2), normal(4, 2))


def test_bootstrap_against_scipy():
    values = normal(40).exp()
    ours = bootstrap(values, torch.mean, seed=0, resamples=20000)
    theirs = scipy.stats.bootstrap(
        (values.numpy(),), lambda v, axis: v.mean(axis), n_resamples=20000, method="percentile", rng=0
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    trials, level = 300, 0.8
    hits = 0
    for seed in range(trials):
        low, high = bootstrap(normal(100, seed=seed), torch.mean, seed, level, resamples=200)
        hits += low <= 0 <= high
    assert abs(hits - level * trials) < 4 * math.sqrt(trials * level * (1 - level))


def test_bootstrap_draws_whole_items():
    # Two columns that always sum to zero do so in every draw.
    column = normal(20)
    assert bootstrap(torch.stack([column, -column], 1), torch.sum, seed=0) == pytest.approx((0, 0), abs=1e-12)


def test_bootstrap_refuses():
    values = normal(20, 2)
    with pytest.raises(BadValue, match="at least 2"):
        bootstrap(values[:1], torch.mean, seed=0)
    with pytest.raises(BadValue, match="level=95"):
        bootstrap(values, torch.mean, seed=0, level=95)
    with pytest.raises(ShapeError, match="one number"):
        bootstrap(values, lambda v: v.mean(0), seed=0)
    with pytest.raises(BadValue, match="statistics"):
        bootstrap(values, lambda v: float("nan"), seed=0)
