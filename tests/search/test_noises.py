"""Random and zero-order search against laws of maxima, and the books against the calls."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue, PlanError, ShapeError

MAXIMUM = {1: 0.0, 2: 0.56419, 4: 1.02938, 8: 1.42360, 16: 1.76599}
"""Expected maximum of so many standard normal numbers."""


def value(x, searches):
    return x.flatten(1).sum(1)


def within(found, expected, spread):
    """Whether a mean is within three standard errors."""
    return abs(float(found.double().mean()) - expected) < 3 * spread / math.sqrt(len(found))


def scale(den, plan):
    """Return what a plan multiplies noise by: of Gaussian data it is a line through 0."""
    return float(rg.sample(den, plan, x=torch.full((1, 1), plan.path.s(plan.start), dtype=torch.float64)))


def test_the_best_of_several_has_the_law_of_a_maximum(normal, path):
    plan = rg.plan("ddim", path, nfe=10)
    found = rg.search.random(normal, plan, value, n=300, draws=16)
    for draws, (nfe, verdicts) in enumerate(found.trace, 1):
        assert nfe == pytest.approx(draws * plan.nfe)
        if draws in MAXIMUM:
            assert within(verdicts / scale(normal, plan), MAXIMUM[draws], float(verdicts.std())), draws
    assert torch.equal(found.samples.double(), found.verdicts)


def test_the_probability_of_success_is_one_minus_that_of_failing_each_time(modes, path):
    def right(x, searches):
        return -25.0 * ((x - 1.0) ** 2 - (x + 1.0) ** 2).flatten(1).sum(1).double()  # log of the odds

    found = rg.search.random(modes, rg.plan("ddim", path, nfe=20), right, n=500, draws=8)
    for draws in (1, 2, 4, 8):
        succeeded = (found.trace[draws - 1][1] > 0).double()
        expected = 1.0 - 0.8**draws
        assert within(succeeded, expected, math.sqrt(expected * (1.0 - expected))), draws


def test_neighbours_at_distance_one_are_a_random_search_and_at_none_the_pivot(normal, path):
    plan = rg.plan("ddim", path, nfe=10)
    far = rg.search.zero_order(normal, plan, value, n=200, neighbours=5, rounds=3, distance=1.0)
    assert within(far.verdicts / scale(normal, plan), MAXIMUM[16], float(far.verdicts.std()))
    assert far.ledger.nfe == pytest.approx(16 * plan.nfe)
    none = rg.search.zero_order(normal, plan, value, n=5, rounds=2, distance=0.0)
    assert torch.equal(none.samples, rg.sample(normal, plan, n=5))
    near = rg.search.zero_order(normal, plan, value, n=200, neighbours=5, rounds=3, distance=0.6)
    rises = [float(verdicts.mean()) for _, verdicts in near.trace]
    assert rises == sorted(rises)
    assert float(((near.samples - none.samples.mean()) ** 2).mean()) > 0.5  # it moved


def test_neighbours_keep_the_law_of_noise(normal, path):
    """With a verifier that has no opinion until the last round, the start chosen is noise like any other."""
    plan = rg.plan("ddim", path, nfe=5)

    def last(x, searches):
        return torch.arange(len(x), dtype=torch.float64)

    found = rg.search.zero_order(normal, plan, last, n=800, neighbours=1, rounds=3, distance=0.7)
    noise = found.starts / path.s(plan.start)
    assert abs(float(noise.var()) - 1.0) < 3 * math.sqrt(2 / 800)


@pytest.mark.parametrize("verifiers", [value, [value, value]])
def test_the_books_are_the_calls(modes, path, counted, verifiers):
    den, asked = counted(modes)
    plan = rg.plan("ddim", path, nfe=6)
    for search, options in ((rg.search.random, {"draws": 5}), (rg.search.zero_order, {"neighbours": 2, "rounds": 2})):
        asked.clear()
        found = search(den, plan, verifiers, n=3, batch_size=4, **options)
        assert 3 * found.ledger.nfe == pytest.approx(sum(asked)) == 3 * 5 * 6
        assert found.ledger.verdicts == pytest.approx(5 * (2 if isinstance(verifiers, list) else 1))


def test_the_first_candidate_is_the_plain_sample_and_the_start_runs_to_what_was_found(modes, path):
    plan = rg.plan("ddim", path, nfe=8)
    assert torch.equal(rg.search.random(modes, plan, value, n=4, draws=1).samples, rg.sample(modes, plan, n=4))
    for found in (rg.search.random(modes, plan, value, n=4), rg.search.zero_order(modes, plan, value, n=4)):
        assert torch.equal(rg.sample(modes, plan, x=found.starts), found.samples)


def test_batches_and_company_change_nothing(modes, path):
    plan = rg.plan("ddpm", path, nfe=8)
    for search in (rg.search.random, rg.search.zero_order):
        found = search(modes, plan, value, n=3)
        assert torch.equal(search(modes, plan, value, n=3, batch_size=7).samples, found.samples)
        assert torch.equal(search(modes, plan, value, n=1).samples, found.samples[:1])


def test_conditions_and_targets_belong_to_a_search(path):
    den = rg.oracles.GaussianMixture(path, torch.tensor([[-2.0], [2.0]]), 0.1, labels=[0, 1])
    sides = torch.tensor([1.0, -1.0, 1.0])
    plan = rg.plan("ddim", path, nfe=8)

    def own(x, searches):
        return x[:, 0] * sides[searches]

    found = rg.search.random(den, plan, own, n=3, draws=6, condition=[0, 0, 1])
    assert torch.equal(found.samples[:, 0] > 0, torch.tensor([False, False, True]))
    assert found.samples[0] > found.samples[1]
    free = rg.search.random(den, plan, own, n=3, draws=12)
    assert torch.equal(free.samples[:, 0] * sides > 0, torch.tensor([True, True, True]))


def test_ranks_of_several_verifiers_have_no_units():
    verdicts = torch.tensor([[[1.0, 50.0], [2.0, 60.0], [3.0, -1e9]]])
    assert rg.search.standing(verdicts).tolist() == [[-1.0, 1.0, 0.0]]
    assert rg.search.best(verdicts * torch.tensor([1e6, 1e-3])).tolist() == [1]
    tied = torch.zeros(1, 4, 2)
    assert rg.search.standing(tied).tolist() == [[0.0] * 4]


def test_a_verifier_of_data_alone_is_told_how_to_take_searches(modes, path):
    plan = rg.plan("ddim", path, nfe=2)
    with pytest.raises(BadType, match="lambda data, searches: verifier"):
        rg.search.random(modes, plan, lambda data: data.flatten(1).sum(1))
    with pytest.raises(ShapeError, match="one number for each"):
        rg.search.random(modes, plan, lambda data, searches: 1.0)


def test_mistakes_are_named(modes, path):
    plan = rg.plan("ddim", path, nfe=3)
    with pytest.raises(ShapeError, match="one number for each"):
        rg.search.random(modes, plan, lambda x, i: x)
    with pytest.raises(BadValue, match="NaN"):
        rg.search.random(modes, plan, lambda x, i: x[:, 0] * float("nan"))
    with pytest.raises(BadValue, match="distance"):
        rg.search.zero_order(modes, plan, value, distance=1.5)
    with pytest.raises(BadValue, match="draws"):
        rg.search.random(modes, plan, value, draws=0)
    with pytest.raises(PlanError, match="row 1"):
        rg.search.over_paths(modes, rg.plan("dpmpp_2m", path, nfe=8), value, up=1, down=2, begin=2)
    with pytest.raises(BadValue, match="up < down"):
        rg.search.over_paths(modes, plan, value, up=2, down=2)
