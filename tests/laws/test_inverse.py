"""Inverse methods on Gaussian data: exact ones come to the posterior, the bias of the others is measured and kept."""

import json
import runpy
from pathlib import Path

import pytest

from retrograde import inverse

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "benchmarks" / "results" / "inverse_gaussian.json").read_text())["methods"]
MEND = (
    "benchmarks/results/inverse_gaussian.json is not of this registry: python benchmarks/inverse_gaussian.py --methods NAME"
)
EXACT = [name for name in inverse.names() if inverse.get(name).exact]


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(ROOT / "benchmarks" / "inverse_gaussian.py"))


def test_every_method_has_its_figures():
    held = {name: row["exact"] for name, row in STORED.items()}
    assert held == {name: inverse.get(name).exact for name in inverse.names()}, MEND


@pytest.mark.parametrize("name", EXACT)
def test_an_exact_method_has_the_posterior_up_to_what_its_runs_differ_by(name):
    """Both moments, in its limit: within three standard errors, and those are small."""
    row = STORED[name]
    for key in ("mean", "covariance"):
        assert row[f"{key}_floor"] < 0.07, MEND
        assert row[key] < 3.0 * row[f"{key}_floor"], MEND


def test_the_others_have_a_bias_that_no_more_samples_take_away():
    """Some by a hair for this prior; the methods without weights and covariance by far."""
    biased = set()
    for name in set(STORED) - set(EXACT):
        row = STORED[name]
        if any(row[key] > 4.0 * row[f"{key}_floor"] for key in ("mean", "covariance")):
            biased.add(name)
    assert {"dps", "stsl", "ddrm", "ddnm", "daps", "reddiff", "repaint", "sitcom", "steered", "pnpdm"} <= biased


@pytest.mark.parametrize("name", inverse.names())
def test_measuring_again_gives_the_stored_errors(name, benchmark):
    again, held = benchmark["measure"](name, *benchmark["SHORT"]), STORED[name]["again"]
    assert again == pytest.approx(held, rel=1e-2, abs=1e-3), MEND
