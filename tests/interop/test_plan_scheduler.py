"""A plan as the scheduler of a pipeline, against the pipeline's own scheduler and against the library's own loop."""

import copy
import dataclasses
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

import retrograde as rg
from retrograde.correction import Correction
from retrograde.errors import BadType, BadValue, PlanError, UnknownName
from retrograde.interop.schedulers import from_diffusers, path_of, predicts

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:__array:DeprecationWarning"),
]
TOLERANCE = 1e-4
LINEAR = {"_class_name": "DDIMScheduler", "clip_sample": False}


def scheduler_of(plan, *arguments, **options):
    from retrograde.interop.diffusers import PlanScheduler

    return PlanScheduler(plan, *arguments, **options)


def in_place_of(scheduler, plan):
    from retrograde.interop.diffusers import PlanScheduler

    return PlanScheduler.instead_of(scheduler, plan)


def unet_denoiser(pipe, path):
    return rg.Denoiser(lambda x, t: pipe.unet(x, t).sample, path, "noise", (3, 8, 8))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {"clip_sample": False}),
        ("DDIMScheduler", {"clip_sample": False, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
        ("DDPMScheduler", {"clip_sample": False}),
        ("DDPMScheduler", {"clip_sample": False, "prediction_type": "sample"}),
        ("DPMSolverMultistepScheduler", {}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True}),
    ],
)
def test_an_imported_plan_makes_what_the_pipelines_scheduler_makes(
    name, options, tiny_pipeline, states_of, scheduler_called, deviation
):
    pipe = tiny_pipeline("ddpm")
    pipe.scheduler = scheduler_called(name, **options)
    theirs = states_of(pipe, batch_size=2, num_inference_steps=8)
    plan = from_diffusers(pipe.scheduler, 8)
    pipe.scheduler = in_place_of(pipe.scheduler, plan)
    assert deviation(states_of(pipe, batch_size=2, num_inference_steps=8), theirs) < TOLERANCE
    other = from_diffusers(LINEAR, 8, timestep_spacing="linspace")
    pipe.scheduler = scheduler_of(other, pipe.scheduler.config.prediction_type)
    assert deviation(states_of(pipe, batch_size=2, num_inference_steps=8), theirs) > 100 * TOLERANCE


def test_class_labels_and_a_learned_variance(tiny_pipeline, states_of, scheduler_called, deviation):
    """DiT: guidance doubles the batch and every step begins from a fresh copy of its first half.

    Options that nobody gave to the first scheduler take the defaults of the second, in the plan as in `from_config`.
    """
    pipe = tiny_pipeline("dit")
    given = pipe.scheduler
    for name in ("DDIMScheduler", "DPMSolverMultistepScheduler"):
        pipe.scheduler = type(scheduler_called(name)).from_config(given.config)
        theirs = states_of(pipe, class_labels=[1, 2], num_inference_steps=8)
        pipe.scheduler = scheduler_of(from_diffusers(given, 8, class_name=name))
        assert deviation(states_of(pipe, class_labels=[1, 2], num_inference_steps=8), theirs) < TOLERANCE


@pytest.mark.parametrize("recipe", ["ddim", "dpmpp_2m", "unipc_3", "heun", "dpm_solver_3", "pndm"])
def test_the_pipeline_makes_what_the_library_makes(recipe, tiny_pipeline, states_of):
    pipe = tiny_pipeline("ddpm")
    path = path_of(pipe.scheduler)
    plan = rg.plan(recipe, path, nfe=6)
    pipe.scheduler = in_place_of(pipe.scheduler, plan)
    made = states_of(pipe, batch_size=2, num_inference_steps=plan.nfe)
    ours = rg.sample(unet_denoiser(pipe, path), plan, x=made[0])
    torch.testing.assert_close(made[-1], ours, rtol=1e-4, atol=1e-5 * float(ours.abs().max()))


