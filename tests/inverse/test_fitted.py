"""A fitted plan: rows that leave the data their spread are exact, and fitting lowers the error on problems held back."""

from pathlib import Path

import pytest
import torch

import retrograde as rg
from retrograde import inverse
from retrograde.errors import BadValue
from retrograde.noise import Bulk

DOUBLE = torch.float64
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


@pytest.mark.parametrize("path", [rg.paths.VP(), rg.paths.EDM()])
def test_rows_of_any_length_are_exact_for_data_of_one_spread(path):
    """Mean and variance through four rows, for N(0.7, 1.3^2): the state after each is a N(0.7, 1.3^2) + s eps."""
    prior = rg.oracles.Gaussian(path, torch.tensor([0.7]), 1.3**2)
    plan = inverse.Levels(20.0, 0.5, 3.0, 1.3).plan(path, 4)
    zero, one = torch.zeros(1, 1, dtype=DOUBLE), torch.ones(1, 1, dtype=DOUBLE)
    t = plan.start
    mean, variance = path.a(t) * 0.7, (path.a(t) * 1.3) ** 2 + path.s(t) ** 2
    for row in plan.rows:
        offset = float(prior(zero, row.time).data)
        slope = float(prior(one, row.time).data) - offset
        gain = row.states[0] + row.outputs[0] * slope
        mean = gain * mean + row.outputs[0] * offset
        variance = gain**2 * variance + sum(kappa**2 for kappa in row.noises)
        a, s = (1.0, 0.0) if row.next_time is None else (path.a(row.next_time), path.s(row.next_time))
        assert mean == pytest.approx(a * 0.7, abs=1e-6)
        assert variance == pytest.approx((a * 1.3) ** 2 + s * s, rel=1e-6)
    assert len(plan.rows) == plan.nfe == 4


def test_without_spread_it_is_ddpm():
    path = rg.paths.VP()
    ours = inverse.Levels(50.0, 0.1, 7.0).plan(path, 6)
    theirs = rg.plan("ddpm", path, grid=ours.times)
    for one, other in zip(ours.rows, theirs.rows, strict=True):
        assert (*one.states, *one.outputs, *one.noises) == pytest.approx((*other.states, *other.outputs, *other.noises))


def test_the_energy_score_prefers_the_law_itself():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(500, 2, generator=g), torch.randn(400, 2, generator=g)
    assert inverse.energy_score(x, y) < min(inverse.energy_score(0.5 * x, y), inverse.energy_score(x + 0.5, y))


def test_a_fit_lowers_the_error_on_problems_held_back(mixture):
    """Of simulated items alone, one draw of each posterior; judged by exact draws of posteriors of other problems."""
    examples = [(*mixture(seed)[:2], mixture(seed)[0].sample(1, seed)) for seed in (20, 21, 22)]
    start = inverse.Levels(100.0, 0.02, 7.0, 0.1)
    best, before, after = inverse.fit(examples, 6, start, n=48, rounds=1, twist="covariance")
    assert after < before
    errors = []
    for levels in (start, best):
        total = 0.0
        for seed in (31, 32, 33):
            prior, measurement, posterior = mixture(seed)
            plan = levels.plan(prior.path, 6)
            made = inverse.solve(prior, measurement, "tds", n=150, nfe=6, noise=Bulk, twist="covariance", plan=plan)
            assert made.plan.nfe == 6
            total += inverse.energy_score(made.samples, posterior.sample(150, 1))
        errors.append(total)
    assert errors[1] < 0.97 * errors[0]


def test_a_plan_is_taken_from_its_file(mixture, tmp_path):
    prior, measurement, _ = mixture(0)
    plan = inverse.Levels(50.0, 0.1, 7.0, 0.5).plan(prior.path, 5)
    plan.save(tmp_path / "plan.json")
    made = [inverse.solve(prior, measurement, "tds", 8, 5, plan=one) for one in (plan, str(tmp_path / "plan.json"))]
    assert torch.equal(made[0].samples, made[1].samples)
    assert made[0].ledger.evaluations["mixture"] == 5


def test_mistakes_are_mended():
    with pytest.raises(BadValue, match="high > low"):
        inverse.Levels(0.1, 1.0).plan(rg.paths.VP(), 5)
    with pytest.raises(BadValue, match="examples"):
        inverse.fit([], 5, inverse.Levels(10.0, 0.1))


def test_a_start_that_makes_no_plan_is_named(mixture):
    prior, measurement, posterior = mixture(0)
    with pytest.raises(BadValue, match="high > low"):
        inverse.fit([(prior, measurement, posterior.sample(1, 0))], 5, inverse.Levels(0.1, 1.0))
