"""Every recipe is another, or is exact, somewhere: a test says so, named for it in exact.json.

The slope of an error sees the order, not the method: two wrong methods of one order pass it alike. So each recipe also names
a test in which its table, or its samples, equal something known to rounding: another recipe at a value of its options, the
published loop, an integral. That the named test runs the recipe is watched, not believed.
"""

import ast
import collections
import json
from pathlib import Path

import pytest

import retrograde as rg
from retrograde.recipes import Recipe

ROOT = Path(__file__).parents[2]
EXACT = json.loads((ROOT / "tests" / "laws" / "exact.json").read_text(encoding="utf-8"))


def test_every_recipe_names_its_exact_test():
    missing, gone = set(rg.recipes.names()) - set(EXACT), set(EXACT) - set(rg.recipes.names())
    assert not missing, f"add to tests/laws/exact.json what {sorted(missing)} equal exactly, and the test that shows it"
    assert not gone, f"{sorted(gone)} of tests/laws/exact.json are no recipes"
    assert all(entry["exact"].strip() for entry in EXACT.values())


@pytest.mark.parametrize("place", sorted({entry["test"] for entry in EXACT.values()}))
def test_the_named_test_exists(place):
    file, _, name = place.partition("::")
    found = {node.name for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body if hasattr(node, "name")}
    assert name.startswith("test_")
    assert name in found, place


class Watch:
    """Notes which recipes are compiled in which test, and which tests pass."""

    def __init__(self) -> None:
        self.place, self.seen, self.outcomes = "", collections.defaultdict(set), collections.defaultdict(set)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.place = item.nodeid.partition("[")[0]
        return (yield)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid.partition("[")[0]].add(report.outcome)


@pytest.mark.slow
def test_the_named_tests_run_the_recipes_and_pass(monkeypatch):
    """About a minute: the named tests run once more, here, under watch."""
    pytest.importorskip("diffusers")
    watch, compiled = Watch(), Recipe.compile

    def noted(self, *args, **options):
        watch.seen[watch.place].add(self.name)
        return compiled(self, *args, **options)

    monkeypatch.setattr(Recipe, "compile", noted)
    places = sorted({entry["test"] for entry in EXACT.values()})
    quiet = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    assert pytest.main([*quiet, *(str(ROOT / place) for place in places)], plugins=[watch]) == 0
    assert {place: watch.outcomes[place] for place in places} == {place: {"passed"} for place in places}
    idle = {name: entry["test"] for name, entry in EXACT.items() if name not in watch.seen[entry["test"]]}
    assert not idle, "these tests do not run the recipe they are named for"
