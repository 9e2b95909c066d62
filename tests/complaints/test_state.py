"""Whose state a run is, and where it begins: complaints 16 to 21 of docs/complaints.md."""

import threading

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.interop import schedulers
from retrograde.noise import Brownian, Noise, Remembered

VP = rg.paths.VP()
ALL = rg.recipes.names()


def gaussian(*shape: int, path: rg.paths.Path = VP, predicts: str = "data") -> rg.oracles.Gaussian:
    mean = torch.linspace(-1.0, 1.0, int(torch.tensor(shape).prod())).reshape(shape)
    return rg.oracles.Gaussian(path, mean, 0.3 + mean.square().flatten(), predicts=predicts)


@pytest.mark.parametrize("name", ALL)
def test_runs_of_one_plan_take_turns_without_meeting(name):
    """Two calls over the same plan and denoiser, step by step in turn, one of them given up in the middle."""
    plan, den = rg.plan(name, VP, nfe=9), gaussian(2)
    alone = [rg.sample(den, plan, n=n, seed=seed) for n, seed in ((2, 1), (3, 2))]
    one, other, left = (rg.steps(plan, den, n=n, seed=seed) for n, seed in ((2, 1), (3, 2), (2, 3)))
    for k in range(len(plan)):
        first, second = next(one), next(other)
        if k < 3:
            next(left)
    assert torch.equal(first.x_t, alone[0])
    assert torch.equal(second.x_t, alone[1])


def test_threads_share_a_plan_and_a_denoiser():
    plan, den = rg.plan("unipc_3", VP, nfe=12), gaussian(2)
    made: dict[int, torch.Tensor] = {}

    def call(seed: int) -> None:
        made[seed] = rg.sample(den, plan, n=2, seed=seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, samples in made.items():
        assert torch.equal(samples, rg.sample(den, plan, n=2, seed=seed))
    assert len(made) == 6


@pytest.mark.parametrize("name", ALL)
def test_a_plan_that_ran_is_the_plan_it_was(name):
    plan, again = rg.plan(name, VP, nfe=6), rg.plan(name, VP, nfe=6)
    first = rg.sample(gaussian(2), plan, n=2, dtype=torch.float16)
    assert plan == again
    assert str(plan) == str(again)
    assert torch.equal(rg.sample(gaussian(2), plan, n=2, dtype=torch.float16), first)


@pytest.mark.diffusers
@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler", "DEISMultistepScheduler"])
def test_levels_that_are_told_alike_are_still_steps_of_their_own(name):
    """Uneven levels lie between trained steps: some are told the same whole number, and none is lost or mixed up."""
    from retrograde.interop.diffusers import PlanScheduler

    plan = schedulers.from_diffusers({"_class_name": name, "use_exponential_sigmas": True}, 60)
    told = [row.network_time for row in plan.rows if row.time is not None]
    assert len(set(told)) < len(told)
    scheduler, den = PlanScheduler(plan), gaussian(2, path=plan.path)
    scheduler.set_timesteps(plan.nfe)
    x = start = torch.tensor([[1.0, -1.0]])
    for step, t in zip(
        scheduler.timesteps.tolist(), plan.times, strict=True
    ):  # as numbers, which say nothing of their place
        x = scheduler.step(den(x, t).noise, step, x).prev_sample
    torch.testing.assert_close(x, rg.sample(den, plan, x=start), rtol=1e-4, atol=1e-4)


def test_levels_that_fall_on_one_trained_step_are_refused():
    path = schedulers.path_of({"_class_name": "DDIMScheduler"})
    den = rg.Denoiser(lambda x, t: x, path, "noise", (2,))
    with pytest.raises(BadValue, match="fewer evaluations"):
        rg.plan("unipc_2", den, nfe=400, grid="karras")
    with pytest.raises(BadValue, match=r"3 times[\s\S]*snap"):
        rg.plan("unipc_2", den, grid=[0.9, 0.8999, 0.5])
    assert rg.plan("unipc_2", path, grid=[0.9, 0.8999, 0.5]).nfe == 3


@pytest.mark.parametrize("name", ALL)
def test_a_run_from_a_lower_level_spends_its_whole_budget_below_it(name):
    """It starts at the level that is asked for, not at the next one of a longer grid."""
    for sigma in (4.321, 0.777):
        plan = rg.plan(name, VP, nfe=9, start=sigma)
        assert plan.nfe == 9
        assert VP.sigma(plan.start) == pytest.approx(sigma)
        signal = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
        noised = rg.record(gaussian(2), plan, signal=signal).trajectory[0]
        noise = Noise.first(1).prior((2,), torch.float64)
        torch.testing.assert_close(noised, VP.a(plan.start) * signal + VP.s(plan.start) * noise)


@pytest.mark.diffusers
def test_in_a_pipeline_too_a_plan_starts_at_the_level_asked_for():
    from retrograde.interop.diffusers import PlanScheduler

    path = schedulers.path_of({"_class_name": "DDIMScheduler"})
    plan = rg.plan("dpmpp_2m", path, nfe=5, start=1.5)
    scheduler = PlanScheduler(plan)
    clean, eps = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.3, 0.4]])
    noised = scheduler.add_noise(clean, eps, scheduler.timesteps[:1])
    torch.testing.assert_close(noised, path.a(plan.start) * clean + path.s(plan.start) * eps)
    assert path.sigma(plan.start) == pytest.approx(1.5)


@pytest.mark.parametrize("name", ["dpmpp_sde", "dpmpp_2m_sde", "sa_solver", "unipc_3", "edm_stochastic"])
def test_one_plan_serves_one_size_after_another(name):
    plan = rg.plan(name, VP, nfe=9)
    for source in (Noise, Brownian):
        for shape in ((2,), (1, 3, 4), (2,)):
            assert rg.sample(gaussian(*shape), plan, n=2, noise=source).shape == (2, *shape)


def test_noise_that_is_remembered_is_that_of_the_shape_type_and_items_asked_for():
    kept, fresh = Remembered(Noise.first(2)), Noise.first(2)
    for shape, dtype in (((3,), torch.float32), ((2, 4), torch.float32), ((3,), torch.float64), ((3,), torch.float32)):
        draw = kept.draw(shape, (0.7, 0.3), 0, dtype)
        assert torch.equal(draw, fresh.draw(shape, (0.7, 0.3), 0, dtype))
        assert kept.draw(shape, (0.7, 0.3), 0, dtype) is draw


@pytest.mark.diffusers
@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "unipc_3"])
def test_a_pipeline_may_change_its_size_even_after_a_call_that_was_broken_off(name):
    from retrograde.interop.diffusers import PlanScheduler

    path = schedulers.path_of({"_class_name": "DDIMScheduler"})
    plan = rg.plan(name, path, nfe=5)
    scheduler = PlanScheduler(plan)
    ends = []
    for shape, steps in (((3,), 2), ((2, 4), 5), ((3,), 5), ((3,), 5)):
        den, x, draws = gaussian(*shape, path=path), torch.ones(2, *shape), torch.Generator().manual_seed(0)
        scheduler.set_timesteps(5)
        for step, t in list(zip(scheduler.timesteps, plan.times, strict=True))[:steps]:
            x = scheduler.step(den(x, t).noise, step, x, generator=draws).prev_sample
        ends.append(x)
    assert torch.equal(ends[2], ends[3])
    assert ends[1].isfinite().all()
