"""What the peers' slips cost, and that the mended formulas do not slip: measured, with the measures of the law tests."""

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import retrograde as rg
from retrograde.interop.classes import SCHEDULERS
from retrograde.interop.ladders import Ladder
from retrograde.plan import Row
from retrograde.recipes import Recipe
from retrograde.recipes.recipe import data_basis, noise_basis

LAWS = Path(__file__).parents[1] / "laws"
ORDER, MOMENTS = (SimpleNamespace(**runpy.run_path(str(LAWS / f"test_{name}.py"))) for name in ("order", "moments"))
flow = ORDER.flow  # the fixture with the exact end of the probability flow


def as_recipe(name: str, mended: bool, **options: object) -> Recipe:
    """The steps of a scheduler between any times, so that its order can be measured as that of a recipe is."""
    scheduler = SCHEDULERS[f"{name}Scheduler"]
    config = {**scheduler.options, **scheduler.step, "lower_order_final": False, **options}

    def write(path: rg.paths.Path, times: tuple[float, ...]) -> list[Row]:
        ladder = Ladder(path, times[:-1], times[-1])
        return scheduler.write(ladder, config, mended).rows

    data = str(config.get("algorithm_type", "")).endswith("++")
    basis = data_basis if data else noise_basis
    stochastic = str(config.get("algorithm_type", "")).startswith("sde")
    return Recipe(name, write, basis, 0, 1, stochastic, "log_snr", "for this test")


def deterministic(recipe: Recipe, den: rg.oracles.GaussianMixture, flow: Callable) -> float:
    errors = [ORDER.final_error(recipe, den, flow, n) for n in ORDER.COUNTS]
    return ORDER.slope_of(errors)


def weak(recipe: Recipe, path: rg.paths.Path) -> float:
    errors = [MOMENTS.weak_error(recipe, path, n, {}) for n in MOMENTS.COUNTS]
    return -float(np.polyfit(np.log(MOMENTS.COUNTS), np.log(errors), 1)[0])


@pytest.mark.parametrize("kind", ["dpmsolver++", "dpmsolver"])
def test_half_of_the_second_difference_costs_an_order(kind, mixture, flow):
    published, mended = (
        deterministic(as_recipe("DPMSolverMultistep", choice, solver_order=3, algorithm_type=kind), mixture(rg.paths.EDM()), flow)
        for choice in (False, True)
    )
    assert published == pytest.approx(2.0, abs=0.25)
    assert mended == pytest.approx(3.0, abs=0.25)


@pytest.mark.parametrize(("name", "order"), [("DPMSolverMultistep", 2.0), ("DPMSolverSinglestep", 1.0)])
def test_with_the_wrong_sign_the_stochastic_third_order_does_not_converge(name, order):
    """More steps do not help the published one. Single-step blocks draw anew in each stage: mended they have order 1."""
    published, mended = (
        weak(as_recipe(name, choice, solver_order=3, algorithm_type="sde-dpmsolver++", solver_type="heun"), rg.paths.VP())
        for choice in (False, True)
    )
    assert published < 0.25
    assert mended == pytest.approx(order, abs=0.25)