@pytest.mark.parametrize("recipe", ["dpmpp_2m", "unipc_2"])
def test_a_run_that_begins_later_is_the_plan_cut_there(recipe):
    path = path_of(LINEAR)
    plan = rg.plan(recipe, path, nfe=6)
    den = rg.oracles.Gaussian(path, torch.tensor([0.5, -0.2]), torch.tensor([0.3, 0.8]), predicts="noise")
    scheduler = scheduler_of(plan)
    scheduler.set_timesteps(6)
    steps = scheduler.timesteps[2:]
    clean, eps = torch.tensor([[1.0, -1.0]]), torch.tensor([[0.3, 0.4]])
    x = start = scheduler.add_noise(clean, eps, steps[:1])
    t = plan.times[2]
    torch.testing.assert_close(x, path.a(t) * clean + path.s(t) * eps)
    scheduler.set_begin_index(2)
    for k, step in enumerate(steps):
        x = scheduler.step(den(x, plan.times[2 + k]).noise, step, x, return_dict=False)[0]
    torch.testing.assert_close(x, rg.sample(den, plan.from_noise(path.sigma(t)), x=start), rtol=1e-5, atol=1e-6)
    assert scheduler.step_index is None


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("UniPCMultistepScheduler", {"solver_order": 3}),
        ("UniPCMultistepScheduler", {"solver_order": 2, "disable_corrector": [4]}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("DEISMultistepScheduler", {"solver_order": 3}),
        ("SASolverScheduler", {"predictor_order": 3, "corrector_order": 3, "tau_func": lambda t: 0.0}),
    ],
)
def test_an_imported_multistep_run_that_begins_later_starts_again_as_the_peers_does(name, options, scheduler_called):
    """Orders one, two, three from there on: 1e-4 of the peer, where the plan cut and folded is more than that off."""
    theirs = scheduler_called(name, **options)
    plan = from_diffusers(theirs, 8)
    den = rg.oracles.GaussianMixture(
        plan.path, torch.tensor([[1.0, -0.5], [-0.8, 0.7]]), torch.eye(2).expand(2, 2, 2) * 0.1, predicts="noise"
    )
    ends = []
    for scheduler in (theirs, scheduler_of(plan)):
        scheduler.set_timesteps(8)
        steps = scheduler.timesteps[3:]
        scheduler.set_begin_index(3)
        x = start = scheduler.add_noise(torch.tensor([[1.0, -1.0]]), torch.tensor([[0.3, 0.4]]), steps[:1])
        for k, step in enumerate(steps):
            x = scheduler.step(den(x, plan.times[3 + k]).noise.float(), step, x, return_dict=False)[0]
        ends.append(x)
    ours = rg.sample(den, from_diffusers(theirs, 8, begin=3), x=start)
    torch.testing.assert_close(ends[0], ours, rtol=1e-4, atol=1e-4)
    if "tau_func" in options:  # a function is not in the provenance: there the plan is cut
        assert rg.interop.schedulers.begun(plan, 3) is None
        return
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)
    cut = plan.from_noise(plan.path.sigma(plan.times[3]))
    assert rg.interop.schedulers.begun(plan, 3).rows != cut.rows
    # levels of the caller's own are not in the provenance
    moved = dataclasses.replace(plan, provenance={**plan.provenance, "num_inference_steps": 9})
    assert rg.interop.schedulers.begun(moved, 3) is None
    with pytest.raises(BadValue, match="from_noise"):
        from_diffusers({"_class_name": "DDIMScheduler", "clip_sample": False}, 8, begin=3)


def test_a_run_cannot_begin_inside_a_step():
    plan = rg.plan("heun", path_of(LINEAR), nfe=6)
    scheduler = scheduler_of(plan)
    scheduler.set_begin_index(1)
    with pytest.raises(BadValue, match="inside a step"):
        scheduler.step(torch.zeros(1, 2), scheduler.timesteps[1], torch.zeros(1, 2))


def tensor_plan(path):
    """The DDIM table with a tensor among its coefficients, as per-channel fits have."""
    plan = rg.plan("ddim", path, nfe=4)
    first = dataclasses.replace(plan[0], states=(torch.full((3, 1, 1), float(plan[0].states[0]), dtype=torch.float64),))
    return dataclasses.replace(plan, rows=(first, *plan.rows[1:]))


