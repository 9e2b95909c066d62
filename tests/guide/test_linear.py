"""LinearAG and the choice of guided rows, on mixtures whose branches are exact."""

import dataclasses
import itertools

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue

PATH = rg.paths.VP()
LABELS = [i % 4 for i in range(200)]
MEANS = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
DEN = rg.guide.cfg(rg.oracles.GaussianMixture(PATH, MEANS, 0.05, labels=[i % 4 for i in range(12)]), 2.0)
PLAN = rg.plan("ddim", PATH, nfe=12)


def with_knobs(plan, knobs):
    rows = [dataclasses.replace(row, knobs={**row.knobs, **knobs.get(k, {})}) for k, row in enumerate(plan.rows)]
    return dataclasses.replace(plan, rows=tuple(rows))


def test_fitted_rows_explain_what_they_do_not_ask_for():
    linear = rg.guide.linear(DEN)
    fitted = rg.guide.fit_linear(linear, PLAN, rows=[3, 5, 7], condition=LABELS, seed=1)
    assert all(part > 0.95 for part in fitted.provenance["linear guidance"].values())
    last = {"unconditional": {"conditional": [], "unconditional": [1.0]}}
    reused = with_knobs(PLAN, dict.fromkeys((3, 5, 7), last))
    full = rg.sample(DEN, PLAN, n=64, seed=9, condition=LABELS[:64])
    distances = []
    for plan in (fitted, reused):
        made = rg.record(linear, plan, n=64, seed=9, condition=LABELS[:64])
        assert dict(made.ledger.evaluations) == {"mixture:conditional": 12, "mixture:unconditional": 9}
        distances.append(float((made.samples - full).pow(2).mean().sqrt()))
    assert distances[0] < 0.5 * distances[1]


def test_rows_without_coefficients_are_guided_as_before():
    linear = rg.guide.linear(DEN)
    assert torch.equal(rg.sample(linear, PLAN, n=8, condition=LABELS[:8]), rg.sample(DEN, PLAN, n=8, condition=LABELS[:8]))
    # the conditional prediction in the place of the unconditional one: nothing to guide by
    same = {"unconditional": {"conditional": [1.0], "unconditional": []}}
    plain = with_knobs(PLAN, dict.fromkeys(range(12), same))
    made = rg.sample(linear, plain, n=8, condition=LABELS[:8], dtype=torch.float64)
    assert torch.allclose(made, rg.sample(DEN.inner, PLAN, n=8, condition=LABELS[:8], dtype=torch.float64), atol=1e-9)


def test_a_fitted_plan_survives_its_file(tmp_path):
    linear = rg.guide.linear(DEN)
    fitted = rg.guide.fit_linear(linear, PLAN, condition=LABELS)
    assert [k for k, row in enumerate(fitted.rows) if "unconditional" in row.knobs] == [1, 3, 5]
    fitted.save(tmp_path / "plan.json")
    loaded = rg.Plan.load(tmp_path / "plan.json")
    assert loaded == fitted
    one, other = (rg.sample(linear, plan, n=4, condition=LABELS[:4]) for plan in (fitted, loaded))
    assert torch.equal(one, other)


@pytest.mark.parametrize("guided", [2, 3])
def test_the_policy_is_the_best_of_all_patterns(guided):
    plan = rg.plan("ddim", PATH, nfe=6)
    condition = LABELS[:32]
    found = rg.guide.policy(DEN, plan, guided, condition=condition)
    goal = rg.sample(DEN, plan, n=32, condition=condition)

    def error(pattern):
        knobs = {k: {"guidance": 1.0} for k in range(6) if k not in pattern}
        return float((rg.sample(DEN, with_knobs(plan, knobs), n=32, condition=condition) - goal).pow(2).mean())

    best = min(itertools.combinations(range(6), guided), key=error)
    assert tuple(found.provenance["guidance policy"]["guided"]) == best
    assert rg.record(DEN, found, n=2, condition=[0, 1]).ledger.nfe == 6 + guided


def test_what_cannot_be_done_is_said():
    with pytest.raises(BadType, match="linear guidance of GaussianMixture"):
        rg.guide.linear(DEN.inner)
    with pytest.raises(BadValue, match="memory=0"):
        rg.guide.linear(DEN, memory=0)
    with pytest.raises(BadValue, match=r"rows \[0\]"):
        rg.guide.fit_linear(rg.guide.linear(DEN), PLAN, rows=[0], condition=LABELS)
    with pytest.raises(BadValue, match="guided=13"):
        rg.guide.policy(DEN, PLAN, 13)
    short = with_knobs(PLAN, {1: {"unconditional": {"conditional": [1.0], "unconditional": [0.5, 0.5]}}})
    with pytest.raises(BadValue, match="2 coefficients on unconditional predictions where 1"):
        rg.sample(rg.guide.linear(DEN), short, n=2, condition=[0, 1])
