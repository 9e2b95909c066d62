"""Plans and what there is to choose from, as the page shows them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch

import retrograde as rg
from retrograde import grids, plan_file
from retrograde._version import __version__
from retrograde.cli.complete import configurations
from retrograde.cli.console import plain
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import RetrogradeError
from retrograde.plan import Plan
from retrograde.studio.shelf import REFERENCE, Shelf
from retrograde.tune.effort import EFFORTS

COLUMNS = {
    "row": "number of the step",
    "time": "path time at which the network is asked",
    "sigma": "noise level s/a there",
    "told": "what the network is told",
    "next": "path time of the state this row makes",
    "states": "coefficients on the last states, newest first",
    "outputs": "coefficients on the last predictions, newest first",
    "noises": "coefficients on noise draws",
    "anchor": "coefficient on the anchor",
    "shift": "a constant added",
    "correction": "a small network added",
    "knobs": "requests to other parts for this row",
}
"""What each column of the table holds."""


def catalogue(shelf: Shelf) -> dict[str, Any]:
    """Return everything a page offers: models, recipes, grids, efforts."""
    found = [rg.recipes.get(name) for name in rg.recipes.names()]
    return {
        "version": __version__,
        "models": list(shelf.models),
        "recipes": [
            {
                "name": recipe.name,
                "summary": recipe.summary,
                "stochastic": recipe.stochastic,
                "evaluations": recipe.evaluations,
                "options": _settings(recipe.options),
            }
            for recipe in found
        ],
        "grids": [{"name": name, "options": _settings(_defaults(name))} for name in rg.grids.names()],
        "efforts": list(EFFORTS),
        "reference": {"recipe": REFERENCE[0], "nfe": REFERENCE[1]},
        "columns": COLUMNS,
    }


def _defaults(name: str) -> dict[str, Any]:
    accepted = inspect.signature(grids.get(name)).parameters
    return {key: p.default for key, p in accepted.items() if key not in ("path", "n")}


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options a field can hold: numbers, switches, words."""
    return {
        key: plain(value) for key, value in options.items() if value is None or isinstance(value, bool | int | float | str)
    }


def model(shelf: Shelf, name: str) -> dict[str, Any]:
    """Return what the page has to know of a model."""
    from retrograde.studio import strip

    denoiser = shelf.model(name)
    low, high = grids.levels(denoiser.path)
    labels = getattr(getattr(getattr(denoiser, "network", None), "embedding", None), "classes", 0)
    width, height = strip.size(denoiser.shape)
    return {
        "name": name,
        "shape": list(denoiser.shape),
        "item": {"width": width, "height": height},
        "path": {"name": denoiser.path.name, "fingerprint": denoiser.path.fingerprint},
        "predicts": denoiser.predicts,
        "conditions": sorted(denoiser.conditions),
        "typed": sorted(name for name, null in denoiser.conditions.items() if torch.as_tensor(null).ndim == 0),
        "reads": sorted(denoiser.reads),
        "classes": labels if isinstance(labels, int) else 0,
        "sigma": {"low": low, "high": high},
        "embedded": name in configurations(),
    }


def plan(made: Plan, denoiser: AbstractDenoiser) -> dict[str, Any]:
    """Return a plan as the page shows it: its table, its levels, and which of these can be moved."""
    try:
        bound = made.bind(denoiser)
    except RetrogradeError:
        bound = made  # a plan of another path: the run converts, and tells the network what is right there
    table = plan_file.table(bound)
    moved = made.provenance.get("times") if made.provenance.get("recipe") else None
    return {
        "recipe": made.recipe,
        "nfe": made.nfe,
        "basis": made.basis,
        "stochastic": made.stochastic,
        "misses": list(made.misses),
        "path": made.path.fingerprint,
        "columns": list(table[0]),
        "rows": [list(line) for line in table[1:]],
        "times": [row.time for row in made.rows],
        "asked": [_level(made, t) for t in made.times],
        "levels": [_level(made, t) for t in moved] if moved else None,
        "made": [None if row.next_time is None else _level(made, row.next_time) for row in made.rows],
        "report": report(made),
    }


def _level(made: Plan, t: float) -> dict[str, float | None]:
    sigma = made.path.sigma(t)
    return {"time": t, "sigma": sigma if math.isfinite(sigma) else None}


def report(made: Plan) -> dict[str, Any] | None:
    """Return the tuner's held-out figures, the best published solvers beside them; None for a plan without any."""
    found = made.report if isinstance(made.report, dict) else None
    if not found or "error" not in found:
        return None
    keys = ("error", "median", "best_recipe", "best_recipe_at_twice", "seconds", "evaluations", "returned")
    return {key: found.get(key) for key in keys}
