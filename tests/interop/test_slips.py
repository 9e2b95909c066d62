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
from retrograde.interop.schedulers import from_diffusers
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
        deterministic(
            as_recipe("DPMSolverMultistep", choice, solver_order=3, algorithm_type=kind), mixture(rg.paths.EDM()), flow
        )
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


SCALED = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


@pytest.mark.parametrize(
    "config",
    [
        {"_class_name": "DDIMScheduler", "timestep_spacing": "linspace", **SCALED},
        {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", **SCALED},
        {"_class_name": "PNDMScheduler", "timestep_spacing": "trailing", "skip_prk_steps": True},
        {"_class_name": "PNDMScheduler", "prediction_type": "v_prediction", "skip_prk_steps": True},
        {"_class_name": "UnCLIPScheduler", "clip_sample": False},
        {"_class_name": "LCMScheduler"},
        {"_class_name": "IPNDMScheduler"},
        {"_class_name": "EDMDPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3},
        {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "final_sigmas_type": "sigma_min"},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
        {"_class_name": "CogVideoXDPMScheduler", "timestep_spacing": "trailing"},
        {"_class_name": "DDPMWuerstchenScheduler"},
        {"_class_name": "HeliosScheduler", "stages": 1},
    ],
    ids=lambda config: config["_class_name"],
)
def test_mended_plans_keep_every_law(config):
    plan = from_diffusers(config, 7, mended=True)
    assert not plan.misses
    if config["_class_name"] in ("DDIMScheduler", "IPNDMScheduler", "UnCLIPScheduler", "DDPMWuerstchenScheduler"):
        assert from_diffusers(config, 7).misses == ("point mass",)


def test_mended_flow_shifts_once():
    once, twice = (
        from_diffusers({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, 7, mended=m) for m in (1, 0)
    )
    least = 3 * 1e-3 / (1 + 2 * 1e-3)
    assert once.times[-1] == pytest.approx(least, rel=1e-6)
    assert twice.times[-1] == pytest.approx(3 * least / (1 + 2 * least), rel=1e-6)
    assert (once.times[0], twice.times[0]) == (1.0, 1.0)


def test_mended_ddim_is_ddim_at_the_same_steps():
    plan = from_diffusers({"_class_name": "DDIMScheduler", "timestep_spacing": "trailing", **SCALED}, 7, mended=True)
    right = rg.plan("ddim", plan.path, grid=plan.times)
    for one, other in zip(plan.rows, right.rows, strict=True):
        assert one.states == pytest.approx(other.states, abs=1e-12)
        assert one.outputs == pytest.approx(other.outputs, abs=1e-12)
