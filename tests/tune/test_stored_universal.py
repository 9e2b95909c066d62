"""What the stored run of one fit for all budgets and weights found (`python benchmarks/universal.py`)."""

import json
import math
from pathlib import Path

KEPT = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "universal.json").read_text())
ROWS = [row for row in KEPT["rows"] if row.get("of") == KEPT["fits"][row["model"]]["evaluations"]]


def test_interpolated_tables_are_as_good_as_fits_of_their_own():
    """Within a tenth in most cases, never worse by a quarter, and no worse on the whole."""
    assert len(ROWS) >= 13
    ratios = [row["universal"] / row["own"] for row in ROWS]
    assert sum(ratio <= 1.1 for ratio in ratios) >= 0.8 * len(ratios)
    assert max(ratios) < 1.25
    assert math.prod(ratios) ** (1 / len(ratios)) < 1.03
    assert not {row["weight"] for row in ROWS} & {1.0, 2.0, 4.0, 8.0}
