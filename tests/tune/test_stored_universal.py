"""What the stored run of one fit for all budgets and weights found (`python benchmarks/universal.py`)."""

import json
import math
from pathlib import Path

KEPT = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "universal.json").read_text())
ROWS = [row for row in KEPT["rows"] if row.get("of") == KEPT["fits"][row["model"]]["evaluations"]]


def test_its_plans_are_as_good_as_fits_of_their_own():
    """Within a tenth in most cases, and better on the whole."""
    assert len(ROWS) >= 50
    ratios = {(row["weight"], row["nfe"]): row["universal"] / row["own"] for row in ROWS}
    assert sum(ratio <= 1.1 for ratio in ratios.values()) >= 0.8 * len(ratios)
    assert math.prod(ratios.values()) ** (1 / len(ratios)) < 1.0
    assert all(ratio <= 1.1 for (_, nfe), ratio in ratios.items() if nfe <= 7)
