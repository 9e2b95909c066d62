"""The picture of a comparison: the same noise through different samplers, under each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from retrograde.cli import pictures
from retrograde.cli.candidates import Candidate
from retrograde.cli.question import Question
from retrograde.cli.ranking import best, fitted_at

Strip = tuple[str, Tensor]

_BUDGETS = 3
"""At most so many budgets are shown: the smallest."""


def strips(question: Question, results: dict[str, Any], entrants: Sequence[Candidate], truth: Tensor) -> list[Strip]:
    """Return labelled strips of samples: the reference, and at small budgets the best recipe and the fitted plan.

    Empty for items that are no pictures.
    """
    if not pictures.is_picture(pictures.data_shape(question.denoiser)):
        return []
    errors, plans = results["errors"], {c.key: c.plan for c in entrants}
    count = min(question.picture_items, question.n)
    nfe = results["reference"]["nfe"][0]
    found: list[Strip] = [(f"reference, {nfe} evaluations", question.decoded(truth[:count]))]
    budgets = sorted({e["nfe"] for e in errors})
    held = [b for b in budgets if fitted_at(errors, b)] or budgets
    for budget in held[:_BUDGETS]:
        for entry in (best(errors, budget), fitted_at(errors, budget)):
            if entry is None:
                continue
            name = f"{entry['label']} on {entry['grid']}" if entry["grid"] else f"{entry['label']}"
            label = f"{budget} evaluations: {name}, error {entry['rms']:.3g}"
            found.append((label, question.decoded(question.sample(plans[entry["key"]], count))))
    return found


def page(found: Sequence[Strip]) -> bytes:
    """Return the strips as the content of a PNG file."""
    return pictures.png(pictures.labelled(found))
