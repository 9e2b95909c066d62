"""What a fit costs is counted, and the quick preset stays within what it promises."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.tune import Effort, Reference, plans, race, teach
from retrograde.tune.fit import Fitter
from retrograde.tune.levels import Limited, OnPolicy, Surrogate, by_first, descend, starts
from retrograde.tune.remembering import Remembering

TINY = Effort(24, 8, 10, 12, 12, 3, 1, 6, 16, ("ddim", "dpmpp_2m", "ipndm_2"))


@pytest.fixture(scope="module")
def corners():
    points = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.0, -1.0], [2.0, -0.5]])
    return rg.oracles.GaussianMixture(rg.paths.VP(), points, 0.02, labels=[0, 1, 0, 1])


@pytest.fixture
def asked(monkeypatch):
    """How many items the oracle was asked for, call by call."""
    numbers, right = [], rg.oracles.GaussianMixture.predict

    def predict(self, x_t, *given, **named):
        numbers.append(len(x_t))
        return right(self, x_t, *given, **named)

    monkeypatch.setattr(rg.oracles.GaussianMixture, "predict", predict)
    return numbers


HALVED = dataclasses.replace(TINY, heat=2, between=((4, 6),), finalists=3, grids=3, twice=5, teacher="unipc_3", gate=1.2)
CORRECTED = dataclasses.replace(TINY, corrected=24, lessons=1, share=1e9)


@pytest.mark.parametrize(
    ("effort", "compare", "besides"),
    [(TINY, True, 0), (HALVED, True, 0), pytest.param(CORRECTED, False, 1, marks=pytest.mark.slow)],
)
def test_the_report_counts_every_evaluation(corners, asked, effort, compare, besides):
    """But for the one item of which multiplications are counted, where corrections may cost some."""

    def labels(n, seed):
        return [i % 2 for i in range(n)]

    report = rg.tune(corners, 3, effort=effort, compare=compare, condition=labels).report
    assert report["evaluations"] == sum(asked) - besides
    assert sum(report["evaluations_by_part"].values()) == report["evaluations"]
    assert ("published solvers" in report["evaluations_by_part"]) == compare


def test_a_race_runs_an_item_once_and_its_later_heats_only_for_the_best(corners, asked):
    reference = Reference(corners, range(24), 3, teach(corners, 24, 3).end)
    asked.clear()
    entries = race(reference, 4, ["ddim", "dpmpp_2m"], first_heat=3, finalists=2, between=((8, 5),))
    assert sum(asked) == sum(entry.evaluations for entry in entries)
    assert [entry.items for entry in entries] == [24, 24, 8, 8, 8, *[3] * (len(entries) - 5)]
    known = {(name, grid): reference.errors(plan).double() for name, grid, plan in plans(corners, 4, ["ddim", "dpmpp_2m"])}
    for entry in entries:
        expected = known[entry.recipe, entry.grid][: entry.items].mean().sqrt()
        assert entry.error == pytest.approx(float(expected), rel=1e-4)
    among = [known[entry.recipe, entry.grid][:3].mean() for entry in entries]
    assert max(among[:5]) <= min(among[5:])


def test_what_runs_of_a_race_have_in_common_is_evaluated_once(corners, asked):
    """All begin with the same noise; the first steps of DDIM and DPM-Solver++(2M) are equal."""
    reference = Reference(corners, range(8), 3, teach(corners, 8, 3).end)
    asked.clear()
    entries = race(reference, 4, only=[("ddim", "karras"), ("dpmpp_2m", "karras"), ("ddim", "sigma")])
    assert sorted(entry.evaluations for entry in entries) == [8 * 2, 8 * 3, 8 * 4]
    assert sum(asked) == 8 * 9


def test_only_an_equal_question_is_remembered(corners, asked):
    den = Remembering(corners)
    x, told = torch.randn(4, 2), {"label": torch.tensor([0, 1, 1, 0])}
    first = den.predict(x, 0.5, told)
    again = den.predict(x.clone(), 0.5, {"label": told["label"].clone()})
    assert torch.equal(first.value, again.value)
    assert first.evaluations
    assert not again.evaluations
    others = [(x + 1e-6, 0.5, told), (x, 0.25, told), (x, 0.5, {"label": 1 - told["label"]})]
    for one in others:
        assert torch.equal(den.predict(*one).value, corners.predict(*one).value)
    den.predict(x, torch.full((4,), 0.5), told)
    den.predict(x, torch.full((4,), 0.5), told)
    assert den.asked == 4 * (1 + 3 + 2)
    den.predict(x, 0.5, told, {"weight": 2.0})
    assert den.asked == 4 * (1 + 3 + 2 + 1), "a knob may change the answer"


def test_a_race_of_some_solvers_has_no_others(corners):
    reference = Reference(corners, range(8), 3, teach(corners, 8, 3).end)
    some = [("ddim", "karras"), ("ipndm_2", "sigma")]
    assert {(e.recipe, e.grid) for e in race(reference, 3, only=some)} == set(some)
    assert race(reference, 3, only=[]) == []


def test_a_race_can_leave_the_choice_of_grids_to_its_first_recipe(corners, asked):
    reference = Reference(corners, range(8), 3, teach(corners, 8, 3).end)
    asked.clear()
    entries = race(reference, 4, ["dpmpp_2m", "ddim"], first_heat=3, finalists=2, on_best=2)
    assert sum(asked) == sum(entry.evaluations for entry in entries)
    known = {(name, grid): reference.errors(plan)[:3].sum() for name, grid, plan in plans(corners, 4, ["dpmpp_2m"])}
    best = {grid for _, grid in sorted(known, key=lambda pair: known[pair])[:2]}
    assert {e.grid for e in entries if e.recipe == "ddim"} == best
    assert {(e.recipe, e.grid) for e in entries if e.recipe == "dpmpp_2m"} == set(known)
    assert [e.items for e in entries] == [8, 8, *[3] * (len(known))]
    assert entries[0].grid in best


def test_the_finalists_of_the_validation_race_are_measured_held_out(corners):
    effort = dataclasses.replace(TINY, heat=2, finalists=3, twice=4)
    report = rg.tune(corners, 3, effort=effort).report
    first, last = report["recipes_on_validation"], [e for e in report["recipes"] if e["nfe"] == 3]
    assert {(e["recipe"], e["grid"]) for e in last} == {(e["recipe"], e["grid"]) for e in first[:3]}
    assert {e["items"] for e in last} == {effort.held_out}
    assert {e["items"] for e in first[:3]} == {effort.validation}
    twice = [e for e in report["recipes"] if e["nfe"] == 6]
    assert {(e["recipe"], e["grid"]) for e in twice} <= {(e["recipe"], e["grid"]) for e in first[:4]}


def test_levels_far_from_what_the_surrogate_finds_are_not_fitted(corners):
    teacher = teach(corners, 24, 0, levels=16)
    fitter = Fitter(corners, teacher, {"label": torch.zeros(24, dtype=torch.long)})
    surrogate = Surrogate.of(fitter)
    start, least = descend(surrogate, next(starts(teacher, 3, 0, 0)), 16)
    free, bound = OnPolicy(fitter), OnPolicy(fitter)
    descend(Limited(free, 1000, lambda stage, part: None, "", 1), start, 16, (4, 2, 1))
    limit = (surrogate, 1.5 * least)
    descend(Limited(bound, 1000, lambda stage, part: None, "", 1, limit), start, 16, (4, 2, 1))
    assert max(surrogate(levels) for levels in bound.scores) <= 1.5 * least < max(map(surrogate, free.scores))
    assert 1 < len(bound.scores) < len(free.scores)


def test_the_first_level_is_searched_with_the_levels_that_suit_it():
    """Where two scores disagree of the first level only, the second decides on that one and the first on the others."""
    asked = []

    def surrogate(levels):
        return sum(abs(k - (levels[0] + 4 * i)) for i, k in enumerate(levels)) + abs(levels[0] - 9)

    def score(levels):
        asked.append(levels)
        return abs(levels[0] - 3) + surrogate(levels) / 100

    assert descend(surrogate, (2, 5, 9), 20)[0] == (9, 13, 17)
    assert by_first(surrogate, score, (9, 13, 17), 20) == (3, 7, 11)
    assert all(levels == (levels[0], levels[0] + 4, levels[0] + 8) for levels in asked if levels[0] < 12)
    assert max(levels[0] for levels in asked) > 9


def test_the_quick_preset_costs_what_thirty_seconds_allow(corners):
    """On two cores, of a network of which they evaluate 500 items in a second: digits of 28 by 28 here."""
    report = rg.tune(corners, 5, condition=lambda n, seed: [i % 2 for i in range(n)]).report
    assert report["evaluations"] <= 13_000, report["evaluations_by_part"]
    assert report["evaluations_by_part"]["published solvers"] <= 2_000


def test_the_reference_is_finer_for_a_plan_of_many_evaluations(corners):
    """With the levels of the preset alone, 8 of them, the reference would be farther from the flow than the plan."""
    effort = dataclasses.replace(TINY, levels=8)
    few, many = (rg.tune(corners, nfe, effort=effort, compare=False) for nfe in (2, 8))
    assert few.report["evaluations_by_part"]["reference"] < many.report["evaluations_by_part"]["reference"]
    assert many.provenance["effort"]["levels"] == 32
    assert many.report["reference_error"] < 0.5 * few.report["reference_error"]
