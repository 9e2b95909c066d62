"""DeepCache: exact where nothing changed, as cheap as its share, close as its interval is short."""

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadValue

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("branch", [0, 1, 2])
def test_unchanged_inputs_give_the_full_output_and_cost_the_shallow_share(branch, den):
    """On a row that reuses, at the state and time of the full row before it, the output is the full one's."""
    cached = rg.accelerate.deepcache(den, branch)
    condition = rg.denoisers.prepare_condition(den, [0, 1, 2], 3)
    with sites.counted(den.network) as book:
        whole = cached.predict(X, 0.5, condition)
        full = book.total
        again = cached.predict(X, 0.5, condition, {"reuse": True, "carried": whole.carried})
    assert torch.equal(again.value, whole.value)
    moved = cached.predict(X + 1, 0.4, condition, {"reuse": True, "carried": whole.carried})
    assert not torch.equal(moved.value, den.predict(X + 1, 0.4, condition).value)
    ladder = sites.places_of(den).ladder
    below = sum(book.macs[site] for site in ladder.below(branch))
    assert 0.1 * full < below < full
    assert book.total == 2 * full - below
    assert book.saved == below
    assert set(book.spared) == set(ladder.below(branch))


def test_without_the_column_it_is_the_denoiser_bit_by_bit_and_so_with_interval_one(den):
    cached, plan = rg.accelerate.deepcache(den), rg.plan("unipc_3", den.path, nfe=8)
    assert torch.equal(rg.sample(cached, plan, 2), rg.sample(den, plan, 2))
    assert torch.equal(rg.sample(cached, rg.accelerate.every(plan, 1), 2), rg.sample(den, plan, 2))


def errors(digits: rg.Denoiser, runs: list[tuple[int, int]]) -> list[float]:
    plan = rg.plan("ddim", digits.path, nfe=20)
    x = rg.sample(digits, plan, 8, condition=3)
    made = [rg.sample(rg.accelerate.deepcache(digits, b), rg.accelerate.every(plan, k), 8, condition=3) for b, k in runs]
    return [float((m - x).square().mean().sqrt()) for m in made]


def test_the_error_grows_with_the_interval_and_falls_with_the_branch(digits):
    grown = errors(digits, [(0, 2), (0, 3), (0, 5), (0, 10)])
    assert grown == sorted(grown)
    fallen = errors(digits, [(0, 5), (1, 5), (2, 5)])
    assert fallen == sorted(fallen, reverse=True)


def test_rows_may_name_their_branch(den):
    plan = rg.plan("ddim", den.path, nfe=6)
    cached = rg.accelerate.deepcache(den, 0, branches=(2,))
    deep, shallow = (rg.sample(cached, rg.accelerate.every(plan, 3, value), 2) for value in (2, 0))
    assert torch.equal(deep, rg.sample(rg.accelerate.deepcache(den, 2), rg.accelerate.every(plan, 3), 2))
    assert torch.equal(shallow, rg.sample(rg.accelerate.deepcache(den, 0), rg.accelerate.every(plan, 3), 2))
    with pytest.raises(BadValue, match="branch 1"):
        rg.sample(cached, rg.accelerate.every(plan, 3, 1), 2)
    with pytest.raises(BadValue, match="branch 3"):
        rg.accelerate.deepcache(den, 3)


def test_a_plan_cut_to_begin_where_it_reuses_computes_there_first(den):
    plan = rg.accelerate.every(rg.plan("ddim", den.path, nfe=6), 3)
    cut = plan[1:]
    recorded = rg.record(rg.accelerate.deepcache(den), cut, 2)
    assert dict(recorded.ledger.evaluations) == {"network": 2, "network:deepcache": 3}
    again = rg.sample(rg.accelerate.deepcache(den), cut, 2)
    assert torch.equal(again, recorded.samples)
