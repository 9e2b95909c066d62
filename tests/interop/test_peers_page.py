"""The page that says which sampler there is which recipe here: of the stored run, which names every importer."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from retrograde.interop.schedulers import from_diffusers, names, sampler_names

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "benchmarks" / "results" / "peers.json").read_text(encoding="utf-8"))
MEND = f"benchmarks/results/peers.json is not of these importers; refresh it: {STORED['command']}"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_peers", ROOT / "docs" / "_ext" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_name_was_run_and_agrees():
    held = {(row["package"], row["name"]) for row in STORED["rows"]}
    assert {name for package, name in held if package == "diffusers"} == set(names()), MEND
    assert {name for package, name in held if package == "ComfyUI"} == set(sampler_names()) - {"ddim", "sample_lms"}, MEND
    assert max(row["gap"] for row in STORED["rows"]) < STORED["tolerance"] == 1e-4
    assert len({name for _, name in held}) >= 30


def test_the_page_has_a_row_for_each(generate):
    page = generate.peers_page()
    for name in (*names(), *sampler_names()):
        assert name in ("ddim", "sample_lms") or f"| `{name}` |" in page
    assert "mended=True" in page


@pytest.mark.parametrize(
    "row", [row for row in STORED["rows"] if row["package"] == "diffusers"][::10], ids=lambda r: r["name"]
)
def test_the_recipes_of_the_page_are_those_of_the_plans(row):
    latent = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    config = {"_class_name": row["name"]} | (
        {} if row["name"].startswith(("Flow", "EDM", "Cosine", "LTX", "SCM", "ScoreSde", "IPNDM", "CMStoch")) else latent
    )
    options = {k: v for k, v in row["options"].items() if k != "use_dynamic_shifting"}
    count = None if {"timesteps", "sigmas"} & set(options) else row["steps"]
    plan = from_diffusers(config, count, **options)
    assert (plan.recipe, plan.nfe) == (row["recipe"], row["nfe"]), MEND
