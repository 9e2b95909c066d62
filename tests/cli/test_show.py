import dataclasses
import json

import retrograde as rg


def test_show_prints_the_table_and_the_report(call):
    report = {
        "error": 0.125,
        "median": 0.0625,
        "recipes": [{"recipe": f"solver{i}", "grid": "karras", "nfe": 3, "error": i / 10, "median": 0.1} for i in range(9)],
        "seconds": 12.0,
        "evaluations": 3456,
    }
    plan = dataclasses.replace(rg.plan("ddim", rg.paths.EDM(), nfe=3), report=report)
    plan.save("plan.json")
    ran = call("show", "plan.json")
    assert str(plan) in ran.out
    assert "0.125" in ran.out
    assert "solver3" in ran.out
    assert "solver4" not in ran.out
    assert "5 more" in ran.out
    with open("plan.json") as file:
        assert call("show", "plan.json", "--json").json == json.load(file)


def test_show_refuses_what_is_no_plan(call):
    with open("other.json", "w") as file:
        json.dump({"format": "something else"}, file)
    ran = call("show", "other.json")
    assert ran.code == 2
    assert "plan.save" in ran.err
    assert call("show", "absent.json").code == 2
