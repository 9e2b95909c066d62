"""Rules of the whole project: a lazy root, a light command, files of one sitting, a test folder for each package."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import retrograde

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "retrograde"
SOURCES = sorted(path for path in SRC.rglob("*.py") if "__pycache__" not in path.parts)
DRAWERS = re.compile(r"(^|_)(utils?|common|misc|helpers?|managers?|tools|stuff|core)(_|$)")
MEDIAN_LINES, MOST_LINES, DEPTH = 150, 400, 2


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, cwd=ROOT)


def best_seconds(*arguments: str) -> float:
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        python(*arguments)
        spent.append(time.perf_counter() - start)
    return min(spent)


def heavy_modules(code: str) -> set[str]:
    """The heavy packages loaded after running `code` in a fresh interpreter."""
    script = f"import sys\n{code}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return {"torch", "numpy", "scipy", "matplotlib", "PIL", "diffusers"}.intersection(python("-c", script).stdout.split())


HELP = """
import contextlib, io
from retrograde.cli import main
sys.argv = ["retrograde", "--help"]
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
assert "Usage" in out.getvalue()
"""


def test_import_loads_nothing_heavy():
    assert heavy_modules("import retrograde; retrograde.__version__, dir(retrograde)") == set()


def test_the_counter_of_heavy_modules_counts():
    assert heavy_modules("import numpy") == {"numpy"}


def test_help_loads_nothing_heavy():
    assert heavy_modules(HELP) == set()


def test_import_costs_less_than_python_itself_and_a_tenth_of_a_second():
    assert best_seconds("-c", "import retrograde") < 2 * best_seconds("-c", "pass") + 0.1


def test_help_answers_before_torch_could_be_imported():
    assert best_seconds("-c", "import sys\n" + HELP) < best_seconds("-c", "import torch")


@pytest.mark.parametrize("name", retrograde.__all__)
def test_every_name_of_the_root_resolves(name):
    assert getattr(retrograde, name) is not None
    assert name in dir(retrograde)


def test_an_unknown_name_of_the_root_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        retrograde.no_such_name  # noqa: B018


@pytest.mark.parametrize(
    ("first", "name"),
    [("retrograde.plan", "plan"), ("retrograde.run", "run"), ("retrograde.tune", "tune")],
)
def test_a_function_of_the_root_outlives_the_import_of_its_namesake(first, name):
    """`import retrograde.plan` binds the module on the package; the root must go on offering the function."""
    script = f"""
import {first}, types
import retrograde as rg
assert callable(rg.{name}) and not isinstance(rg.{name}, types.ModuleType), rg.{name}
before = rg.{name}
del sys.modules["{first}"]
import {first}
assert rg.{name} is before
"""
    python("-c", "import sys" + script)


def test_a_name_from_the_namesake_module_imports():
    python("-c", "from retrograde.plan import Plan, Row; from retrograde.run import run, Ledger")


def test_files_fit_in_one_sitting():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}
    assert sorted(lines.values())[len(lines) // 2] < MEDIAN_LINES


def test_no_drawers():
    names = [path for path in SRC.rglob("*") if path.suffix in ("", ".py") and DRAWERS.search(path.stem)]
    assert not names


def test_depth_is_two_at_most():
    assert not [path for path in SOURCES if len(path.relative_to(SRC).parts) > DEPTH]


def test_every_package_has_a_test_folder():
    packages = {path.parent.name for path in SOURCES if path.parent != SRC}
    assert not {name for name in packages if not list((ROOT / "tests" / name).glob("test_*.py"))}


def test_every_module_of_the_root_has_a_test_file():
    modules = {path.stem for path in SRC.glob("*.py")} - {"__init__", "_version", "__main__"}
    assert not {name for name in modules if not list((ROOT / "tests").rglob(f"test_{name}*.py"))}


def test_no_user_mistake_meets_an_assert():
    assert not [str(path) for path in SOURCES if re.search(r"^\s*assert\b", path.read_text(), re.M)]


def test_no_promise_of_later_work():
    later = re.compile(r"\b(?:TODO|FIXME|XXX|HACK|NotImplementedError)\b")
    found = {str(path.relative_to(ROOT)): later.findall(path.read_text()) for path in SOURCES}
    assert not {name: words for name, words in found.items() if words}


def test_the_readme_shows_the_plan_as_it_prints():
    plan = retrograde.plan("dpmpp_2m", retrograde.paths.EDM(), nfe=5)
    assert str(plan) in (ROOT / "README.md").read_text()


def test_citation_and_version_agree():
    assert f"version: {retrograde.__version__}" in (ROOT / "CITATION.cff").read_text()


def test_no_page_takes_a_name_that_sphinx_gives_its_own() -> None:
    """A page of these names is built, and then lost: the entry in the contents leads to Sphinx's page."""
    own = {"search", "genindex", "modindex", "py-modindex"}
    assert not own & {file.stem for file in (ROOT / "docs").glob("*.md")}
