"""Who is best among the measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Entry = dict[str, Any]


def best(errors: Sequence[Entry], nfe: int, label: str | None = None) -> Entry | None:
    """Return the recipe (or the grid of one recipe) of least rms error at a budget."""
    fit = [e for e in errors if e["kind"] == "recipe" and e["nfe"] == nfe and label in (None, e["label"])]
    return min(fit, key=lambda e: e["rms"], default=None)


def leaders(errors: Sequence[Entry], nfe: int, count: int) -> list[Entry]:
    """Return the recipes of least error at a budget, each on its best grid."""
    labels = dict.fromkeys(e["label"] for e in errors if e["kind"] == "recipe" and e["nfe"] == nfe)
    found = [entry for label in labels if (entry := best(errors, nfe, label)) is not None]
    return sorted(found, key=lambda e: e["rms"])[:count]


def fitted_at(errors: Sequence[Entry], nfe: int) -> Entry | None:
    """Return the best of the plans (fitted here, or given as files) of exactly this budget."""
    return min((e for e in errors if e["kind"] != "recipe" and e["nfe"] == nfe), key=lambda e: e["rms"], default=None)


def order(errors: Sequence[Entry]) -> list[str]:
    """Return the recipes, best first: by the mean over budgets of the log of their error over the best one's."""
    budgets = sorted({e["nfe"] for e in errors})
    labels = dict.fromkeys(e["label"] for e in errors if e["kind"] == "recipe")

    def excess(label: str) -> float:
        logs = []
        for nfe in budgets:
            own, top = best(errors, nfe, label), best(errors, nfe)
            if own is not None and top is not None:
                logs.append(math.log(max(own["rms"], 1e-30) / max(top["rms"], 1e-30)))
        return sum(logs) / len(logs) if logs else math.inf

    return sorted(labels, key=excess)
