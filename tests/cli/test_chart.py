"""The chart names the best of many and keeps the rest in grey."""

import pytest

from retrograde.cli import chart

BUDGETS = (4, 8, 16)


def entry(label: str, nfe: int, value: float, stochastic: bool) -> dict:
    figures = {"energy": {"value": value}}
    return {"label": label, "nfe": nfe, "kind": "recipe", "stochastic": stochastic, "rms": value, "figures": figures}


@pytest.fixture
def results() -> dict:
    """Ten deterministic and thirty stochastic recipes, better by number."""
    sure = [entry(f"sure_{i}", nfe, (i + 1) / nfe, False) for i in range(10) for nfe in BUDGETS]
    drawn = [entry(f"drawn_{i}", nfe, (i + 1) / nfe, True) for i in reversed(range(30)) for nfe in BUDGETS]
    return {
        "errors": sure,
        "quality": [*sure[:9], *drawn],
        "judge": {"headline": "energy", "floor": {"energy": {"low": 0.1, "high": 0.2}}},
        "reference": {"rms_apart": 0.0},
        "settings": {"quality_n": 64},
    }


def test_five_of_each_kind_are_named_and_all_are_drawn(results):
    pytest.importorskip("matplotlib")
    errors, quality = chart._figure(results).axes
    named = errors.get_legend_handles_labels()[1]
    assert set(named) == {f"sure_{i}" for i in range(5)}
    assert "5 more in grey" in errors.get_title(loc="left")
    named = quality.get_legend_handles_labels()[1]
    assert set(named) == {*(f"sure_{i}" for i in range(3)), *(f"drawn_{i}" for i in range(5)), "fresh sets of the same law"}
    assert "25 more in grey" in quality.get_title(loc="left")
    assert len(quality.lines) == 33
    assert len({line.get_color() for line in quality.lines}) == 3 + 5 + 1
