"""Sampling in parallel along time: the sequential run, in fewer rounds of more evaluations."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue

picard = rg.accelerate.picard
N = 12


@pytest.fixture(scope="module")
def oracle(mixture) -> rg.oracles.GaussianMixture:
    return mixture(rg.paths.VP(), "noise")


@pytest.mark.parametrize("recipe", ["ddim", "ddpm", "dpmpp_2m", "heun"])
def test_it_is_the_sequential_run_after_at_most_as_many_rounds(recipe, oracle):
    plan = rg.plan(recipe, oracle.path, nfe=N)
    alone = rg.sample(oracle, plan, 3, 1, dtype=torch.float64)
    for options in ({}, {"window": 4}, {"anderson": 3}):
        swept = picard(oracle, plan, 3, 1, tolerance=0.0, dtype=torch.float64, **options)
        assert torch.allclose(swept.samples, alone, atol=1e-12)
        assert int(swept.rounds.max()) <= plan.nfe
    swept = picard(oracle, plan, 3, 1, window=1, dtype=torch.float64)
    assert torch.equal(swept.samples, alone)  # one row after another is the sampler itself
    assert swept.rounds.tolist() == 3 * [plan.nfe]
    assert swept.ledger.nfe == plan.nfe


@pytest.mark.parametrize("recipe", ["ddim", "ddpm"])
def test_a_tolerance_takes_fewer_rounds_and_errs_by_as_little(recipe, oracle):
    """Fifty rows: the error stays in proportion to the tolerance, and the rounds fall."""
    plan = rg.plan(recipe, oracle.path, nfe=50)
    alone = rg.sample(oracle, plan, 4, dtype=torch.float64)
    before = 50
    for tolerance in (1e-5, 1e-3, 1e-1):
        swept = picard(oracle, plan, 4, tolerance=tolerance, dtype=torch.float64)
        assert float((swept.samples - alone).square().mean().sqrt()) < 10 * tolerance
        assert int(swept.rounds.max()) < before
        before = int(swept.rounds.max())
    assert before <= 12


def test_anderson_acceleration_takes_fewer_rounds(oracle):
    plan = rg.plan("ddim", oracle.path, nfe=50)
    alone = rg.sample(oracle, plan, 8, dtype=torch.float64)
    plain, mixed = (picard(oracle, plan, 8, tolerance=1e-6, anderson=m, dtype=torch.float64) for m in (0, 3))
    assert float(mixed.rounds.double().mean()) <= 0.85 * float(plain.rounds.double().mean())
    assert torch.allclose(mixed.samples, alone, atol=1e-4)


def test_items_are_alone_what_they_are_in_company(oracle):
    plan = rg.plan("ddpm", oracle.path, nfe=20)
    swept = picard(oracle, plan, 5, 2, window=6, anderson=2, dtype=torch.float64)
    assert len(set(swept.rounds.tolist())) > 1  # each has its own window
    for item in (0, 3):
        one = picard(oracle, plan, seed=2, items=[item], window=6, anderson=2, dtype=torch.float64)
        assert torch.allclose(one.samples[0], swept.samples[item], atol=1e-12)
        assert one.rounds[0] == swept.rounds[item]


def test_rounds_and_evaluations_are_those_of_the_network(dit):
    """Calls are rounds, and their items the evaluations; a window bounds them."""
    seen = []

    def counting(x_t, network_time, label):
        seen.append(len(x_t))
        return dit.network(x_t, network_time, label)

    plan = rg.plan("dpmpp_2m", dit.path, nfe=8)
    model = dataclasses.replace(dit, network=counting)
    swept = picard(model, plan, 2, 5, window=3, tolerance=1e-4, condition=[0, 1])
    assert len(seen) == int(swept.rounds.max()) <= 8
    assert max(seen) <= 2 * 3
    assert sum(seen) == pytest.approx(2 * swept.ledger.nfe)
    assert torch.allclose(swept.samples, rg.sample(dit, plan, 2, 5, condition=[0, 1]), atol=1e-2)


def test_guidance_with_a_weight_for_each_row(dit):
    """Rows of unlike knobs are asked in calls of their own, in one round."""
    plan = rg.plan("ddim", dit.path, nfe=6)
    rows = [dataclasses.replace(row, knobs={"guidance": 1.0 + k // 2}) for k, row in enumerate(plan.rows)]
    weighted = dataclasses.replace(plan, rows=tuple(rows))
    guided = rg.guide.cfg(dit, 1.5)
    for case in (plan, weighted):
        alone = rg.sample(guided, case, 2, condition=1)
        swept = picard(guided, case, 2, condition=1, tolerance=0.0)
        assert torch.allclose(swept.samples, alone, atol=1e-4)
        assert torch.equal(picard(guided, case, 2, condition=1, window=1).samples, alone)


def test_anchors_and_rows_with_a_time_of_their_own(mixture):
    """An anchored path; and rows that tell the network another time, which have calls of their own."""
    path = rg.paths.get("mean_reverting")()
    plan = rg.plan("ddpm", path, nfe=5)
    given = {"anchor": torch.tensor([0.5, -1.0]), "dtype": torch.float64}
    alone = rg.sample(mixture(path), plan, 2, **given)
    assert torch.allclose(picard(mixture(path), plan, 2, tolerance=0.0, **given).samples, alone, atol=1e-12)
    network = lambda x, t: torch.sin(x) * t[:, None]  # noqa: E731
    model = rg.Denoiser(network, rg.paths.VP(), "noise", (3,))
    plan = rg.plan("ddim", model.path, nfe=5)
    rows = [dataclasses.replace(row, network_time=0.1 * (k // 2)) for k, row in enumerate(plan.rows)]
    told = dataclasses.replace(plan, rows=tuple(rows))
    swept = picard(model, told, 2, tolerance=0.0)
    assert torch.allclose(swept.samples, rg.sample(model, told, 2), atol=1e-5)
    assert not torch.allclose(swept.samples, rg.sample(model, plan, 2), atol=1e-2)


def test_what_it_cannot_do_is_said(dit, oracle):
    plan = rg.plan("ddim", dit.path, nfe=4)
    with pytest.raises(BadType, match="remembers"):
        picard(rg.accelerate.block_cache(dit), rg.accelerate.every(plan, 2))
    with pytest.raises(BadValue, match="window=0"):
        picard(dit, plan, window=0)
    with pytest.raises(BadValue, match="controllers"):
        picard(dit, plan, controllers=[])
