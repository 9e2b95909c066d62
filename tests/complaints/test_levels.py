"""Levels, solvers and what the network is told, each in its own place: complaints 1 to 9 of docs/complaints.md."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, PlanError
from retrograde.interop import schedulers

STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
STEPS = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)  # Align Your Steps for Stable Diffusion, as trained steps


@pytest.mark.diffusers
def test_a_shift_is_applied_once_however_often_the_plan_is_saved_and_read(tmp_path):
    from retrograde.interop.diffusers import PlanScheduler

    plan = rg.plan("unipc_2", rg.paths.Flow(), nfe=6, grid="shifted", shift=3.0)
    assert plan.times == pytest.approx([3 * u / (1 + 2 * u) for u in (1 - i / 6 for i in range(6))])
    scheduler = PlanScheduler(plan)
    for k in range(3):
        scheduler.set_timesteps(6, mu=1.15)
        scheduler.save_pretrained(tmp_path / str(k))
        scheduler = PlanScheduler.from_config(PlanScheduler.from_pretrained(tmp_path / str(k)).config)
        assert scheduler.plan == plan
        assert scheduler.sigmas.tolist() == pytest.approx([*plan.times, 0.0])


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_a_network_opened_with_a_shift_is_on_the_path_without_it(shift):
    assert schedulers.path_of({**FLOW, "shift": shift}) == rg.paths.Flow()


@pytest.mark.parametrize("name", schedulers.names())
@pytest.mark.parametrize("given", [{"timesteps": [900, 600, 300]}, {"sigmas": [0.9, 0.6, 0.3]}], ids=["timesteps", "sigmas"])
def test_levels_of_ones_own_are_kept_or_refused_by_name(name, given):
    """Never replaced by others in silence."""
    options = {"_class_name": name, "clip_sample": False, "clip_denoised": False, "use_flow_sigmas": True, "stages": 1}
    ((word, levels),) = given.items()
    try:
        plan = schedulers.from_diffusers(options, **given)
    except BadValue as refused:
        error = refused
    else:
        error = None
    if error is not None:
        assert word in error.given
        assert name in error.given
        assert f"{word}" in error.mend
        return
    # the last of Euler's levels is its end; Heun tells the same level from both sides
    asked = levels[: 2 if name == "EulerDiscreteScheduler" and word == "sigmas" else 3]
    if word == "sigmas":
        level = plan.path.s if plan.path.name == "flow" else plan.path.sigma
        assert [level(t) for t in plan.times] == pytest.approx(asked, rel=1e-6)
    elif plan.path.name == "flow":
        assert [1000 * t for t in plan.times] == pytest.approx(asked)
    else:
        told = [row.network_time for row in plan.rows if row.time is not None]
        assert list(dict.fromkeys(told)) == asked
        assert list(dict.fromkeys(plan.times)) == pytest.approx([(step + 1) / 1000 for step in asked])


@pytest.mark.parametrize("shift", [1.0, 3.0, 12.0])
def test_a_flow_network_is_told_the_level_it_is_asked_at(shift):
    told: list[float] = []

    def network(x, t):
        told.append(float(t[0]))
        return x

    den = rg.Denoiser(network, rg.paths.Flow(), "velocity", (2,), clock=lambda t: 1000 * t)
    plan = schedulers.from_diffusers({**FLOW, "shift": shift}, sigmas=[1.0, 0.7, 0.3])
    rg.sample(den, plan)
    assert told == pytest.approx([1000 * t for t in plan.times])
    assert plan.times == pytest.approx([shift * u / (1 + (shift - 1) * u) for u in (1.0, 0.7, 0.3)])


def test_unipc_on_a_flow_takes_levels_of_ones_own():
    flow = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    levels = [0.95, 0.7, 0.2, 0.05]
    plan = schedulers.from_diffusers(flow, sigmas=levels, flow_shift=3.0)
    assert plan.times == pytest.approx([3 * u / (1 + 2 * u) for u in levels])
    assert rg.plan("unipc_2", rg.paths.Flow(), grid=levels).times == tuple(levels)


@pytest.mark.parametrize("name", rg.recipes.names())
def test_every_recipe_takes_a_published_list_of_trained_steps(name):
    """And asks the network at these very steps, whatever else it asks between them."""
    path = schedulers.path_of({"_class_name": "DDIMScheduler", **STABLE})
    den = rg.Denoiser(lambda x, t: x, path, "noise", (2,))
    plan = rg.plan(name, den, grid=[(step + 1) / 1000 for step in STEPS]).bind(den)
    told = [row.network_time for row in plan.rows if row.time is not None]
    assert set(STEPS) <= set(told)
    if len(told) == len(STEPS):
        assert told == list(STEPS)


def test_the_published_levels_fit_the_models_they_were_made_for():
    """The table's ends are those of the model's own schedule, rounded to three decimals."""
    path = schedulers.path_of({"_class_name": "EulerDiscreteScheduler", **STABLE})
    for model in ("sd15", "sdxl"):
        grid = rg.grids.align_your_steps(path, 11, model=model)
        assert [path.sigma(t) for t in grid] == pytest.approx(rg.grids.ALIGN_YOUR_STEPS[model], abs=5e-4)
        assert path.t_min <= grid[-1] < grid[0] <= path.t_max
        assert rg.plan("unipc_3", path, nfe=11, grid="align_your_steps", model=model).nfe == 11
    with pytest.raises(BadValue, match="svd table"):
        rg.grids.align_your_steps(path, 11, model="svd")


@pytest.mark.parametrize("path_name", ["flow", "vp", "edm"])
@pytest.mark.parametrize("grid", ["karras", "log_snr", "uniform", "cosine", "sigma"])
def test_any_solver_goes_with_any_levels(grid, path_name):
    """One grid, all recipes, all kinds of path: the run comes to the levels of the grid, in their order, exactly."""
    path = rg.paths.get(path_name)()
    levels = rg.grids.make(path, 6, grid, sigma_min=0.05, sigma_max=9.0)
    for name in rg.recipes.names():
        plan = rg.plan(name, path, grid=levels)
        come_to = (plan.start, *(row.next_time for row in plan.rows))
        assert [t for t in dict.fromkeys(come_to) if t in levels] == list(levels), name


@pytest.mark.parametrize("name", schedulers.sampler_names())
def test_every_sampler_keeps_the_levels_it_is_given(name):
    levels = [14.6, 5.0, 1.7, 0.4, 0.03]
    plan = schedulers.from_k_diffusion(name, [*levels, 0.0])
    if name == "dpm_fast":  # the peer's function, too, takes the ends of the list and its length
        assert (plan.start, plan[-1].next_time, plan.nfe) == (14.6, pytest.approx(0.03), 5)
        return
    assert set(levels) <= {plan.start, *(row.next_time for row in plan.rows)}


def test_paths_of_one_name_and_other_numbers_are_other_paths():
    """What sets them apart are their numbers, which the plan holds; mixing them up is refused."""
    one, other = rg.paths.VP(), rg.paths.VP(beta_max=6.0)
    assert (one.name, one.fingerprint) != (other.name, other.fingerprint)
    assert one.a(1.0) < 0.01 < other.a(1.0)
    plan = rg.plan("ddim", one, nfe=3)
    with pytest.raises(PlanError, match="on_path"):
        plan.bind(rg.Denoiser(lambda x, t: x, other, "noise", (2,)))
    assert {field.name for field in dataclasses.fields(rg.paths.VP) if field.init} >= {"beta_min", "beta_max"}
    x = torch.ones(1, 2, dtype=torch.float64)
    exact = rg.oracles.Gaussian(other, torch.zeros(2), torch.ones(2))  # bridged by level, not by the number t
    through = rg.sample(exact, rg.plan("ddim", one, nfe=60, start=3.0), x=x * one.s(one.time_of_sigma(3.0)))
    assert through.abs().max() == pytest.approx(3.0 / 10**0.5, rel=2e-2)
