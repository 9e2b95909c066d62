import dataclasses

import pytest

import retrograde as rg
from retrograde.tune import contest
from retrograde.tune.effort import EFFORTS

RIVALS = ("ddim", "dpmpp_2m", "dpmpp_3m", "ipndm_2")


def test_tune_writes_a_plan_that_beats_the_recipes_and_reports(call, tmp_path, monkeypatch):
    # what the race of all recipes finds is tested beside the tuner
    monkeypatch.setitem(EFFORTS, "seconds", dataclasses.replace(EFFORTS["seconds"], contest=RIVALS))
    monkeypatch.setattr(contest, "USUAL_RECIPES", RIVALS)
    ran = call("tune", "toys:blobs", "--nfe", 3, "-o", "plan.json", "--condition", "0-2", "--report", "report", "--json")
    assert ran.code == 0
    plan = rg.Plan.load("plan.json")
    assert plan.nfe == 3
    assert ran.json["report"]["error"] == plan.report["error"]
    assert ran.json["report"]["error"] < ran.json["report"]["best_recipe"]["error"]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "plan.json" in page
    assert "held-out error" in call("show", "plan.json").out


def test_tune_refuses_before_it_works(call):
    assert call("tune", "toys:blobs", "--nfe", 0).code == 2
    assert call("tune", "toys:blobs", "--effort", "days").code == 2
    assert call("tune", "toys:labelled_network", "--condition", "7").code == 2


@pytest.mark.parametrize(("out", "words"), [("plain/plan.json", "can be written"), ("folder", "the name of a file")])
def test_a_place_where_nothing_can_be_written_is_refused_before_the_fit(out, words, call, tmp_path, monkeypatch):
    (tmp_path / "plain").write_text("a file, and no folder")
    (tmp_path / "folder").mkdir()
    monkeypatch.setattr("retrograde.cli.tune.fitted", lambda *given, **options: pytest.fail("it began to work"))
    ran = call("tune", "toys:blobs", "--nfe", 3, "-o", out)
    assert ran.code == 1
    assert words in ran.err
    assert not list((tmp_path / "folder").iterdir())
    drawn = call("sample", "toys:blobs", "--nfe", 3, "-o", "plain/samples.npz")
    assert drawn.code == 1
    assert "can be written" in drawn.err


def test_a_fit_that_is_interrupted_leaves_the_plan_that_was_there(call, tmp_path, monkeypatch):
    rg.plan("ddim", rg.paths.VP(), nfe=3).save("plan.json")

    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("retrograde.cli.tune.fitted", interrupted)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    ran = call("tune", "toys:blobs", "--nfe", 3, "-o", "plan.json")
    assert ran.code == 130
    assert "plan.json is as it was; the same command goes on from what is done, in plan.json.fit" in ran.err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == before
