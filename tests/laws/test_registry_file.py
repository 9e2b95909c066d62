"""The figures the documentation states of every recipe: none is missing, and measuring again gives them again."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import retrograde as rg

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "benchmarks" / "results" / "registry.json").read_text())
MEND = f"benchmarks/results/registry.json is not of this registry; refresh it: {STORED['command']}"
SAMPLE = ("dpm_solver_3", "dpmpp_2m", "ddpm", "unipc_2")


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"loaded_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load(ROOT / "benchmarks" / "registry.py")


def test_every_recipe_has_its_figures():
    held = {name: figures["title"] for name, figures in STORED["recipes"].items()}
    assert held == {name: rg.recipes.get(name).title for name in rg.recipes.names()}, MEND


@pytest.mark.parametrize("name", rg.recipes.names())
def test_the_measured_slope_is_the_declared_order(name):
    figures = STORED["recipes"].get(name)
    assert figures is not None, MEND
    assert figures["slopes"], f"{name} was measured on no path"
    recipe = rg.recipes.get(name)
    for slope in figures["slopes"].values():
        assert slope == pytest.approx(recipe.order, abs=0.25), MEND
    assert (figures["order"], figures["evaluations"]) == (recipe.order, recipe.evaluations), MEND
    assert (figures["draws"] > 0) == recipe.stochastic


@pytest.mark.parametrize("name", SAMPLE)
def test_measuring_again_gives_the_stored_figures(name, benchmark):
    again, held = benchmark.measure(name), STORED["recipes"][name]
    assert again["slopes"] == pytest.approx(held["slopes"], abs=0.01), MEND
    assert again["finest"] == pytest.approx(held["finest"], rel=0.05), MEND
    assert again["kept"] == held["kept"], MEND


def test_the_page_of_recipes_states_them():
    page = load(ROOT / "docs" / "_ext" / "generate.py").recipes_page()
    rows = {row.split("|")[1].strip(" `"): row for row in page.splitlines() if row.startswith("| `")}
    assert set(rg.recipes.names()) <= set(rows)
    slope = STORED["recipes"]["dpmpp_2m"]["slopes"]["vp"]
    assert f"| 2 | 1 | {slope:.2f} | the published step in sigma | none | 1 + 2 |" in rows["dpmpp_2m"]
    assert "weak" in rows["ddpm"]
    for name in rg.recipes.names():
        cells = rows[name].split("|")
        assert len(cells) == 11, rows[name]
        assert cells[6].strip(), f"{name} has nothing under `exactly`"
    unreferenced = [name for name in rg.recipes.names() if not rows[name].split("|")[9].strip()]
    assert not unreferenced, f"recipes without a paper in their registration or docstring: {unreferenced}"
