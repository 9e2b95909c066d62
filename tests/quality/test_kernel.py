"""Kernel distance and two-sample test: hand-computed sums, a peer, and behaviour on equal laws."""

import math

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from retrograde.errors import BadValue
from retrograde.quality import kernel_distance, mmd_test


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_by_hand():
    # d = 1, k(a, b) = (ab + 1)^3: k(0, 1) = 1; k(2, 3) = 343; cross pairs (0,2) 1, (0,3) 1, (1,2) 27, (1,3) 64.
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    assert kernel_distance(x, y, subsets=1).value == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4, rel=1e-14)


def test_against_torchmetrics():
    class Corner(torch.nn.Module):
        def forward(self, images):
            return images[:, :, 0, 0].double()

    x, y = (torch.rand(60, 6, 1, 1, generator=torch.Generator().manual_seed(seed)).double() for seed in (0, 1))
    metric = KernelInceptionDistance(feature=Corner(), normalize=True, subsets=1, subset_size=60)
    metric.update(y.sqrt(), real=True)
    metric.update(x, real=False)
    ours = kernel_distance(x, y.sqrt(), features=Corner(), subsets=1)
    assert ours.value == pytest.approx(float(metric.compute()[0]), rel=1e-4)
    assert ours.standard_error is None


def test_mean_is_zero_for_equal_laws():
    values = torch.tensor(
        [kernel_distance(normal(20, 4, seed=i), normal(30, 4, seed=9000 + i), subsets=1).value for i in range(400)]
    )
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 4 * error
    # The biased estimate keeps the diagonals and would sit far outside of that.
    assert error < 0.1


def test_standard_error_is_the_spread_of_repetitions():
    figures = [kernel_distance(normal(200, 3, seed=i), normal(200, 3, seed=9000 + i) + 0.5) for i in range(100)]
    spread = float(torch.tensor([figure.value for figure in figures]).std())
    claimed = math.sqrt(sum(figure.standard_error**2 for figure in figures) / len(figures))
    assert claimed == pytest.approx(spread, rel=0.3)


def test_counts_only_what_it_used():
    figure = kernel_distance(normal(25, 3), normal(39, 3, seed=1), subsets=10)
    assert (figure.n_samples, figure.n_reference) == (20, 30)
    assert "10 disjoint subsets" in str(figure)


def test_symmetric_for_one_subset_and_repeatable():
    x, y = normal(30, 3), normal(40, 3, seed=1) + 1
    assert kernel_distance(x, y, subsets=1).value == pytest.approx(kernel_distance(y, x, subsets=1).value, rel=1e-10)
    assert kernel_distance(x, y, seed=4) == kernel_distance(x, y, seed=4)
    assert kernel_distance(x, y, seed=4).value != kernel_distance(x, y, seed=5).value


def test_refuses_more_subsets_than_pairs():
    with pytest.raises(BadValue, match="at least 20"):
        kernel_distance(normal(19, 3), normal(40, 3))
    with pytest.raises(BadValue, match="subsets=0"):
        kernel_distance(normal(19, 3), normal(40, 3), subsets=0)


def test_statistic_by_hand():
    def k(a, b):
        return math.exp(-((a - b) ** 2) / 2)

    # One bandwidth 1; x = {0, 1}, y = {3, 5, 9}, every pair written out.
    x, y = torch.tensor([0.0, 1.0]), torch.tensor([3.0, 5.0, 9.0])
    within_y = (k(3, 5) + k(3, 9) + k(5, 9)) / 3
    cross = sum(k(a, b) for a in (0, 1) for b in (3, 5, 9)) / 6
    statistic, _ = mmd_test(x, y, 0, bandwidths=[1.0])
    assert statistic == pytest.approx(k(0, 1) + within_y - 2 * cross, rel=1e-12)


def test_level_of_the_two_sample_test():
    trials = 200
    outcomes = [
        mmd_test(normal(15, 2, seed=i), normal(25, 2, seed=9000 + i), i, permutations=99, level=0.9) for i in range(trials)
    ]
    rejected = sum(outcome.rejects for outcome in outcomes)
    # Binomial(200, 0.1): mean 20, standard deviation 4.24.
    assert abs(rejected - 20) < 4 * math.sqrt(trials * 0.1 * 0.9)
    # p-values of a true null are uniform: mean 1/2, standard deviation of the mean 0.29 / sqrt(200).
    assert abs(sum(outcome.p_value for outcome in outcomes) / trials - 0.5) < 4 * 0.29 / math.sqrt(trials)


def test_sees_a_shift_and_a_change_of_shape():
    x = normal(200, 2)
    assert mmd_test(x, normal(200, 2, seed=1) + 0.5, 0).rejects
    assert mmd_test(x, 1.5 * normal(200, 2, seed=1), 0).rejects
    # Same mean and covariance, another law.
    signs = torch.where(normal(200, 2, seed=2) > 0, 1.0, -1.0).double()
    assert mmd_test(x, signs, 0).rejects
    assert not mmd_test(x, normal(200, 2, seed=3), 0).rejects


def test_rejection_and_p_value_agree():
    for shift in (0.0, 0.3, 0.6, 1.0):
        outcome = mmd_test(normal(20, 1), normal(20, 1, seed=1) + shift, 0, permutations=99, level=0.95)
        assert outcome.rejects == (outcome.p_value <= 0.05)
        assert outcome.rejects == ("laws differ" in str(outcome))


def test_default_bandwidths_follow_the_scale():
    x, y = normal(30, 2), normal(30, 2, seed=1) + 1
    assert mmd_test(1e4 * x, 1e4 * y, 0).statistic == pytest.approx(mmd_test(x, y, 0).statistic, rel=1e-9)


def test_refuses_what_cannot_be_tested():
    x = normal(20, 2)
    with pytest.raises(BadValue, match="permutations=99"):
        mmd_test(x, x, 0, permutations=50, level=0.99)
    with pytest.raises(BadValue, match="level=1"):
        mmd_test(x, x, 0, level=1.0)
    with pytest.raises(BadValue, match="all equal"):
        mmd_test(torch.ones(5, 2), torch.ones(5, 2), 0)
    with pytest.raises(BadValue, match="bandwidths"):
        mmd_test(x, x, 0, bandwidths=[0.0])
