"""What every recipe of the registry measures to: the slope of its error on an exact answer, its cost and its memory.

The measures are those of the law tests. A deterministic recipe: slope of log error against log steps, to the exact end of
the probability flow of a Gaussian mixture, between the levels 2 and 0.5. A stochastic one: slope of the largest error of
mean or standard deviation over three Gaussians, propagated without sampling, and that error at the finest grid.

    python benchmarks/registry.py [NAME ...]

writes benchmarks/results/registry.json (of named recipes, their entries alone), from which the table of recipes in the
documentation is made.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

import retrograde as rg
from retrograde.errors import RetrogradeError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "registry.json"
COMMAND = "python benchmarks/registry.py"
PATHS = ("edm", "flow", "vp")


@cache
def law(file: str) -> ModuleType:
    """Load a module of the tests: there the measures are at home."""
    name = f"registry_{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / file)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(ROOT / "tests" / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@cache
def flow() -> Any:
    return law("laws/test_order.py").exact_flow(law("conftest.py").mixture_on(rg.paths.EDM()))


def errors(recipe: rg.recipes.Recipe, path: rg.paths.Path) -> tuple[tuple[int, ...], list[float]]:
    """Return the numbers of steps and the error of the recipe with each, in units of the data."""
    if recipe.stochastic:
        moments = law("laws/test_moments.py")
        options = moments.SMALL_CHURN.get(recipe.name, {})
        return moments.COUNTS, [moments.weak_error(recipe, path, n, options) for n in moments.COUNTS]
    order = law("laws/test_order.py")
    den = law("conftest.py").mixture_on(path)
    return order.COUNTS, [order.final_error(recipe, den, flow(), n) for n in order.COUNTS]


def measure(name: str) -> dict[str, Any]:
    """Return what one recipe measures to; a path it does not serve is missing among the slopes."""
    recipe = rg.recipes.get(name)
    slopes: dict[str, float] = {}
    finest: dict[str, float] = {}
    counts: tuple[int, ...] = ()
    for path_name in PATHS:
        try:
            counts, found = errors(recipe, rg.paths.get(path_name)())
        except RetrogradeError:
            continue
        slopes[path_name] = round(-float(np.polyfit(np.log(counts), np.log(found), 1)[0]), 3)
        finest[path_name] = float(f"{found[-1]:.3g}")
    plan = rg.plan(name, rg.paths.VP(), nfe=20)
    steps = max(1, recipe.points(20)[0] - 1)
    return {
        "title": recipe.title,
        "order": recipe.order,
        "evaluations": recipe.evaluations,
        "draws": round(sum(bool(row.noises) for row in plan.rows) / steps, 2),
        "kept": dict(zip(("states", "outputs", "noises"), kept(plan), strict=True)),
        "steps": list(counts),
        "slopes": slopes,
        "finest": finest,
    }


def kept(plan: rg.Plan) -> tuple[int, ...]:
    """Return how many states, predictions and draws a run of the plan holds on to."""
    states, outputs, noises = plan.depth
    return states, outputs, noises if plan.stochastic else 0


def main() -> None:
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or rg.recipes.names()
    held = json.loads(RESULTS.read_text(encoding="utf-8"))["recipes"] if sys.argv[1:] else {}
    recipes = {name: held[name] for name in rg.recipes.names() if name in held}
    for name in chosen:
        recipes[name] = measure(name)
        print(name, recipes[name]["order"], recipes[name]["slopes"], flush=True)
    versions = {"retrograde": rg.__version__, "torch": torch.__version__, "python": platform.python_version()}
    stored = {"command": COMMAND, "versions": versions, "recipes": dict(sorted(recipes.items()))}
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
