"""Every registered system names a call that exists, a test that exists, and the paper's own title and number."""

import ast
import inspect
from pathlib import Path

import pytest

import retrograde as rg
from retrograde.errors import BadValue, UnknownName
from retrograde.systems import HOMES, System, by_title, catalogue, cite, coverage, register
from retrograde.systems import all as all_systems

ROOT = Path(__file__).parents[1]
SYSTEMS = all_systems()
MADE_UP = {
    "title": "A made-up paper on samplers",
    "authors": "Ada Lovelace, Émile Borel et al.",
    "year": 1999,
    "arxiv": "9901.00001",
    "home": "solvers",
    "call": "rg.plan('no_such_recipe', path, nfe=10)",
    "test": "tests/test_systems.py::test_cite",
}


@pytest.fixture
def registry(monkeypatch):
    """A registry that forgets, at the end of the test, what the test put in."""
    held = {(system.title, system.call): system for system in all_systems()}
    monkeypatch.setattr("retrograde.systems._registered", held)


def functions(path: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.ClassDef)}


def dotted(node: ast.expr) -> list[str] | None:
    """["rg", "guide", "cfg"] for the expression rg.guide.cfg; None for what does not start at rg."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return ["rg", *names] if isinstance(node, ast.Name) and node.id == "rg" else None


def check_call(call: str) -> int:
    """Resolve every rg.… in the call and bind its arguments; returns how many calls were checked."""
    checked = 0
    for node in ast.walk(ast.parse(call)):
        if not isinstance(node, ast.Call) or (names := dotted(node.func)) is None:
            continue
        target = rg
        for name in names[1:]:
            target = getattr(target, name)
        assert callable(target), f"{'.'.join(names)} is not callable"
        if not any(isinstance(arg, ast.Starred) for arg in node.args):
            keywords = {word.arg: None for word in node.keywords if word.arg is not None}
            inspect.signature(target).bind_partial(*node.args, **keywords)
        first = node.args[0] if node.args else None
        if names == ["rg", "plan"] and isinstance(first, ast.Constant):
            assert first.value in rg.recipes.names()
        checked += 1
    return checked


def test_something_is_registered():
    assert SYSTEMS


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: f"{s.home}:{s.title[:40]}")
def test_the_named_test_exists(system):
    file, *names = system.test.split("::")
    assert (ROOT / file).is_file(), f"{file} does not exist"
    assert set(names) <= functions(ROOT / file), f"{file} does not define {names}"


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda s: f"{s.home}:{s.title[:40]}")
def test_the_call_resolves(system):
    assert check_call(system.call) > 0, "the call does not start at rg"


@pytest.mark.parametrize("call", ["rg.no_such_name()", "rg.cite(no_such_word=1)", "rg.plan('no_such', path)", "rg.paths()"])
def test_a_wrong_call_is_found(call):
    with pytest.raises((AssertionError, AttributeError, TypeError)):
        check_call(call)


def test_numbers_and_titles_are_the_catalogue_s():
    titles = {paper.number: paper.title for paper in catalogue()}
    assert sorted(titles) == list(range(205))
    for system in SYSTEMS:
        if system.number is not None:
            assert titles[system.number].casefold() == system.title.casefold()


def test_homes_are_the_catalogue_s():
    assert {paper.home for paper in catalogue()} == set(HOMES)


def test_the_number_is_looked_up(registry):
    title = "Pseudo Numerical Methods for Diffusion Models on Manifolds"
    assert register(System(**MADE_UP | {"title": title, "call": "rg.plan('x', path)"})).number == 14
    with pytest.raises(BadValue, match="number 14"):
        register(System(**MADE_UP | {"title": title, "number": 15, "call": "rg.plan('y', path)"}))


def test_the_same_entry_twice_is_one(registry):
    count = len(all_systems())
    assert register(System(**MADE_UP)) == register(System(**MADE_UP))
    assert len(all_systems()) == count + 1
    with pytest.raises(BadValue, match="second entry"):
        register(System(**MADE_UP | {"year": 2000}))


def test_cite(registry):
    system = register(System(**MADE_UP))
    assert cite("no_such_recipe") == cite("9901.00001") == cite(system.title.upper()) == system.bibtex()
    text = system.bibtex()
    assert text.startswith("@misc{lovelace1999madeup,")
    assert "author = {Ada Lovelace and Émile Borel and others}" in text
    assert "eprint = {9901.00001}" in text
    assert text.count("{") == text.count("}")
    with pytest.raises(UnknownName, match="no_such_recipe"):
        cite("no_such_recipes")


def test_no_two_papers_share_a_citation_key():
    keys = [text.partition(",")[0] for text in {system.bibtex() for system in SYSTEMS}]
    assert sorted(keys) == sorted(set(keys))


def test_by_title(registry):
    system = register(System(**MADE_UP))
    assert by_title("a made up paper on samplers") == (system,)
    with pytest.raises(UnknownName):
        by_title("no such title whatever")


def test_coverage_counts_one_paper_once(registry):
    before = coverage()
    free = next(p for p in catalogue() if p.core > 0 and p.number not in before.numbers)
    for call in ("rg.plan('a', path)", "rg.plan('b', path)"):
        register(System(**MADE_UP | {"title": free.title, "call": call, "home": free.home}))
    after = coverage()
    assert after.done == before.done + 1
    assert after.homes[free.home][0] == before.homes[free.home][0] + 1
    assert after.total == before.total == sum(p.core > 0 for p in catalogue())


@pytest.mark.parametrize(
    "wrong",
    [{"home": "nowhere"}, {"arxiv": "9901.00001v4"}, {"test": "tests/test_x.py"}, {"call": "rg.plan('ddim'"}],
)
def test_a_malformed_entry_is_refused(wrong):
    with pytest.raises(ValueError):
        System(**MADE_UP | wrong)
