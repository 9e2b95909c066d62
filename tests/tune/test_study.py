"""Searches by optuna: what they find, keep and share."""

import sys

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, MissingExtra, PlanError
from retrograde.tune import Reference, published, study, teach

pytest.importorskip("optuna")


@pytest.fixture(scope="module")
def mixture():
    return rg.oracles.GaussianMixture(rg.paths.EDM(), torch.randn(5, 4, generator=torch.Generator().manual_seed(3)), 0.05)


@pytest.fixture(scope="module")
def score(mixture):
    reference = Reference(mixture, range(32), 0, teach(mixture, 32, 0, levels=64, keep=()).end)
    return lambda plan: float(reference.errors(plan).mean().sqrt())


def test_it_beats_the_published_settings_and_says_what_it_chose(mixture, score):
    made = study(published(mixture, 5, ("dpmpp_2m", "dpmpp_3m"), ("karras", "power")), score, 25)
    assert made.report["score"] == score(made)
    assert made.report["trials"] == 25
    assert made.report["score"] < min(score(rg.plan(r, mixture, nfe=5)) for r in ("dpmpp_2m", "dpmpp_3m"))
    again = rg.plan(made.report["parameters"]["recipe"], mixture, grid=list(made.times))
    assert again.rows == made.rows


def test_an_interrupted_search_goes_on_in_its_file(mixture, score, tmp_path):
    asked = []

    def stopped(plan):
        asked.append(plan)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return score(plan)

    given = (published(mixture, 4, ("ddim",), ("karras",)), stopped, 9)
    with pytest.raises(KeyboardInterrupt):
        study(*given, journal=tmp_path / "four.log")
    made = study(*given, journal=tmp_path / "four.log")
    assert len(asked) == 10  # five before, the one that was stopped, and the four that were left
    assert made.report["trials"] == 9
    assert study(*given, journal=tmp_path / "four.log").report == made.report
    assert len(asked) == 10


def test_choices_that_do_not_go_together_are_left_out(mixture, score):
    def propose(trial):
        if trial.suggest_int("k", 0, 3) < 2:
            raise PlanError("a made-up pair", "another", "other choices")
        return rg.plan("ddim", mixture, nfe=3)

    made = study(propose, score, 12)
    assert 0 < made.report["trials"] < 12
    with pytest.raises(BadValue, match="0 scored"):
        study(lambda trial: rg.plan("ddim", mixture, nfe=0), score, 3)


def test_a_file_of_another_search_is_refused(mixture, score, tmp_path):
    study(published(mixture, 4, ("ddim",), ("karras",)), score, 3, journal=tmp_path / "four.log")
    for other in (published(mixture, 6, ("ddim",), ("karras",)), published(mixture, 4, ("dpmpp_2m",), ("log_snr",))):
        with pytest.raises(BadValue, match="another|other plans"):
            study(other, score, 6, journal=tmp_path / "four.log")


def test_a_search_that_goes_on_does_not_repeat_itself(mixture, score, tmp_path):
    asked = []
    counted = lambda plan: asked.append(plan.times) or score(plan)  # noqa: E731
    for trials in (3, 6):
        study(published(mixture, 4, ("ddim",), ("karras",)), counted, trials, journal=tmp_path / "four.log")
    assert len(set(asked)) == 6


def test_scores_that_are_no_numbers_end(mixture):
    with pytest.raises(BadValue, match="finite scores"):
        study(published(mixture, 3), lambda plan: float("nan"), 4)


def test_what_optuna_says_elsewhere_is_left_as_it_was(mixture, score, capfd):
    import optuna

    before = optuna.logging.get_verbosity()
    try:
        for level in (optuna.logging.INFO, optuna.logging.ERROR):
            optuna.logging.set_verbosity(level)
            study(lambda _: rg.plan("ddim", mixture, nfe=1), score, 2)
            assert optuna.logging.get_verbosity() == level
            assert capfd.readouterr().err == ""
    finally:
        optuna.logging.set_verbosity(before)


def test_without_optuna_the_message_names_the_extra(mixture, score, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"retrograde\[tune\]"):
        study(published(mixture, 3), score)
