"""Descent through a whole run: any plan, any differentiable loss, never worse on validation."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde import laws
from retrograde.correction import Correction
from retrograde.errors import BadValue
from retrograde.quality import sliced_wasserstein
from retrograde.tune import Features, Sliced, distance, polish, teach

QUICK = {"steps": 30, "items": 128, "validation": 64, "levels": 24, "seed": 1}


@pytest.fixture(scope="module")
def mixture():
    means = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    return rg.oracles.GaussianMixture(rg.paths.EDM(), means, 0.05)


@pytest.fixture(scope="module")
def recipe(mixture):
    return rg.plan("dpmpp_2m", mixture, nfe=4, grid="karras")


def held_out(den, plan, loss=distance):
    goal = teach(den, 200, 9, levels=60, keep=()).end
    return float(loss(rg.sample(den, plan, n=200, seed=9), goal))


def test_a_published_plan_comes_nearer_to_the_fine_solver_on_noise_it_has_not_seen(mixture, recipe):
    made = polish(mixture, recipe, rates={"coefficients": 1e-2}, **QUICK)
    assert made.report["loss"]["after"] < 0.7 * made.report["loss"]["before"]
    assert held_out(mixture, made) < 0.8 * held_out(mixture, recipe)
    assert made.times == recipe.times
    assert [len(row.outputs) for row in made.rows] == [len(row.outputs) for row in recipe.rows]
    assert all(isinstance(c, float) for row in made.rows for c in (*row.states, *row.outputs))


def test_it_descends_on_the_loss_it_is_given(mixture, recipe):
    first = Features(lambda x: x[:, :2])
    made = polish(mixture, recipe, first, **QUICK)
    usual = polish(mixture, recipe, **QUICK)
    assert held_out(mixture, made, first) < held_out(mixture, usual, first) < held_out(mixture, recipe, first)


def test_the_law_alone_may_be_asked_for(mixture, recipe):
    made = polish(mixture, recipe, Sliced(), batch=128, **QUICK)
    exact = mixture.sample(1000)
    before, after = (sliced_wasserstein(rg.sample(mixture, p, n=1000, seed=2), exact).value for p in (recipe, made))
    assert after < 0.9 * before


def test_the_sliced_distance_knows_sets_and_not_pairs():
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert float(Sliced()(x, x[torch.randperm(50)])) == pytest.approx(0.0, abs=1e-12)
    shift = torch.tensor([0.7, 0.0, 0.0])
    # the mean over directions of (u . shift)^2 is |shift|^2 / d
    assert float(Sliced(directions=20_000)(x, x + shift)) == pytest.approx(0.49 / 3, rel=0.03)


def test_a_descent_that_goes_astray_returns_the_plan_it_began_with(mixture, recipe):
    made = polish(mixture, recipe, rates={"coefficients": 30.0}, **{**QUICK, "steps": 5})
    assert made.report["loss"]["after"] == made.report["loss"]["before"]
    assert made == recipe


def test_corrections_learn_through_the_rows_that_follow(mixture, recipe):
    generator = torch.Generator().manual_seed(0)
    empty = Correction.initial((8,), 2, {}, width=16, depth=1, generator=generator)
    rows = (recipe.rows[0], dataclasses.replace(recipe.rows[1], correction=empty), *recipe.rows[2:])
    plan = dataclasses.replace(recipe, rows=rows, misses=(laws.POINT_MASS,))
    made = polish(mixture, plan, rates={"corrections": 1e-2}, **QUICK)
    assert made.report["loss"]["after"] < 0.9 * made.report["loss"]["before"]
    assert made.rows[0] == recipe.rows[0]
    assert float(made.rows[1].correction.weights["out"].abs().max()) > 0.0
    assert float(empty.weights["out"].abs().max()) == 0.0


def test_polished_plans_come_back_from_a_file(mixture, recipe, tmp_path):
    made = polish(mixture, recipe, **{**QUICK, "steps": 2})
    made.save(tmp_path / "plan.json")
    assert rg.Plan.load(tmp_path / "plan.json") == made
    assert rg.Plan.load(tmp_path / "plan.json").provenance["polished"]["steps"] == 2


@pytest.mark.parametrize("given", [{"steps": 0}, {"batch": 0}, {"rates": {"levels": 1.0}}, {"rates": {"corrections": 1.0}}])
def test_what_makes_no_sense_is_refused(mixture, recipe, given):
    with pytest.raises(BadValue, match=next(iter(given))):
        polish(mixture, recipe, **{**QUICK, **given})
