"""Caches that go wrong elsewhere: complaints 43 to 47 of docs/complaints.md."""

import threading

import pytest
import torch

import retrograde as rg
from retrograde.errors import ShapeError
from retrograde.interop.inpainting import PutBack

accelerate = rg.accelerate
X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def caches(den, dit) -> list[tuple]:
    """Every cache at work, with its model and its column."""
    third = lambda plan: accelerate.every(plan, 3)  # noqa: E731
    return [
        (den, accelerate.deepcache(den), third),
        (den, accelerate.encoder_cache(den), third),
        (dit, accelerate.block_cache(dit), third),
        (dit, accelerate.first_block(dit, 0.3), lambda plan: plan),
        (dit, accelerate.teacache(dit, 1.0), lambda plan: plan),
    ]


def runs(den, plan):
    """Ways to run that a pipeline would write one by one."""
    hole = PutBack(plan.path, X, (X > 0).to(X), X.flip(0))
    mid = plan[3:]
    for state in rg.steps(plan, den, 3, condition=1):
        if state.index == 2:
            break
    return {
        "from noise": lambda d: rg.sample(d, plan, 3, condition=1),
        "from an image": lambda d: rg.sample(d, plan.from_noise(1.0), signal=X, condition=1),
        "around a hole": lambda d: rg.sample(d, plan, 3, condition=1, controllers=[hole]),
        "guided": lambda d: rg.sample(rg.guide.cfg(d, 2.0), plan, 3, condition=[0, 1, 2]),
        "recorded": lambda d: rg.record(d, plan, 3, condition=1).samples,
        "in parts": lambda d: rg.sample(d, plan, 3, condition=1, batch_size=2),
        "cut": lambda d: rg.sample(d, mid, 3, condition=1, state=state),
    }


def test_a_cache_is_there_however_the_run_was_made(den, dit):
    """And changes it: none of the ways forgets to set it up, and none fails for want of it."""
    for model, cached, column in caches(den, dit):
        plan = rg.plan("dpmpp_2m", model.path, nfe=6)
        plain, at_work = runs(model, plan), runs(cached, column(plan))
        for way, run in plain.items():
            made = at_work[way](cached)
            assert made.isfinite().all(), way
            assert not torch.equal(made, run(model)), way


def test_a_cache_serves_one_number_of_steps_and_one_batch_after_another(den, dit):
    """It need not know how many steps will come, and nothing of one request is left to the next."""
    for model, cached, column in caches(den, dit):
        plans = [column(rg.plan("dpmpp_2m", model.path, nfe=nfe)) for nfe in (4, 9, 6)]
        first = [rg.sample(cached, plan, n, seed=n, condition=1) for n, plan in zip((1, 3, 2), plans, strict=True)]
        again = [rg.sample(cached, plan, n, seed=n, condition=1) for n, plan in zip((2, 3, 1), plans[::-1], strict=True)]
        for one, other in zip(first, again[::-1], strict=True):
            assert torch.equal(one, other)


def test_what_is_reused_again_and_again_is_added_once(den, dit):
    """Four reuses in a row at one state and time give the full output each time: no residual piles up."""
    for model, make in ((den, accelerate.deepcache), (den, accelerate.encoder_cache), (dit, accelerate.block_cache)):
        cached = make(model)
        condition = rg.denoisers.prepare_condition(model, [0, 1, 2], 3)
        full = made = cached.predict(X, 0.5, condition)
        for _ in range(4):
            made = cached.predict(X, 0.5, condition, {"reuse": True, "carried": made.carried})
            torch.testing.assert_close(made.value, full.value, rtol=1e-5, atol=1e-6)


def test_in_few_steps_a_column_reuses_what_it_says_and_a_threshold_reuses_less(den, dit):
    """Steps that are far apart change features much: the threshold sees it, the column is for the user to write."""
    four, many = (rg.plan("ddim", dit.path, nfe=nfe) for nfe in (4, 60))
    shares = []
    for plan in (four, many):
        ledger = rg.record(accelerate.first_block(dit, 0.05), plan, 2, condition=1).ledger
        asked = {label: count for label, count in ledger.evaluations.items() if "first_block" in label}
        shares.append(sum(asked.values()) / plan.nfe)
    assert shares[0] == 0.0
    assert shares[1] > 0.3
    column = accelerate.every(rg.plan("ddim", den.path, nfe=4), 2)
    assert dict(rg.record(accelerate.deepcache(den), column, 2).ledger.evaluations) == {"network": 2, "network:deepcache": 2}


def test_items_on_many_workers_are_those_of_one(den):
    """Parallel here is by items; with the same batches on each worker to the last bit, as one would have them."""
    plan = accelerate.every(rg.plan("dpmpp_2m_sde", den.path, nfe=6), 3)
    cached = accelerate.deepcache(den)
    alone = rg.sample(cached, plan, 6, seed=4, condition=[0, 1, 2, 0, 1, 2], batch_size=2)
    made = {}

    def work(first: int) -> None:
        labels = [0, 1, 2, 0, 1, 2][first : first + 2]
        made[first] = rg.sample(cached, plan, 2, seed=4, items=[first, first + 1], condition=labels)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 2, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.cat([made[first] for first in (0, 2, 4)]), alone)


def test_a_controller_that_knows_items_refuses_batches_it_does_not_know(den):
    """What is put back is of three items: in batches of one it would be put back into the wrong ones."""
    plan = rg.plan("ddim", den.path, nfe=3)
    hole = PutBack(plan.path, X, torch.ones_like(X), X)
    assert rg.sample(den, plan, 3, controllers=[hole]).shape == X.shape
    with pytest.raises(ShapeError, match="batch_size"):
        rg.sample(den, plan, 3, controllers=[hole], batch_size=1)
