"""Inner loop feedback: the cache while nothing is learned, and nearer to the network once something is."""

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadType, BadValue

PLAN = rg.accelerate.every(rg.plan("ddim", rg.paths.Flow(), nfe=6), 2)


def labels(n: int) -> list[int]:
    return [k % 3 for k in range(n)]


@pytest.fixture(scope="module")
def taught(dit) -> rg.accelerate.Feedback:
    """A second of training or less, on 24 trajectories."""
    return rg.train.fit_feedback(dit, PLAN, 3, items=24, condition=labels(24), steps=30, batch=8, rate=5e-3)


def test_untaught_it_is_the_cache_bit_by_bit(dit):
    policy = rg.accelerate.inner_loop(dit, rg.accelerate.feedback(dit, 3))
    cached = rg.accelerate.block_cache(dit, [0, 1, 2])
    for guided in (lambda d: d, lambda d: rg.guide.cfg(d, 2.0)):
        made = rg.sample(guided(policy), PLAN, 3, condition=labels(3))
        assert torch.equal(made, rg.sample(guided(cached), PLAN, 3, condition=labels(3)))


def test_a_row_that_reuses_costs_the_last_blocks_and_one_more(dit, taught):
    policy = rg.accelerate.inner_loop(dit, taught)
    with sites.counted(dit.network) as book:
        rg.sample(policy, PLAN, 2)
    full = rg.sites.cost(dit, rg.accelerate.every(PLAN, 1), 2)
    assert [book.calls[f"transformer.transformer_blocks.{k}"] for k in range(5)] == [3, 3, 3, 6, 6]
    block = book.per_item["transformer.transformer_blocks.4"]
    assert book.total / 2 == pytest.approx(full.macs - 3 * (3 - 1) * block, rel=1e-9)
    assert book.saved / 2 == pytest.approx(9 * block, rel=1e-9)


def test_taught_it_errs_less_than_the_cache_in_the_rows_that_reuse(dit, taught):
    """On noise it has not seen; its own error at one step, and that of the samples."""
    full = rg.record(dit, rg.accelerate.every(PLAN, 1), 24, 7, condition=labels(24))
    cache, policy = rg.accelerate.block_cache(dit, [0, 1, 2]), rg.accelerate.inner_loop(dit, taught)
    errors = []
    for one in (policy, cache):
        made = rg.record(one, PLAN, 24, 7, condition=labels(24))
        step = made.trajectory[2] - full.trajectory[2]  # after the first row that reuses
        errors.append((float(step.square().mean().sqrt()), float((made.samples - full.samples).square().mean().sqrt())))
    assert errors[0][0] < 0.6 * errors[1][0]
    assert errors[0][1] < 0.6 * errors[1][1]


def test_teaching_leaves_the_network_as_it_was_and_is_told_what_to_reuse(dit, taught):
    assert all(parameter.grad is None for parameter in dit.network.parameters())
    assert float(taught.gain) != 0.0
    with pytest.raises(BadValue, match="0 rows that reuse"):
        rg.train.fit_feedback(dit, rg.accelerate.every(PLAN, 1), 3)
    with pytest.raises(BadValue, match=r"1\.\.4"):
        rg.accelerate.feedback(dit, 5)


def test_a_plan_that_begins_with_a_row_that_reuses_is_full_there_as_in_the_run(dit):
    given = {"items": 4, "steps": 2, "batch": 2, "rate": 0.1}
    cut = PLAN[1:]
    assert cut.rows[0].knobs == {"reuse": True}
    one, other = (rg.train.fit_feedback(dit, plan, 3, **given) for plan in (cut, rg.accelerate.reuse(cut, [1, 3])))
    assert float(one.gain) != 0.0
    assert float(one.gain) == float(other.gain)
    with pytest.raises(BadValue, match="0 rows that reuse"):
        rg.train.fit_feedback(dit, cut[:1], 3)


def test_it_refuses_networks_without_a_chain(den):
    with pytest.raises(BadType, match="no chain"):
        rg.accelerate.feedback(den, 1)