def corrected_plan(path, conditions=()):
    """A table whose second row adds what a small network says."""
    draws = torch.Generator().manual_seed(0)
    g = Correction.initial((3, 8, 8), 2, dict(conditions), width=4, depth=1, generator=draws)
    out = torch.randn(g.weights["out"].shape, generator=draws)
    g = dataclasses.replace(g, weights={**g.weights, "out": out})
    plan = rg.plan("ddim", path, nfe=4)
    rows = (plan[0], dataclasses.replace(plan[1], correction=g), *plan.rows[2:])
    return dataclasses.replace(plan, rows=rows, misses=("point mass",))


@pytest.mark.parametrize("make", [lambda path: rg.plan("dpmpp_2m", path, nfe=5), tensor_plan, corrected_plan])
def test_a_saved_pipeline_holds_its_plan(make, tiny_pipeline, states_of, deviation, tmp_path):
    import diffusers

    pipe = tiny_pipeline("ddpm")
    plan = make(path_of(pipe.scheduler))
    pipe.scheduler = in_place_of(pipe.scheduler, plan)
    pipe.save_pretrained(tmp_path)
    read = diffusers.DiffusionPipeline.from_pretrained(str(tmp_path), local_files_only=True)
    read.set_progress_bar_config(disable=True)
    assert type(read.scheduler) is type(pipe.scheduler)
    assert read.scheduler.plan == plan
    one, other = (states_of(p, batch_size=1, num_inference_steps=plan.nfe) for p in (pipe, read))
    assert deviation(other, one) < 1e-5  # the same numbers, in memory aligned otherwise
    assert type(pipe.scheduler).from_config(pipe.scheduler.config).plan == plan


