from retrograde.cli import ranking, tables, verdict


def entry(label, nfe, rms, kind="recipe", median=None):
    return {
        "label": label,
        "grid": "karras" if kind == "recipe" else "",
        "nfe": nfe,
        "kind": kind,
        "rms": rms,
        "median": rms if median is None else median,
        "rms_interval": None,
        "seconds": 1.0,
        "stochastic": False,
        "key": f"{label}{nfe}",
    }


def results(*errors, quality=(), floor=None, apart=1e-6):
    return {
        "errors": list(errors),
        "quality": list(quality),
        "judge": {"against": "100 items", "headline": "energy", "floor": floor} if quality else None,
        "reference": {"rms_apart": apart},
        "settings": {"quality_n": 50},
    }


def measured(label, nfe, value):
    return entry(label, nfe, 1.0) | {"figures": {"energy": {"value": value}}}


def test_a_fitted_plan_is_taken_when_it_is_better_and_its_worth_is_counted_in_evaluations():
    found = results(entry("a", 3, 0.5), entry("a", 6, 0.1), entry("fitted", 3, 0.2, "fitted"))
    said = verdict.sentences(found)[0]
    assert said.startswith("At 3 evaluations, take the plan fitted")
    assert "needs 6 evaluations" in said


def test_a_fitted_plan_no_solver_reaches():
    found = results(entry("a", 3, 0.5), entry("a", 6, 0.3), entry("fitted", 3, 0.2, "fitted"))
    assert "no published solver does as well with up to 6" in verdict.sentences(found)[0]


def test_a_fitted_plan_that_is_worse_is_not_taken():
    found = results(entry("a", 3, 0.1), entry("fitted", 3, 0.2, "fitted"))
    assert verdict.sentences(found)[0].startswith("At 3 evaluations, take a on the karras grid")


def test_recipes_of_one_answer_are_joined():
    found = results(entry("a", 3, 0.5), entry("a", 4, 0.4), entry("b", 5, 0.3))
    assert verdict.sentences(found) == [
        "Among published solvers the least error has: at 3 to 4 evaluations a on the karras grid (error 0.5 to 0.4); "
        "at 5 evaluations b on the karras grid (error 0.3)."
    ]


def test_quality_within_chance_picks_nobody():
    found = results(
        entry("a", 3, 0.5),
        quality=[measured("a", 3, 0.2), measured("b", 3, 0.3)],
        floor={"energy": {"low": 0.1, "high": 0.4}},
    )
    assert "does not tell these samplers apart" in verdict.sentences(found)[-1]


def test_quality_beyond_chance_names_the_cheapest_good_one():
    quality = [measured("a", 3, 0.9), measured("a", 8, 0.2), measured("b", 5, 0.3)]
    found = results(entry("a", 3, 0.5), quality=quality, floor={"energy": {"low": 0.1, "high": 0.4}})
    said = verdict.sentences(found)[-1]
    assert "2 of 3" in said
    assert "b on the karras grid at 5" in said
    worse = results(entry("a", 3, 0.5), quality=quality[:1], floor={"energy": {"low": 0.1, "high": 0.4}})
    assert "Best samples" in verdict.sentences(worse)[-1]


def test_doubts_are_said():
    assert "references" not in " ".join(verdict.sentences(results(entry("a", 3, 0.5))))
    assert "not told apart" in " ".join(verdict.sentences(results(entry("a", 3, 0.5), apart=0.2)))
    assert "few items" in " ".join(verdict.sentences(results(entry("a", 3, 0.5, median=0.01))))


def test_order_looks_at_all_budgets():
    errors = [entry("a", 3, 0.1), entry("b", 3, 0.2), entry("a", 5, 0.9), entry("b", 5, 0.01)]
    assert ranking.order(errors) == ["b", "a"]
    assert [e["label"] for e in ranking.leaders(errors, 3, 1)] == ["a"]


def test_tables_escape_what_they_show():
    table = tables.errors([entry("<b>", 3, 0.5, "plan")])
    assert "<b>" not in table.replace("<body>", "")
    assert "&lt;b&gt;" in table
    assert "2 more" not in tables.failures([{"what": "x", "why": "<i>"}])
    assert "&lt;i&gt;" in tables.failures([{"what": "x", "why": "<i>"}])
