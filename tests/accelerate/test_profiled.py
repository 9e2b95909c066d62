"""Columns chosen by a profile of the model."""

import pytest
import torch

import retrograde as rg
from retrograde.accelerate.profiled import fitted_change
from retrograde.errors import BadValue

PLAN = rg.plan("ddim", rg.paths.Flow(), nfe=10)


def full(plan: rg.Plan) -> list[int]:
    return [k for k, row in enumerate(plan.rows) if "reuse" not in row.knobs]


def test_magnitudes_that_do_not_change_are_reused_as_often_as_allowed():
    assert full(rg.accelerate.magcache(PLAN, [1.0] * 10, most=3, retention=0.2)) == [0, 1, 5, 9]
    assert full(rg.accelerate.magcache(PLAN, [1.0] * 10, most=100, retention=0.0)) == [0]
    assert full(rg.accelerate.magcache(PLAN, [1.0] * 10, threshold=0.0)) == list(range(10))


def test_the_drift_adds_up():
    """Ratios of 0.98: |1 - 0.98| + |1 - 0.98^2| = 0.0596 < 0.06, a third would pass it."""
    assert full(rg.accelerate.magcache(PLAN, [1.0, *[0.98] * 9], threshold=0.06, most=9, retention=0.0)) == [0, 3, 6, 9]


def test_measured_ratios_make_a_plan_that_runs(dit):
    ratios = rg.accelerate.magnitudes(dit, PLAN, condition=1)
    assert len(ratios) == 10
    assert ratios[0] == 1.0
    assert all(0.5 < r < 2 for r in ratios)
    plan = rg.accelerate.magcache(PLAN, ratios, threshold=0.2)
    assert 0 < len(full(plan)) < 10
    cached = rg.accelerate.block_cache(dit)
    assert not torch.equal(rg.sample(cached, plan, 2), rg.sample(dit, PLAN, 2))
    nothing = rg.accelerate.magcache(PLAN, ratios, threshold=0.0)
    assert nothing == PLAN
    with pytest.raises(BadValue, match="9 ratios for 10"):
        rg.accelerate.magcache(PLAN, ratios[1:])


def test_the_change_of_the_signal_is_fitted_to_that_of_the_blocks(dit):
    coefficients = fitted_change(dit, PLAN, degree=1, condition=1)
    assert len(coefficients) == 2
    assert all(abs(c) < 10 for c in coefficients)
    constant = fitted_change(dit, PLAN, degree=0, condition=1)
    assert 0 < constant[0] < 1
    cached = rg.accelerate.teacache(dit, 0.3, coefficients)
    assert rg.sample(cached, PLAN, 2).isfinite().all()


def test_the_steadiest_are_as_many_as_asked(dit):
    assert rg.accelerate.steadiest(dit, PLAN, 0) == ()
    assert rg.accelerate.steadiest(dit, PLAN, 5) == (0, 1, 2, 3, 4)
    with pytest.raises(BadValue, match="6 of 5"):
        rg.accelerate.steadiest(dit, PLAN, 6)
