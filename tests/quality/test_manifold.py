"""Precision, recall, density, coverage: by hand, against a neighbour search, and on equal laws."""

import math

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from retrograde.errors import BadValue
from retrograde.quality import density_coverage, features, precision_recall


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_precision_and_recall_by_hand():
    # k = 1. Reference 0, 1, 3: radii 1, 1, 2. Samples 0.5, 6, 7: radii 5.5, 1, 1.
    # 0.5 lies in the ball of 0, 6 and 7 in none (the ball of 3 ends at 5); every reference is within 5.5 of 0.5.
    reference, samples = torch.tensor([0.0, 1.0, 3.0]), torch.tensor([0.5, 6.0, 7.0])
    precision, recall = precision_recall(samples, reference, k=1)
    assert (precision.value, recall.value) == (pytest.approx(1 / 3), 1.0)
    assert (precision.name, recall.name) == ("precision", "recall")


def test_density_and_coverage_by_hand():
    # The balls [-1, 1], [0, 2], [1, 5] hold of 0.5, 1.5, 4: one, two, two; then without 4: one, two, one.
    reference = torch.tensor([0.0, 1.0, 3.0])
    density, coverage = density_coverage(torch.tensor([0.5, 1.5, 4.0]), reference, k=1)
    assert (density.value, coverage.value) == (pytest.approx(5 / 3), 1.0)
    density, coverage = density_coverage(torch.tensor([-0.5, 9.0]), reference, k=1)
    assert (density.value, coverage.value) == (0.5, pytest.approx(1 / 3))


def _sklearn_radius(rows, k):
    return NearestNeighbors(n_neighbors=k + 1).fit(rows).kneighbors(rows)[0][:, k]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_against_a_neighbour_search(k):
    x, y = normal(70, 4), 0.7 * normal(50, 4, seed=1) + 0.5
    apart = np.linalg.norm(x.numpy()[:, None] - y.numpy()[None], axis=2)
    in_y = apart <= _sklearn_radius(y.numpy(), k)
    in_x = apart <= _sklearn_radius(x.numpy(), k)[:, None]
    precision, recall = precision_recall(x, y, k=k)
    density, coverage = density_coverage(x, y, k=k)
    assert precision.value == pytest.approx(in_y.any(1).mean())
    assert recall.value == pytest.approx(in_x.any(0).mean())
    assert density.value == pytest.approx(in_y.sum() / (k * 70))
    assert coverage.value == pytest.approx(in_y.any(0).mean())


def test_exchanging_the_sets_exchanges_precision_and_recall():
    x, y = normal(70, 4), 0.7 * normal(50, 4, seed=1)
    precision, recall = precision_recall(x, y)
    swapped = precision_recall(y, x)
    assert (swapped[0].value, swapped[1].value) == (recall.value, precision.value)


def test_density_and_coverage_of_equal_laws():
    n, m, k, trials = 40, 30, 5, 300
    pairs = [density_coverage(normal(n, 2, seed=i), normal(m, 2, seed=9000 + i), k=k) for i in range(trials)]
    densities, coverages = (torch.tensor([pair[j].value for pair in pairs]) for j in (0, 1))
    expected = 1 - math.prod((m - i) / (n + m - i) for i in range(1, k + 1))
    assert abs(float(densities.mean()) - 1) < 4 * float(densities.std()) / math.sqrt(trials)
    assert abs(float(coverages.mean()) - expected) < 4 * float(coverages.std()) / math.sqrt(trials)


def test_collapse_shows_in_recall_and_coverage_only():
    reference = normal(300, 2)
    collapsed = 0.05 * normal(300, 2, seed=1)
    precision, recall = precision_recall(collapsed, reference)
    density, coverage = density_coverage(collapsed, reference)
    assert precision.value == 1.0
    assert density.value > 0.9
    assert recall.value < 0.1
    assert coverage.value < 0.2


def test_the_same_set_and_two_distant_ones():
    x = normal(50, 3)
    assert [figure.value for figure in (*precision_recall(x, x), density_coverage(x, x)[1])] == [1.0, 1.0, 1.0]
    assert [figure.value for figure in (*precision_recall(x, x + 99), *density_coverage(x, x + 99))] == [0.0] * 4


def test_scale_does_not_matter():
    x, y = normal(70, 4), 0.7 * normal(50, 4, seed=1)
    assert [f.value for f in precision_recall(x, y)] == [f.value for f in precision_recall(1024 * x, 1024 * y)]


def test_blocks_give_what_one_piece_gives():
    x, y = normal(3000, 2), normal(4000, 2, seed=1)
    assert len(list(features.distance_blocks(x, y))) > 1
    together = torch.cat([block for _, block in features.distance_blocks(x, y)])
    assert torch.equal(together, torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist"))
    density, coverage = density_coverage(x, y)
    radius = torch.cdist(y, y, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(6, dim=1).values
    inside = together <= radius
    assert density.value == pytest.approx(float(inside.sum()) / (5 * 3000), rel=1e-12)
    assert coverage.value == pytest.approx(float(inside.any(0).double().mean()), rel=1e-12)
    # Three times as wide, so that recall is neither 0 nor 1.
    recall = precision_recall(x, 3 * y)[1].value
    radius = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").kthvalue(4, dim=1).values
    apart = torch.cdist(x, 3 * y, compute_mode="donot_use_mm_for_euclid_dist")
    assert recall == pytest.approx(float((apart <= radius[:, None]).any(0).double().mean()), rel=1e-12)
    assert 0.1 < recall < 0.9


def test_refuses_no_more_items_than_neighbours():
    with pytest.raises(BadValue, match="at least 4"):
        precision_recall(normal(3, 2), normal(9, 2))
    with pytest.raises(BadValue, match="at least 6"):
        density_coverage(normal(9, 2), normal(5, 2))
    with pytest.raises(BadValue, match="k=0"):
        precision_recall(normal(9, 2), normal(9, 2), k=0)
