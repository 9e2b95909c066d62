"""The last step, and the first: complaints 10 to 15 of docs/complaints.md."""

import contextlib
import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.interop import schedulers

NARROW = 0.01
OTHERS = {"final_sigmas_type": "sigma_min", "use_flow_sigmas": True}
# take two steps only; refuse order three; need a number of steps that divides the trained ones
PARTICULAR = ("SCMScheduler", "CosineDPMSolverMultistepScheduler", "PNDMScheduler")


def narrow(path: rg.paths.Path) -> rg.oracles.Gaussian:
    """Data so narrow that noise which is left over shows."""
    return rg.oracles.Gaussian(path, torch.tensor([0.7, -0.4]), torch.full((2,), NARROW**2))


@pytest.mark.parametrize("path_name", ["vp", "flow"])
@pytest.mark.parametrize("name", rg.recipes.names())
def test_the_sample_is_the_last_mean_and_holds_no_noise(name, path_name):
    path = rg.paths.get(path_name)()
    den = narrow(path)
    for nfe in (1, 2, 9):
        plan = rg.plan(name, path, nfe=nfe)
        assert plan[-1].next_time is None
        *_, last = rg.steps(plan, den, n=16, seed=1, dtype=torch.float64)
        assert torch.allclose(last.x_t, last.mean, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "dpmpp_2m", "unipc_3"])
def test_few_steps_on_uneven_levels_leave_no_speckle(name):
    """The spread of the samples about a far narrower data set is that of the data, not of leftover noise."""
    path = rg.paths.VP()
    for grid, nfe in (("karras", 6), ("log_snr", 6), ("karras", 20)):
        samples = rg.sample(narrow(path), rg.plan(name, path, nfe=nfe, grid=grid), n=128, seed=2, dtype=torch.float64)
        assert float(samples.std(0).max()) < 1.3 * NARROW


@pytest.mark.parametrize("name", rg.recipes.names())
def test_no_step_goes_through_the_logarithm_of_zero(name):
    """Levels of steps are positive, and no step is longer than asked for; below the last there is one row, the mean."""
    path = rg.paths.EDM()
    grid = rg.grids.log_snr(path, 12)
    asked = math.log(grid[0] / grid[1])
    plan = rg.plan(name, path, grid=grid)
    levels = [plan.start, *(row.next_time for row in plan.rows[:-1])]
    assert levels[-1] == path.sigma_min
    assert plan[-1].next_time is None
    longest = max(math.log(x / y) for x, y in zip(levels, levels[1:], strict=False))
    rises = 2 if name == "edm_stochastic" else 1  # it steps from above the level that it has raised
    assert longest < rises * asked * (1 + 1e-9)


@pytest.mark.parametrize("name", schedulers.names())
def test_every_number_of_steps_of_every_scheduler_is_finite(name):
    """Single-step order 3 with 3n - 1 steps among them, and with both ways to end."""
    options = {"clip_sample": False, "clip_denoised": False, "correct_steps": 0, "stages": 1, "scheduler_type": "euler"}
    own = schedulers.SCHEDULERS[name].options
    variants = [{}]
    if "solver_order" in own:
        variants += [{"solver_order": order} for order in (1, 2, 3)]
        variants += [{"solver_order": 3, k: v} for k, v in OTHERS.items() if k in own]
    config = {"_class_name": name, **{k: v for k, v in options.items() if k in own}}
    for variant in variants:
        for n in (1, 2, 3, 5, 8, 11, 20):
            with contextlib.suppress(BadValue) if n < 4 or name in PARTICULAR else contextlib.nullcontext():
                plan = schedulers.from_diffusers(config, n, **variant)
                assert rg.sample(narrow(plan.path), plan, n=2).isfinite().all(), (variant, n)


@pytest.mark.diffusers
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_on_a_flow_comes_to_its_end_and_can_begin_again(order):
    from retrograde.interop.diffusers import PlanScheduler

    config = {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    for n in (1, 2, 3, 4, 8):
        plan = schedulers.from_diffusers(config, n, solver_order=order, flow_shift=3.0)
        scheduler, den = PlanScheduler(plan), narrow(plan.path)
        for _ in range(2):
            scheduler.set_timesteps(n)
            x = torch.tensor([[1.0, -1.0]])
            for step, t in zip(scheduler.timesteps, plan.times, strict=True):
                x = scheduler.step(den(x, t).velocity, step, x).prev_sample
            assert scheduler.step_index is None
            torch.testing.assert_close(x, rg.sample(den, plan, x=torch.tensor([[1.0, -1.0]])), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", schedulers.sampler_names())
def test_a_closing_zero_is_lawful_for_every_sampler_and_so_is_none(name):
    levels = [14.6, 5.0, 1.7, 0.4, 0.1, 0.03]
    to_zero, above = (schedulers.from_k_diffusion(name, sigmas) for sigmas in ([*levels, 0.0], levels))
    for plan in (to_zero, above):
        x = torch.full((1, 2), 14.6, dtype=torch.float64)
        assert rg.sample(narrow(plan.path), plan, x=x).isfinite().all()
    assert above[-1].next_time == pytest.approx(0.03)
