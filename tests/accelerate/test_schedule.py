"""Columns that say where to reuse: their numbers, and that they are the plan's."""

import pytest

import retrograde as rg
from retrograde.accelerate.schedule import asking
from retrograde.errors import BadValue

PLAN = rg.plan("ddim", rg.paths.VP(), nfe=50)


def full(plan: rg.Plan) -> list[int]:
    rows = [plan.rows[k] for k in asking(plan)]
    return [k for k, row in enumerate(rows) if "reuse" not in row.knobs]


@pytest.mark.parametrize("interval", [1, 2, 3, 7, 60])
def test_every_nth_evaluation_is_full(interval):
    assert full(rg.accelerate.every(PLAN, interval)) == list(range(0, 50, interval))


def test_a_warm_up_is_full():
    assert full(rg.accelerate.every(PLAN, 10, begin=3)) == [0, 1, 2, 3, 13, 23, 33, 43]


def test_the_published_example_of_the_non_uniform_schedule():
    """T=50, 10 full, c=15, p=1.4, by the paper's formula, where the root of -c is minus the root of c: dense around 15.

    The authors' code takes the real part of a complex power and gives 0,5,9,13,17,21,26,31,37,43, hardly denser there.
    """
    numbers = full(rg.accelerate.centred(PLAN, 10, centre=15, power=1.4))
    assert numbers == [0, 5, 10, 13, 15, 19, 24, 29, 35, 42]
    gaps = [b - a for a, b in zip(numbers, numbers[1:], strict=False)]
    assert min(gaps) == gaps[numbers.index(15) - 1]
    assert max(gaps) == gaps[-1]


@pytest.mark.parametrize("count", range(1, 51))
def test_as_many_are_full_as_were_asked(count):
    plan = rg.accelerate.centred(PLAN, count)
    assert len(full(plan)) == count or (0 in full(plan) and len(full(plan)) == count + 1)
    assert full(plan)[0] == 0


def test_rows_that_ask_nothing_are_not_numbered():
    plan = rg.plan("pndm", rg.paths.VP(), nfe=16) if "pndm" in rg.recipes.names() else PLAN
    made = rg.accelerate.every(plan, 2)
    assert sum("reuse" in row.knobs for row in made.rows) == plan.nfe // 2
    assert not any("reuse" in row.knobs for row in made.rows if row.time is None)


def test_the_column_is_saved_with_the_plan(tmp_path):
    plan = rg.accelerate.reuse(PLAN, [0, 5, 9], value=2)
    plan.save(tmp_path / "plan.json")
    again = rg.Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert full(again) == [0, 5, 9]
    assert again.rows[1].knobs == {"reuse": 2}
    assert rg.accelerate.every(again, 1) == PLAN


def test_mistakes_are_explained():
    with pytest.raises(BadValue, match="evaluation 50 of 50"):
        rg.accelerate.reuse(PLAN, [50])
    with pytest.raises(BadValue, match="interval=0"):
        rg.accelerate.every(PLAN, 0)
    with pytest.raises(BadValue, match="full=0"):
        rg.accelerate.centred(PLAN, 0)
