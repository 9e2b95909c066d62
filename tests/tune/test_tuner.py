import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde import data
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.tune import Effort, Reference, plans, race, teach, tuner

SMALL = Effort(96, 24, 48, 48, 32, 8, 1, 20, 256, ("ddim", "dpmpp_2m", "unipc_3", "ipndm_2"))


@pytest.fixture(scope="module")
def held_out(mixture):
    n = 128
    return Reference(mixture, range(n), 11, teach(mixture, n, 11, levels=100).end)


def test_four_fitted_evaluations_beat_every_recipe_at_seven(mixture, held_out):
    plan = rg.tune(mixture, 4, seed=1, compare=False)
    assert plan.nfe == 4
    assert not plan.stochastic
    fitted = float(held_out.errors(plan).mean().sqrt())
    best = race(held_out, 7)[0]
    assert fitted < best.error, (fitted, best)


def test_one_evaluation_is_enough_for_gaussian_data(gaussian):
    plan = rg.tune(gaussian, 1, seed=0, compare=False)
    noise = next(rg.steps(rg.plan("ddim", gaussian, nfe=1), gaussian, 64, 5)).prediction.x_t
    exact = gaussian.flow(noise, 80.0, None)
    reference = Reference(gaussian, range(64), 5, exact)
    assert reference.errors(plan).mean().sqrt() < 0.1 * exact.std()
    assert reference.errors(rg.plan("ddim", gaussian, nfe=1)).mean().sqrt() > 0.5 * exact.std()


def test_the_same_seed_fits_the_same_plan(mixture):
    one, other = (rg.tune(mixture, 3, seed=2, effort=SMALL, compare=False) for _ in range(2))
    assert one == other
    assert rg.tune(mixture, 3, seed=3, effort=SMALL, compare=False) != one


def test_a_fitted_plan_survives_the_file(mixture, tmp_path):
    plan = rg.tune(mixture, 3, effort=SMALL, compare=False)
    assert any(row.shift is not None for row in plan.rows), "this fit starts below the noise end"
    plan.save(tmp_path / "plan.json")
    loaded = rg.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.report == plan.report
    assert torch.equal(rg.sample(mixture, loaded, n=3), rg.sample(mixture, plan, n=3))
    four = rg.sample(mixture, plan, n=4, batch_size=1)
    assert torch.allclose(four, rg.sample(mixture, plan, n=4), atol=1e-5)
    assert "map[64" in str(plan)
    (tmp_path / loaded_name(tmp_path)).unlink()
    with pytest.raises(BadValue, match="copy both files"):
        rg.Plan.load(tmp_path / "plan.json")


def loaded_name(folder):
    return next(file.name for file in folder.iterdir() if file.suffix == ".safetensors")


def test_the_report_holds_what_a_user_needs(mixture):
    told = []
    plan = rg.tune(mixture, 3, effort=SMALL, progress=lambda stage, part: told.append((stage, part)))
    report = plan.report
    assert report["returned"] == "fitted"
    assert 0 < report["median"] <= 2 * report["error"] < 1
    assert report["best_recipe"]["nfe"] == 3
    assert report["best_recipe_at_twice"]["nfe"] == 6
    assert report["error"] < report["best_recipe"]["error"]
    assert {entry["nfe"] for entry in report["recipes"]} == {3, 6}
    assert report["evaluations"] > 0
    assert report["seconds"] > 0
    assert {stage for stage, _ in told} >= {"reference trajectories", "noise levels", "coefficients", "done"}
    assert all(0.0 <= part <= 1.0 for _, part in told)


def test_progress_can_stop_the_race(mixture):
    """A page that is closed must not wait for the published solvers to finish."""

    class Stopped(Exception):
        pass

    told = []

    def progress(stage, part):
        told.append((stage, part))
        if stage == "published solvers" and part > 0.1:
            raise Stopped

    with pytest.raises(Stopped):
        rg.tune(mixture, 3, effort=SMALL, progress=progress)
    race = [part for stage, part in told if stage == "published solvers"]
    assert race == sorted(race)
    assert len(race) > 3
    assert race[-1] < 0.2


def test_a_fit_that_is_worse_is_not_returned(mixture, monkeypatch):
    bad = rg.plan("ddim", mixture, nfe=3, grid="sigma")
    monkeypatch.setattr(tuner, "select", lambda *asked: (bad, 99.0, 0))
    plan = rg.tune(mixture, 3, effort=SMALL)
    assert "better than the fit" in plan.report["returned"]
    assert plan.recipe != "fitted@1"
    assert plan.nfe == 3
    assert plan.report["error"] == pytest.approx(plan.report["best_recipe"]["error"], rel=0.5)


def test_conditions_and_guidance(mixture):
    labelled = dataclasses.replace(mixture, labels=[i % 2 for i in range(200)])
    guided = rg.guide.cfg(labelled, weight=2.0)
    plan = rg.tune(guided, 3, effort=SMALL, condition=lambda n, seed: [i % 2 for i in range(n)], compare=False)
    assert plan.nfe == 3
    assert torch.isfinite(rg.sample(guided, plan, n=4, condition=1)).all()


