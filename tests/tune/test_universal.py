"""One fit for many budgets and guidance weights."""

import dataclasses
import json
import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, PlanError
from retrograde.tune import Effort, Reference, Universal, blend, shared_levels, teach, universal
from retrograde.tune.tuner import Job

SMALL = Effort(96, 32, 0, 32, 24, 6, 1, 6, 128, ("ddim", "dpmpp_2m"))
WEIGHTS = (1.0, 2.0, 4.0)


def labels(n, seed):
    return [i % 2 for i in range(n)]


ASKED = {"budgets": (2, 4), "guided": rg.guide.cfg, "weights": WEIGHTS, "effort": SMALL, "condition": labels}


@pytest.fixture(scope="module")
def labelled():
    generator = torch.Generator().manual_seed(5)
    return rg.oracles.GaussianMixture(rg.paths.VP(), torch.randn(8, 6, generator=generator), 0.02, labels=[0, 1] * 4)


@pytest.fixture(scope="module")
def fitted(labelled):
    return universal(labelled, **ASKED, compare=False)


def error(denoiser, plan, end):
    condition = rg.denoisers.prepare_condition(denoiser, labels(96, 0), 96)
    return float(Reference(denoiser, range(96), 9, end, condition).errors(plan).mean().sqrt())


def test_a_weight_in_between_is_served_without_a_fit(labelled, fitted):
    """Better than the tables beside it are on the mean, and than published solvers; no worse than a fit of its own."""
    guided = rg.guide.cfg(labelled, weight=3.0)
    end = teach(guided, 96, 9, levels=48, keep=(), condition=labels(96, 0)).end
    for nfe in (2, 4):
        made = error(guided, fitted.plan(nfe, weight=3.0), end)
        beside = [error(guided, fitted.plan(nfe, weight=w), end) for w in (2.0, 4.0)]
        assert made < math.prod(beside) ** 0.5
        assert made < 0.5 * min(error(guided, rg.plan(r, guided, nfe=nfe), end) for r in ("ddim", "dpmpp_2m", "dpmpp_3m"))
        own = rg.tune(guided, nfe, effort=dataclasses.replace(SMALL, held_out=8), condition=labels, compare=False)
        assert made < 1.1 * error(guided, own, end)


def test_budgets_are_exact_and_tables_survive_a_file(fitted, tmp_path):
    fitted.save(tmp_path / "tables")
    again = Universal.load(tmp_path / "tables")
    for nfe in (2, 4):
        for weight in (1.0, 1.7, 4.0):
            assert again.plan(nfe, weight).nfe == nfe
            assert again.plan(nfe, weight) == fitted.plan(nfe, weight)
    assert again.report == fitted.report
    assert again.weights == WEIGHTS


def test_a_fitted_weight_has_the_better_of_two_tables(fitted):
    """Levels are common to neighbouring weights alone."""
    for span in fitted.tables[4]:
        assert [row.time for row in span[0].rows] == [row.time for row in span[1].rows]
    one, other = fitted.tables[4][0]
    for errors, better in (((0.3, 0.2), other), ((0.2, 0.3), one)):
        report = {"validation_error": {"4": [[0.1, errors[0]], [errors[1], 0.1]]}}
        made = Universal(WEIGHTS, {4: ((other, one), (other, one))}, report)
        assert made.plan(4, 2.0) == better


def test_the_first_version_of_the_folder_is_read(fitted, tmp_path):
    """It held one plan for each weight, all on the same levels."""
    one, other = fitted.tables[2][0]
    one.save(tmp_path / "2-0.json")
    other.save(tmp_path / "2-1.json")
    report = {"validation_error": {"2": [0.1, 0.2]}}
    index = {"version": 1, "weights": [1.0, 2.0], "budgets": [2], "report": report}
    (tmp_path / "universal.json").write_text(json.dumps(index))
    made = Universal.load(tmp_path)
    assert [made.plan(2, 1.0), made.plan(2, 2.0)] == [one, other]
    assert made.plan(2, 1.3).rows == blend(one, other, 0.3).rows
    made.save(tmp_path / "again")
    assert Universal.load(tmp_path / "again").plan(2, 1.3) == made.plan(2, 1.3)


def test_a_search_begins_where_fewer_levels_were_good(labelled):
    """At the best of the sets with one level more, where it is better than what the surrogate begins with."""
    effort, good = dataclasses.replace(SMALL, candidates=0), (2, 6, 9, 16)
    job = Job(rg.guide.cfg(labelled, weight=2.0), 5, 0, effort, labels, lambda stage, part: None, "cpu")
    together = shared_levels.Together([shared_levels.Part.of(job, job.conditions())])
    wider = together.completed(good, 5, effort.levels)
    assert len(wider) > 1
    assert all(len(levels) == 5 and set(good) < set(levels) for levels in wider)
    best = min(wider, key=together)
    assert together(best) < 0.5 * together(together._levels(5, []))
    assert together._levels(5, [good]) == best


