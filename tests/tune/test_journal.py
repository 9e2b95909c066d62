"""An interrupted fit goes on where it was, and ends at the plan it would have made at once."""

import itertools

import pytest
import torch

import retrograde as rg
from retrograde.tune import Effort, contest, levels
from retrograde.tune.journal import Journal

SMALL = Effort(48, 16, 16, 32, 16, 4, 1, 12, 64, ("ddim", "dpmpp_2m"), 96, 3, 1e9)
ASKED = {"nfe": 2, "effort": SMALL, "condition": lambda n, seed: [i % 2 for i in range(n)], "seed": 1}


@pytest.fixture(scope="module")
def labelled():
    corners = torch.tensor([[1.0, 1.0], [-1.0, 0.5], [0.0, -1.0], [2.0, -0.5]])
    return rg.oracles.GaussianMixture(rg.paths.VP(), corners, 0.02, labels=[0, 1, 0, 1])


@pytest.fixture(scope="module")
def undisturbed(labelled):
    return rg.tune(labelled, **ASKED)


def calls_until(stop, ran):
    """Return a progress function that interrupts the stop-th telling, and counts the tellings of each stage."""

    def progress(stage, part):
        ran.append(stage)
        if len(ran) == stop:
            raise KeyboardInterrupt

    return progress


def test_a_fit_that_is_interrupted_again_and_again_arrives_at_the_same_plan(labelled, undisturbed, tmp_path):
    for attempt in itertools.count():
        try:
            plan = rg.tune(labelled, **ASKED, journal=tmp_path / "fit", progress=calls_until(12 + 4 * attempt, []))
        except KeyboardInterrupt:
            assert attempt < 40
            continue
        break
    assert attempt > 3
    assert plan == undisturbed
    assert uncounted(plan.report) == uncounted(undisturbed.report)
    assert not (tmp_path / "fit").exists()


def uncounted(report):
    """The report without what an interruption may change: what the runs of a race had in common is asked again."""
    if isinstance(report, dict):
        spent = ("seconds", "evaluations", "evaluations_by_part")
        return {name: uncounted(one) for name, one in report.items() if name not in spent}
    return [uncounted(one) for one in report] if isinstance(report, list) else report


def test_what_is_known_is_not_asked_again(labelled, tmp_path):
    first: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        rg.tune(labelled, **ASKED, journal=tmp_path, progress=lambda stage, part: stop_at("corrections", stage, first))
    assert "reference trajectories" in first
    again: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        rg.tune(labelled, **ASKED, journal=tmp_path, progress=lambda stage, part: stop_at("corrections", stage, again))
    assert "reference trajectories" not in again
    assert "short trajectories" not in again


def test_scores_and_runs_of_the_race_are_not_made_again(labelled, tmp_path, monkeypatch):
    made: list[str] = []

    def counted(owner, name):
        right = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: made.append(name) or right(*given))

    counted(levels.OnPolicy, "_scored")
    counted(contest, "_enter")
    with pytest.raises(KeyboardInterrupt):
        rg.tune(labelled, **ASKED, journal=tmp_path, progress=lambda stage, part: stopped(stage, part > 0.5))
    assert {"_scored", "_enter"} == set(made)
    before = made.copy()
    made.clear()
    rg.tune(labelled, **ASKED, journal=tmp_path)
    assert "_scored" not in made
    undisturbed = before.count("_enter") + made.count("_enter")
    made.clear()
    rg.tune(labelled, **ASKED)
    assert made.count("_enter") == undisturbed


def stopped(stage, late):
    if stage == "published solvers" and late:
        raise KeyboardInterrupt


def stop_at(last, stage, seen):
    seen.append(stage)
    if stage == last:
        raise KeyboardInterrupt


def test_another_question_loses_nothing_and_other_weights_begin_anew(tmp_path):
    one, other = (Journal(tmp_path, question, torch.ones(3)) for question in ({"nfe": 2}, {"nfe": 3}))
    assert one.value("score", lambda: 1.5) == 1.5
    assert other.value("score", lambda: 2.5) == 2.5
    assert Journal(tmp_path, {"nfe": 2}, torch.ones(3)).value("score", lambda: 9.0) == 1.5
    changed = Journal(tmp_path, {"nfe": 2}, 2.0 * torch.ones(3))
    assert changed.value("score", lambda: 9.0) == 9.0
    assert Journal(tmp_path, {"nfe": 3}, torch.ones(3)).value("score", lambda: 9.0) == 2.5
    for journal in (changed, other):
        journal.done()
    assert not tmp_path.exists()


def test_a_line_that_was_cut_short_counts_as_not_done(tmp_path):
    journal = Journal(tmp_path, 1)
    for k in range(3):
        journal.value(f"score {k}", lambda k=k: float(k))
    assert Journal(tmp_path, 1).seconds >= journal.seconds - 0.1
    (file,) = tmp_path.glob("*/parts.jsonl")
    file.write_bytes(file.read_bytes()[:-7])
    again = Journal(tmp_path, 1)
    assert [again.value(f"score {k}", lambda: -1.0) for k in range(3)] == [0.0, 1.0, -1.0]
    assert Journal(tmp_path, 1).value("score 2", lambda: 7.0) == -1.0


def test_without_a_folder_nothing_is_kept():
    journal = Journal()
    assert journal.value("a", lambda: 1) == 1
    assert journal.tensors("b", lambda: {"x": torch.ones(2)})["x"].sum() == 2.0
    assert journal.tensors("b", lambda: {"x": torch.zeros(2)})["x"].sum() == 0.0
    journal.done()


def test_budgets_learn_from_the_same_trajectories_where_these_stay(labelled, undisturbed, tmp_path):
    def fitted(nfe, stages, **other):
        told = {"progress": lambda stage, part: stages.append(stage), "trajectories": tmp_path, "compare": False}
        return rg.tune(labelled, **{**ASKED, "nfe": nfe, **told, **other})

    fitted(3, [])
    stages: list[str] = []
    assert fitted(2, stages) == undisturbed
    assert "corrections" in stages
    assert "reference trajectories" not in stages
    stages.clear()
    assert fitted(2, stages) == undisturbed
    assert "short trajectories" not in stages
    stages.clear()
    assert fitted(1, stages, seed=2) != undisturbed
    assert "reference trajectories" in stages
