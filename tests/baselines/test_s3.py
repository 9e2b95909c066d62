"""S3: programs of solvers against single ones, and what the predictor is worth."""

import random

import pytest
import torch

import retrograde as rg
from retrograde.baselines import Rounds, s3
from retrograde.baselines.programs import CHOICES, SINGLE, Schedule, Step, child, first
from retrograde.baselines.ranking import ranked
from retrograde.errors import BadValue
from retrograde.tune import Reference, teach
from retrograde.tune.teacher import levels_of

SOLVERS = ("ddim", "dpmpp_2m", "dpmpp_3m", "deis_tab2", "deis_tab3", "unipc_2", "unipc_3", "plms")
GRIDS = ("karras", "log_snr", "quadratic", "uniform")


@pytest.fixture(scope="module")
def mixture():
    generator = torch.Generator().manual_seed(3)
    return rg.oracles.GaussianMixture(rg.paths.VP(), torch.randn(5, 4, generator=generator), 0.05)


@pytest.fixture(scope="module")
def fresh(mixture):
    """Scores on noise that no search has seen."""
    reference = Reference(mixture, range(64), 9, teach(mixture, 64, 9, levels=128, keep=()).end)
    return lambda plan: float(reference.errors(plan).mean().sqrt())


@pytest.mark.parametrize("nfe", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 6, 7, 8))])
def test_it_is_at_least_as_good_as_every_single_solver(mixture, fresh, nfe):
    """The entry's check, and stricter: on fresh noise, better than each of them on each of four grids."""
    few = {"rounds": Rounds(120, 50, 4, 200), "n": 32} if nfe == 4 else {}
    made = s3(mixture, nfe, **few)
    single = min(
        fresh(rg.plan(r, mixture, nfe=nfe, grid=g)) for r in SOLVERS for g in ("karras", "log_snr", "quadratic", "uniform")
    )
    assert made.nfe == nfe
    assert made.report["tried"] <= 300
    assert fresh(made) < single


@pytest.mark.parametrize(("step", "recipe"), [(Step(), "ddim"), (Step(2, relaxation="dpmsolver-2"), "dpmpp_2m")])
def test_one_solver_in_every_step_is_that_solver(mixture, step, recipe):
    times = levels_of(mixture, 30)
    places = (0, 9, 14, 20, 29)
    made = Schedule(places, (step,) * 4).plan(mixture, times)
    right = rg.plan(recipe, mixture, grid=[times[k] for k in places])[:-1]
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(5))
    ends = [[*rg.run(plan, mixture, x)][-1].x_t for plan in (made, right)]
    assert torch.allclose(*ends, rtol=0, atol=1e-5)


def test_every_program_is_a_table_of_its_budget(mixture):
    times, dice = levels_of(mixture, 30), random.Random(0)
    programs = [Schedule((0, 9, 14, 20, 29), (step,) * 4) for step in SINGLE]
    for _ in range(60):
        programs.append(child(programs[-5:], 30, 1.0, dice))
        plan = programs[-1].plan(mixture, times)
        assert plan.nfe == 4
        assert plan.rows[-1].next_time == times[-1]
    seen = {getattr(step, name) for name in CHOICES for one in programs for step in one.steps}
    assert seen == {one for every in CHOICES.values() for one in every}


def test_the_predictor_learns_a_rule_from_a_hundred_programs():
    """A rule of decisions and levels; how little true scores let it learn is in the docstring of `s3`."""

    def score(one):
        return sum(step.order != 2 for step in one.steps) + abs(one.places[2] - 20) / 10

    programs = list(dict.fromkeys(first(30, 4, 130, random.Random(1))))
    known, new = {one: score(one) for one in programs[:100]}, programs[100:]
    lams = [5.0 - 0.3 * k for k in range(30)]
    order = ranked(new, known, lams, 0, torch.Generator().manual_seed(0))
    half = len(order) // 2
    assert sum(map(score, order[:half])) < 0.75 * sum(map(score, order[half:]))
    assert set(order) == set(new)


def test_the_predictor_chooses_what_is_scored(mixture, fresh):
    given = {"rounds": Rounds(40, 30, 2, 30)}
    made, plain = (s3(mixture, 4, fresh, predictor=one, **given) for one in (True, False))
    assert made.report["tried"] == plain.report["tried"] == 40
    assert made.report["score"] == fresh(made)


def test_an_interrupted_search_goes_on(mixture, fresh, tmp_path):
    asked = []

    def score(plan):
        asked.append(plan)
        if len(asked) == 30:
            raise KeyboardInterrupt
        return fresh(plan)

    given = {"rounds": Rounds(40, 20, 2, 20), "journal": tmp_path / "fit"}
    with pytest.raises(KeyboardInterrupt):
        s3(mixture, 4, score, **given)
    made = s3(mixture, 4, score, **given)
    assert len(asked) == 41
    assert made == s3(mixture, 4, fresh, rounds=given["rounds"])


def test_a_network_that_diverges_somewhere_is_searched_around(mixture, fresh):
    def score(plan):
        return fresh(plan) if plan.rows[1].next_time > 0.3 else float("nan")

    made = s3(mixture, 4, score, rounds=Rounds(30, 20, 1, 20))
    assert made.rows[1].next_time > 0.3
    assert made.report["score"] < 10.0


def test_bad_input(mixture, fresh):
    with pytest.raises(BadValue, match="levels to choose from"):
        s3(mixture, 12, fresh, levels=12)
    with pytest.raises(BadValue, match="first <= trials"):
        Rounds(trials=10)