def test_levels_of_a_far_budget_do_not_keep_a_search_from_its_own_beginning(labelled):
    """Three levels that two more make better than the surrogate's, but no way leads on from there."""
    job = Job(rg.guide.cfg(labelled, weight=2.0), 5, 0, SMALL, labels, lambda stage, part: None, "cpu")
    part = shared_levels.Part.of(job, job.conditions())
    found = []
    for near in ([], [(1, 12, 13)]):
        together = shared_levels.Together([part])
        found.append(together(together._levels(5, near)))
    inserted = together.completed((1, 12, 13), 5, SMALL.levels)
    begun = dataclasses.replace(together, scores={})
    assert begun(begun._refined(min(inserted, key=begun), 5, SMALL.levels, cold=False)) > 1.2 * found[0]
    assert found[1] <= found[0]


def test_an_interrupted_fit_goes_on_where_it_was(labelled, fitted, tmp_path):
    seen = []

    def stop(stage, part):
        seen.append(stage)
        if stage == "levels of 4":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        universal(labelled, **ASKED, compare=False, journal=tmp_path / "fit", progress=stop)
    assert "levels of 2" in seen
    seen.clear()
    again = universal(labelled, **ASKED, compare=False, journal=tmp_path / "fit", progress=lambda s, p: seen.append(s))
    assert "levels of 2" not in seen
    assert "reference trajectories" not in seen
    assert all(again.plan(n, w) == fitted.plan(n, w) for n in (2, 4) for w in WEIGHTS)
    assert again.report["evaluations"] >= fitted.report["evaluations"]
    assert not (tmp_path / "fit").exists()


def test_a_published_solver_that_is_better_is_the_table(labelled, monkeypatch):
    bad = rg.plan("ddim", labelled, nfe=3, grid="sigma")
    monkeypatch.setattr(shared_levels.Part, "fit", lambda self, levels, element: (bad, 99.0))
    made = universal(labelled, **ASKED | {"budgets": (3,)})
    assert made.plan(3, 1.0) != bad
    assert made.plan(3, 1.0) == made.plan(3, 4.0) == dataclasses.replace(made.plan(3, 3.0), provenance={})
    assert all(name.split("@")[0] in SMALL.contest for name in made.report["recipes"]["3"])


def test_a_blend_does_what_both_do(fitted):
    """Rows are linear in their coefficients: from the same past, the blend's state is the blend of the states."""
    one, other = fitted.plan(4, 1.0), fitted.plan(4, 2.0)
    mixed = blend(one, other, 0.3)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(1))
    first = [plan.rows[0] for plan in (one, other, mixed)]
    made = [row.states[0](x) + row.shift for row in first]
    assert (made[0] - made[1]).abs().max() > 1e-3
    assert torch.allclose(made[2], 0.7 * made[0] + 0.3 * made[1], atol=1e-6)
    basis = first[2].states[0].basis
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
    assert mixed.rows[2].outputs[0] == pytest.approx(0.7 * one.rows[2].outputs[0] + 0.3 * other.rows[2].outputs[0])
    with pytest.raises(PlanError, match="same levels"):
        blend(one, fitted.plan(2, 2.0), 0.5)
    again = dataclasses.replace(other.rows[1], renoise=True)
    with pytest.raises(PlanError, match="same levels"):
        blend(one, dataclasses.replace(other, rows=(other.rows[0], again, *other.rows[2:])), 0.5)


def test_bad_input(labelled, fitted):
    with pytest.raises(BadValue, match=r"\[2, 4\]"):
        fitted.plan(3, 2.0)
    with pytest.raises(BadValue, match="1 <= weight <= 4"):
        fitted.plan(2, 9.0)
    with pytest.raises(BadValue, match="weight=None"):
        fitted.plan(2)
    with pytest.raises(BadValue, match="whole numbers"):
        universal(labelled, budgets=(0, 3))
    with pytest.raises(BadValue, match="one guidance weight"):
        universal(labelled, guided=rg.guide.cfg, weights=())


def test_a_denoiser_without_guidance_has_one_table_for_each_budget(labelled):
    made = universal(labelled, (1, 2), effort=SMALL, compare=False)
    assert [made.plan(n).nfe for n in (1, 2)] == [1, 2]
