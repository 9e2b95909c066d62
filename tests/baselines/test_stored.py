"""What the stored run of all tuners found (`python benchmarks/baselines.py`)."""

import json
from pathlib import Path

FOUND = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "baselines.json").read_text())["rows"]
ROWS = {(row["model"], row["nfe"], row["tuner"]): row for row in FOUND}
OTHERS = sorted({row["tuner"] for row in FOUND} - {"tune"})
PAIRS = list(dict.fromkeys(key[:2] for key in ROWS))


def test_every_fit_was_given_what_the_tuner_asked_for():
    """Nearly all of it, too, where a fit has something to spend it on."""
    assert len(OTHERS) == 11
    for pair in PAIRS:
        for name in OTHERS:
            row, limit = ROWS[*pair, name], ROWS[*pair, "tune"]["evaluations"]
            assert row["asked"] == pair[1]
            assert row["evaluations"] <= limit, (pair, name)
            assert name == "dmn" or row["evaluations"] >= 0.85 * limit, (pair, name)


def test_the_tuner_beats_each_on_nine_pairs_of_ten():
    assert len(PAIRS) == 10
    for name in OTHERS:
        assert sum(ROWS[*pair, "tune"]["rms"] < ROWS[*pair, name]["rms"] for pair in PAIRS) >= 9, name