def test_calls_in_two_threads_share_nothing():
    path = path_of(LINEAR)
    plan = rg.plan("dpmpp_2m", path, nfe=5)
    den = rg.oracles.Gaussian(path, torch.zeros(2), torch.ones(2) * 0.4, predicts="noise")
    scheduler, barrier, made = scheduler_of(plan), threading.Barrier(2, timeout=60), {}

    def call(name, x):
        scheduler.set_timesteps(5)
        for step, t in zip(scheduler.timesteps, plan.times, strict=True):
            barrier.wait()
            x = scheduler.step(den(x, t).noise, step, x).prev_sample
        made[name] = x

    starts = {"one": torch.tensor([[1.0, 2.0]]), "other": torch.tensor([[-3.0, 0.5]])}
    threads = [threading.Thread(target=call, args=item) for item in starts.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, start in starts.items():
        torch.testing.assert_close(made[name], rg.sample(den, plan, x=start), rtol=1e-5, atol=1e-6)


def test_a_state_put_in_place_is_gone_on_from_and_copies_run_apart():
    path = path_of(LINEAR)
    plan = rg.plan("dpmpp_2m", path, nfe=3)
    scheduler = scheduler_of(plan, "sample")
    x, outputs = torch.ones(1, 2), [torch.full((1, 2), v) for v in (0.1, 0.2, 0.3)]
    first = scheduler.step(outputs[0], scheduler.timesteps[0], x).prev_sample
    twin = copy.deepcopy(scheduler)
    assert twin.step_index is None
    assert scheduler.step_index == 1
    blended = first + 0.5
    made = scheduler.step(outputs[1], scheduler.timesteps[1], blended)
    row = plan[1]
    expected = row.states[0] * blended + row.outputs[0] * outputs[1] + row.outputs[1] * outputs[0]
    torch.testing.assert_close(made.prev_sample, expected)
    torch.testing.assert_close(made.pred_original_sample, outputs[1])
    made.prev_sample.add_(1.0)  # changed where it lies
    last = scheduler.step(outputs[2], scheduler.timesteps[2], made.prev_sample).prev_sample
    row = plan[2]
    terms = zip((*row.states, *row.outputs), (made.prev_sample, outputs[2], outputs[1]), strict=False)
    torch.testing.assert_close(last, sum(c * v for c, v in terms))


def test_states_of_half_precision_lose_nothing_between_steps():
    plan = rg.plan("dpmpp_2m", path_of(LINEAR), nfe=5)
    torch.manual_seed(0)
    x, outputs = torch.randn(2, 3).bfloat16(), [torch.randn(2, 3).bfloat16() for _ in range(5)]
    scheduler, ends = scheduler_of(plan), []
    for kind in (torch.bfloat16, torch.float32):
        state = x.to(kind)
        scheduler.set_timesteps(5)
        for step, output in zip(scheduler.timesteps, outputs, strict=True):
            state = scheduler.step(output.to(kind), step, state).prev_sample
            assert state.dtype == kind
        ends.append(state)
    assert torch.equal(ends[0], ends[1].bfloat16())


def test_what_a_scheduler_cannot_do_is_refused_with_the_line_that_can():
    path = path_of(LINEAR)
    plan = rg.plan("ddim", path, nfe=4)
    guided = dataclasses.replace(plan, rows=tuple(dataclasses.replace(r, knobs={"guidance": 3.0}) for r in plan.rows))
    with pytest.raises(PlanError, match=r"guidance[\s\S]*rg\.guide\.cfg\(rg\.Denoiser"):
        scheduler_of(guided)
    with pytest.raises(PlanError, match=r"told label[\s\S]*condition="):
        scheduler_of(corrected_plan(path, {"label": 3}))
    with pytest.raises(PlanError, match="from_noise"):
        scheduler_of(rg.plan("dpmpp_2m", path, nfe=4)[2:])
    with pytest.raises(PlanError, match=r"plan\.bind"):
        scheduler_of(rg.plan("ddim", rg.paths.VP(), nfe=4))
    with pytest.raises(PlanError, match="anchor=y"):
        scheduler_of(rg.plan("ddim", rg.paths.OrnsteinUhlenbeck(), nfe=4))
    with pytest.raises(UnknownName, match="v_prediction"):
        scheduler_of(plan, "v_predictions")
    with pytest.raises(PlanError, match="network was trained on"):
        in_place_of(SimpleNamespace(config=LINEAR | {"beta_schedule": "scaled_linear"}), plan)
    with pytest.raises(BadType, match="config"):
        in_place_of(SimpleNamespace(), plan)
    scheduler = scheduler_of(plan)
    for call in ({"num_inference_steps": 50}, {"sigmas": [1.0, 0.3]}, {"timesteps": [900, 10]}, {"sigmas": [1.0, 0.5]}):
        with pytest.raises(BadValue, match="num_inference_steps=4"):
            scheduler.set_timesteps(**call)
    x = torch.zeros(1, 2)
    with pytest.raises(BadValue, match="eta=1.0"):
        scheduler.step(x, scheduler.timesteps[0], x, eta=1.0)
    with pytest.raises(BadValue, match="scheduler.timesteps"):
        scheduler.step(x, 3.5, x)
    scheduler.step(x, scheduler.timesteps[0], x)
    with pytest.raises(BadValue, match="the next of the plan"):
        scheduler.step(x, scheduler.timesteps[2], x)
    with pytest.raises(BadValue, match="trained timestep"):
        scheduler.add_noise(x, x, torch.tensor([1500]))


def test_the_prediction_type_is_what_the_scheduler_says():
    assert predicts({"_class_name": "FlowMatchEulerDiscreteScheduler"}) == "velocity"
    v = LINEAR | {"prediction_type": "v_prediction"}
    made = in_place_of(SimpleNamespace(config=v), rg.plan("ddim", path_of(v), nfe=4))
    assert made.config.prediction_type == "v_prediction"
    assert in_place_of(made, made.plan).config.prediction_type == "v_prediction"
    assert scheduler_of(rg.plan("ddim", rg.paths.Flow(), nfe=4)).config.prediction_type == "flow_prediction"
    assert scheduler_of(from_diffusers(v, 4)).config.prediction_type == "v_prediction"


def test_without_diffusers_the_extra_is_named():
    script = """
import sys
sys.modules["diffusers"] = None
import retrograde as rg
rg.interop.schedulers
try:
    rg.interop.diffusers
except ImportError as error:
    assert "retrograde[diffusers]" in str(error), error
else:
    raise SystemExit("imported")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
