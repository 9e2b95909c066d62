"""Extrapolation by fitted weights: what it is without them, least squares row by row, and problems held back."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.errors import BadType, BadValue
from retrograde.noise import Bulk

DOUBLE = torch.float64


def problem(seed, k=None):
    """A correlated Gaussian signal of eight numbers, every other of which is seen with noise; and the item."""
    place = torch.arange(8, dtype=DOUBLE)
    C = torch.exp(-0.5 * ((place[:, None] - place) / 2.0) ** 2) + 0.02 * torch.eye(8, dtype=DOUBLE)
    prior = rg.oracles.GaussianMixture(rg.paths.VP(), torch.stack([torch.ones(8), -torch.ones(8)]), torch.stack([C, C]))
    truth = prior.sample(1, seed)[0]
    return prior, operators.measure(operators.Matrix(torch.eye(8, dtype=DOUBLE)[::2]), truth, 0.2, seed=seed), truth[None]


@pytest.fixture(scope="module")
def examples():
    return [problem(seed) for seed in range(10)]


def missed(method, nfe, seeds, n=8):
    total = 0.0
    for seed in seeds:
        prior, measurement, truth = problem(seed)
        made = inverse.solve(prior, measurement, method, n=n, nfe=nfe, seed=seed, noise=Bulk, dtype=DOUBLE).samples
        total += float((made - truth).square().mean())
    return total / len(seeds)


def test_weights_of_one_are_the_method_itself():
    prior, measurement, _ = problem(0)
    plain = inverse.solve(prior, measurement, "diffpir", n=3, nfe=3)
    for beside in ((1.0, 0.0, 0.0), (1.0, 1e-300, 0.0)):  # one coefficient, and a map with one for what is seen
        rows = tuple(((1.0, *(0.0,) * i), beside[: i + 1]) for i in range(3))
        same = inverse.Extrapolated("diffpir", 3, rows).method
        made = inverse.solve(prior, measurement, same, n=3, nfe=3)
        assert torch.allclose(made.samples, plain.samples, atol=1e-6)
        assert made.ledger.evaluations == plain.ledger.evaluations
    assert torch.equal(
        inverse.solve(prior, measurement, inverse.Extrapolated("diffpir", 3, rows[:1]).method, n=3, nfe=3).samples,
        plain.samples,
    )


def test_the_weights_are_those_of_least_squares_where_the_run_comes():
    """Row by row: no other weights of the last row leave less, on the states to which the rows before it led."""
    examples = [problem(seed) for seed in range(3)]
    fitted = inverse.extrapolate(examples, 3, method="diffpir", n=4, ridge=0.0)

    def left(weights):
        total = 0.0
        for k, (prior, measurement, truth) in enumerate(examples):
            method = dataclasses.replace(fitted, weights=weights).method
            made = inverse.solve(prior, measurement, method, n=4, nfe=3, seed=k, noise=Bulk)
            total += float((made.samples.double() - truth).square().sum())
        return total

    best, rows = left(fitted.weights), fitted.weights
    for k in range(3):
        for step in (0.03, -0.03):
            moved = tuple(w + step * (j == k) for j, w in enumerate(rows[2][0]))
            assert left((*rows[:2], (moved, moved))) > best
    assert best < left(tuple(((1.0, *(0.0,) * i),) * 2 for i in range(3)))


@pytest.mark.parametrize("apart", [False, True])
def test_few_rows_come_nearer_to_the_truth_on_problems_held_back(examples, apart):
    """Samples of four evaluations: their mean squared error falls, on measurements of other items."""
    fitted = inverse.extrapolate(examples, 4, method="diffpir", n=8, apart=apart)
    assert (fitted.weights[-1][0] == fitted.weights[-1][1]) != apart
    seeds = range(100, 110)
    assert missed(fitted.method, 4, seeds) < 0.9 * missed("diffpir", 4, seeds)


def test_what_it_cannot_take_is_refused(examples):
    with pytest.raises(BadType, match="particles"):
        inverse.extrapolate(examples[:1], 4, method="tds", n=2)
    with pytest.raises(BadType, match="one data mean each"):
        inverse.extrapolate(examples[:1], 4, method="ddrm", n=2)
    with pytest.raises(BadValue, match="0 examples"):
        inverse.extrapolate([], 4)
    prior, measurement, _ = examples[0]
    fitted = inverse.Extrapolated("mmps", 3, ())
    with pytest.raises(BadValue, match="nfe=3"):
        inverse.solve(prior, measurement, fitted.method, n=2, nfe=5)
