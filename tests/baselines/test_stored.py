"""What the stored run of all tuners found (`python benchmarks/baselines.py`)."""

import json
from pathlib import Path

FOUND = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "baselines.json").read_text())["rows"]
ROWS = {(row["model"], row["nfe"], row["tuner"]): row for row in FOUND}
OTHERS = sorted({row["tuner"] for row in FOUND} - {"tune"})


def test_every_fit_was_given_what_the_tuner_asked_for():
    """Nearly all of it, too, where a fit has something to spend it on."""
    assert len(OTHERS) == 11
    for (model, nfe, name), row in ROWS.items():
        limit = ROWS[model, nfe, "tune"]["evaluations"]
        assert row["asked"] == nfe
        assert row["evaluations"] <= limit, (model, nfe, name)
        assert name == "dmn" or row["evaluations"] >= 0.85 * limit, (model, nfe, name)