def test_bad_input(mixture):
    with pytest.raises(BadType, match="on_path"):
        rg.tune(dataclasses.replace(mixture, path=rg.paths.ResidualShift()), nfe=2)
    with pytest.raises(BadValue, match="nfe >= 1"):
        rg.tune(mixture, 0)
    with pytest.raises(UnknownName, match="seconds"):
        rg.tune(mixture, 3, effort="second")
    with pytest.raises(BadType, match=r"retrograde.Denoiser\("):
        rg.tune(lambda x, t: x, 3)


def test_the_contest_runs_equal_tables_once(mixture):
    entered = list(plans(mixture, 4, ["euler", "ipndm_1", "dpmpp_2m"], ["karras"]))
    assert [name for name, _, _ in entered] == ["euler", "dpmpp_2m"]
    twice = list(plans(mixture, 4, ["ddim", "ddim"], ["karras", "karras"]))
    assert len(twice) == 1


def test_the_race_is_ordered_and_its_finalists_ran_on_all_items(held_out):
    entries = race(held_out, 3, ["ddim", "dpmpp_2m"], first_heat=8, finalists=3)
    finalists, rest = entries[:3], entries[3:]
    assert [e.error for e in finalists] == sorted(e.error for e in finalists)
    assert {e.items for e in finalists} == {128}
    assert {e.items for e in rest} == {8}


def test_the_finalist_of_a_race_won_its_heat(held_out):
    names = ["heun", "ddim", "dpmpp_2m", "ipndm_2"]
    heat = held_out.part(8)
    errors = {(name, grid): float(heat.errors(plan).mean()) for name, grid, plan in plans(held_out.denoiser, 4, names)}
    won = race(held_out, 4, names, first_heat=8, finalists=1)[0]
    assert (won.recipe, won.grid) == min(errors, key=lambda entry: errors[entry])
    assert won.items == 128


def test_the_report_says_how_far_the_reference_itself_is_off(mixture):
    """Against a much finer solution: the estimate is not too small, and within an order of magnitude."""
    plan = rg.tune(mixture, 3, effort=SMALL, compare=False)
    items = range(tuner.ITEMS + SMALL.fit, tuner.ITEMS + SMALL.fit + SMALL.validation)
    fine, used = (teach(mixture, len(items), 0, levels=n, keep=(), first_item=items[0]).end for n in (600, SMALL.levels))
    truth = float((fine - used).double().square().mean().sqrt())
    assert truth < plan.report["reference_error"] < 10 * truth


@pytest.mark.slow
def test_corrections_learn_what_rows_leave():
    den = rg.load("digits8-flow")
    held_out = Reference(den, range(96), 11, teach(den, 96, 11, levels=64, keep=()).end)
    corrected = dataclasses.replace(SMALL, corrected=1024, lessons=1)
    plain, plan = (rg.tune(den, 3, seed=1, effort=effort, compare=False) for effort in (SMALL, corrected))
    assert all(row.correction is not None for row in plan.rows)
    assert plan.report["corrections"]["weights"] == sum(row.correction.parameters for row in plan.rows)
    assert 0 < plan.report["corrections"]["evaluations"] <= 0.1 * len(plan.rows)
    assert plain.report["corrections"] is None
    better, worse = (float(held_out.errors(p).mean().sqrt()) for p in (plan, plain))
    assert better < 0.9 * worse
    assert plan.report["evaluations"] > plain.report["evaluations"] + 1024 * 16


def test_corrections_are_told_the_conditions(mixture):
    labelled = dataclasses.replace(mixture, labels=[i % 2 for i in range(200)])
    effort = dataclasses.replace(SMALL, corrected=256, lessons=1, share=0.5)
    for condition in (lambda n, seed: [i % 2 for i in range(n)], 1):
        plan = rg.tune(labelled, 2, effort=effort, condition=condition, compare=False)
        if any(row.correction is not None for row in plan.rows):
            assert plan.rows[0].correction.conditions == ("label",)
        assert torch.isfinite(rg.sample(labelled, plan, n=4, condition=1)).all()


def test_a_plan_for_a_scheduler_begins_with_an_evaluation_and_is_told_no_conditions(labelled):
    """What a scheduler cannot run costs little where the noise end is far from the data."""
    from retrograde.interop.answered import check_answerable

    effort = dataclasses.replace(SMALL, corrected=128, lessons=1, share=1e9)
    asked = {"effort": effort, "condition": lambda n, seed: [i % 2 for i in range(n)], "compare": False, "seed": 1}
    free, bound = (rg.tune(labelled, 3, in_scheduler=flag, **asked) for flag in (False, True))
    assert free.rows[0].time is None
    check_answerable(bound)
    with pytest.raises(ValueError, match="first row|corrections are told"):
        check_answerable(free)
    assert bound.nfe == len(bound.rows) == 3
    assert bound.start == bound.rows[0].time
    assert labelled.path.s(bound.start) > 0.9
    best = race(Reference(labelled, range(64), 11, teach(labelled, 64, 11, levels=100).end), 3)[0]
    assert bound.report["error"] < min(best.error, 1.3 * free.report["error"])


@pytest.fixture(scope="module")
def labelled():
    """The sharp mixture on a variance-preserving path, each digit of one of two classes."""
    images, _ = data.digits8("train")
    labels = [i % 2 for i in range(200)]
    return rg.oracles.GaussianMixture(rg.paths.VP(), images[:200].flatten(1), 0.01, labels=labels)
