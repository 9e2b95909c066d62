"""What the stored run on digits found (`python benchmarks/inverse_digits.py`)."""

import json
from pathlib import Path

FOUND = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "inverse_digits.json").read_text())


def test_some_method_explains_each_linear_measurement_and_claims_no_more_than_it_knows():
    tasks = {row["task"] for row in FOUND["rows"]}
    assert len(tasks) == 6
    for task in tasks - {"phase retrieval"}:
        honest = [
            row["method"]
            for row in FOUND["rows"]
            if row["task"] == task
            and abs(row["coverage"] - FOUND["claimed"]) < 0.08
            and 0.8 < row["misfit"] < 1.35
            and row["same_digit"] > 0.9
        ]
        assert honest, task
