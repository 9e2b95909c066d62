import retrograde as rg


def test_tune_writes_a_plan_that_beats_the_recipes_and_reports(call, tmp_path):
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
