"""A scheduler of diffusers and its plan on the same network, first state and draws (cases of benchmarks/peers.py)."""

import inspect
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

import retrograde as rg
from retrograde.errors import BadType, BadValue, PlanError, UnknownName
from retrograde.interop.classes import APART
from retrograde.interop.schedulers import SCHEDULERS, from_diffusers, names

PEERS = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "peers.py")))
LATENT = PEERS.LATENT
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning", "ignore::FutureWarning")


@pytest.mark.diffusers
@pytest.mark.parametrize("case", PEERS.CASES, ids=str)
def test_a_scheduler_of_diffusers_is_its_plan(case):
    plan, difference = PEERS.compare(case)
    assert difference < PEERS.TOLERANCE
    made = PEERS.scheduler_of(case)
    told = [row.network_time for row in plan.rows if row.time is not None]
    if told[0] is not None:
        theirs = made.sigmas.flatten() if case.name == "ScoreSdeVeScheduler" else made.timesteps
        assert max(abs(x - y) for x, y in zip(told, theirs.tolist(), strict=False)) < 1e-3
    # every level the plan asks at, at its place; and where the peer starts
    assert plan.nfe in (len(made.timesteps), len(made.timesteps) - 1)
    noise = plan.provenance["start_noise"] * plan.path.s(plan.start)
    scaled = plan.path.name in ("vp_discrete", "vp") and float(made.init_noise_sigma) != 1.0
    first = float(made.init_noise_sigma) * (plan.path.a(plan.start) if scaled else 1.0) if _says_its_start(made) else noise
    assert noise == pytest.approx(first, rel=1e-5)


def _says_its_start(scheduler) -> bool:
    return hasattr(scheduler, "init_noise_sigma")


@pytest.mark.diffusers
def test_every_scheduler_is_compared():
    assert {case.name for case in PEERS.CASES} == set(names())


@pytest.mark.diffusers
def test_every_scheduler_of_diffusers_is_imported_or_apart():
    import diffusers

    theirs = {name for name in dir(diffusers) if name.endswith("Scheduler") and name[0].isupper()}
    assert theirs <= set(names()) | set(APART), "say in interop/classes.py what they are, or why they are not imported"


def test_a_velocity_to_the_data_is_not_taken_for_the_other():
    plan = from_diffusers({"_class_name": "MiniMaxH3Scheduler"}, 8)
    den = rg.Denoiser(lambda x, t: x, plan.path, "velocity", (2,))
    with pytest.raises(BadValue, match="-network"):
        from_diffusers({"_class_name": "MiniMaxH3Scheduler"}, 8, denoiser=den)


@pytest.mark.diffusers
def test_the_comparison_can_fail():
    """Another order, another grid, another noise: each is seen."""
    case = PEERS.Case("DPMSolverMultistepScheduler", LATENT | {"solver_order": 2}, 10)
    made = PEERS.scheduler_of(case)
    right = from_diffusers(made, 10)
    for options in ({"solver_order": 3}, {"use_karras_sigmas": True}, {"solver_type": "heun"}, {"euler_at_final": False}):
        other = from_diffusers(made, 10, **options)
        den, x = PEERS.mixture(right.path), PEERS.first_state(right)
        gap = PEERS.gap(*(PEERS.ours(plan, den, x, PEERS.Draws((3, 2))) for plan in (other, right)))
        assert (gap > 1e-4) == (options != {"euler_at_final": False})


@pytest.mark.diffusers
@pytest.mark.parametrize("name", names())
def test_defaults_are_those_of_diffusers(name):
    """Every option of the class that changes samples is known here, with its default."""
    needed = {"stages": 1} if name == "HeliosScheduler" else {}  # its set_timesteps makes no levels without
    scheduler = PEERS.scheduler_of(PEERS.Case(name, needed, 2 if name == "SCMScheduler" else 10))
    theirs = {k: p.default for k, p in inspect.signature(type(scheduler).__init__).parameters.items() if k != "self"}
    ours = dict(SCHEDULERS[name].options)
    for option, default in theirs.items():
        assert option in ours, option
        assert ours[option] == default or {ours[option], default} <= {None, ""} or option == "disable_corrector", option


SD = {"_class_name": "EulerDiscreteScheduler", **LATENT, "steps_offset": 1, "clip_sample": False, "skip_prk_steps": True}


def test_a_dict_is_enough():
    plan = from_diffusers(SD, 20)
    assert plan.nfe == 20
    assert plan.recipe == "euler@1"
    assert plan.provenance["ignored"] == ["clip_sample", "skip_prk_steps"]
    assert plan.provenance["predicts"] == "noise"
    other = from_diffusers(SD, 20, class_name="DPMSolverMultistepScheduler", use_karras_sigmas=True)
    assert other.recipe == "dpmpp_2m@1"
    assert from_diffusers({**SD, "beta_schedule": "linear"}, 20).path != plan.path


def test_a_plan_saves_and_loads_with_where_it_came_from(tmp_path):
    for name in (
        "DPMSolverMultistepScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
        "FlowMatchEulerDiscreteScheduler",
    ):
        plan = from_diffusers({"_class_name": name}, 8)
        plan.save(tmp_path / "plan.json")
        assert rg.Plan.load(tmp_path / "plan.json") == plan
        assert rg.Plan.load(tmp_path / "plan.json").provenance["scheduler"] == name


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"_class_name": "DDIMScheduler"}, "clip_sample"),
        ({"_class_name": "DDIMScheduler", "clip_sample": False, "thresholding": True}, "thresholding"),
        ({"_class_name": "DDPMScheduler", "clip_sample": False, "variance_type": "learned_range"}, "variance_type"),
        ({"_class_name": "DPMSolverMultistepScheduler", "variance_type": "learned"}, "variance_type"),
        ({"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"}, "final_sigmas_type"),
        ({"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4}, "solver_order"),
        ({"_class_name": "UniPCMultistepScheduler", "solver_p": "DDIM"}, "solver_p"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "even"}, "timestep_spacing"),
        ({"_class_name": "EulerDiscreteScheduler", "beta_schedule": "even"}, "beta_schedule"),
        ({"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "one"}, "final_sigmas_type"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "use_beta_sigmas": True}, "use_karras_sigmas"),
        ({"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "sigma_max": 900.0}, "sigma_max"),
        ({"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", "steps_offset": 200}, "steps_offset"),
        ({"_class_name": "PNDMScheduler", "prediction_type": "v_prediction"}, "v_prediction"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}, "mu"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "clip_denoised"),
        ({"_class_name": "FlowMatchLCMScheduler", "scale_factors": [0.5, 1.0]}, "scale_factors"),
        ({"_class_name": "EDMEulerScheduler", "sigma_schedule": "even"}, "sigma_schedule"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "correct_steps"),
        ({"_class_name": "SCMScheduler"}, "intermediate_timesteps"),
        ({"_class_name": "RePaintScheduler"}, "mask"),
        ({"_class_name": "HeliosScheduler"}, "stages=3"),
        ({"_class_name": "HeliosScheduler", "stages": 1}, "from level 1"),
        ({"_class_name": "HeliosScheduler", "stages": 1, "scheduler_type": "dmd"}, "scheduler_type"),
        ({"_class_name": "HeliosDMDScheduler"}, "pipeline hands every step"),
        ({"_class_name": "AmusedScheduler"}, "tokens"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(config, word):
    with pytest.raises(BadValue, match=word):
        from_diffusers(config, 10)


@pytest.mark.parametrize(
    ("name", "levels", "word"),
    [
        ("DDIMScheduler", {"timesteps": [900, 500]}, "timesteps of DDIM"),
        ("UniPCMultistepScheduler", {"sigmas": [10.0, 1.0]}, "sigmas of UniPC"),
        ("EulerDiscreteScheduler", {"timesteps": [500, 900]}, "falling"),
        ("EulerDiscreteScheduler", {"timesteps": [1500, 900]}, "0..999"),
        ("EulerDiscreteScheduler", {"sigmas": [1.0, 2.0, 0.0]}, "falling"),
        ("EulerDiscreteScheduler", {"sigmas": [900.0, 2.0, 0.0]}, "sigma_max"),
        ("FlowMatchEulerDiscreteScheduler", {"sigmas": [1.0, 0.5, 0.0]}, "left out"),
        ("FlowMatchEulerDiscreteScheduler", {"sigmas": [1.0, 0.5], "num_inference_steps": 2}, "num_inference_steps and"),
        ("FlowMatchEulerDiscreteScheduler", {}, "no steps"),
        ("DPMSolverMultistepScheduler", {"timesteps": [900, 500], "use_karras_sigmas": True}, "use_karras_sigmas"),
    ],
)
def test_explicit_levels_that_do_not_fit_are_named(name, levels, word):
    with pytest.raises(BadValue, match=word):
        from_diffusers({"_class_name": name, "clip_sample": False}, **levels)


@pytest.mark.diffusers
@pytest.mark.parametrize(("name", "step"), [("DDPM", {}), ("DDIM", {"use_clipped_model_output": True})])
def test_clipping_is_done_by_the_denoiser(name, step):
    """A table clips nothing; with a denoiser that does, the run is the peer's that clips."""
    options = LATENT | {"clip_sample": True, "clip_sample_range": 0.8}
    made = PEERS.scheduler_of(PEERS.Case(f"{name}Scheduler", options, 10))
    plan = from_diffusers(made, 10, clip_sample=False)
    den, draws, x = PEERS.mixture(plan.path), PEERS.Draws((3, 2)), PEERS.first_state(plan)
    theirs = PEERS.theirs(made, plan, den, x, draws, **step)
    assert PEERS.gap(PEERS.ours(plan, rg.guide.threshold(den, None, 0.8), x, draws), theirs) < PEERS.TOLERANCE
    assert PEERS.gap(PEERS.ours(plan, den, x, draws), theirs) > 1e-2


def test_unknown_names_are_met_with_the_nearest():
    with pytest.raises(UnknownName, match="EulerDiscreteScheduler"):
        from_diffusers({"_class_name": "EulerDiscretScheduler"}, 10)
    with pytest.raises(UnknownName, match="use_karras_sigmas"):
        from_diffusers(SD, 10, use_karras_sigma=True)
    with pytest.raises(BadType, match="config"):
        from_diffusers("EulerDiscreteScheduler", 10)
    with pytest.raises(BadValue, match="num_inference_steps"):
        from_diffusers(SD, 0)


def test_the_denoiser_is_checked():
    path = from_diffusers(SD, 5).path
    right = rg.Denoiser(lambda x, t: x, path, "noise", (2,))
    assert from_diffusers(SD, 5, denoiser=right).nfe == 5
    with pytest.raises(BadValue, match="predicts"):
        from_diffusers(SD, 5, denoiser=rg.Denoiser(lambda x, t: x, path, "v", (2,)))
    with pytest.raises(PlanError, match="path"):
        from_diffusers(SD, 5, denoiser=rg.Denoiser(lambda x, t: x, rg.paths.VP(), "noise", (2,)))


@pytest.mark.diffusers
def test_the_path_is_that_of_the_scheduler_to_the_digit():
    import diffusers

    for options in (LATENT, {"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "linear"}):
        made = diffusers.DDIMScheduler(clip_sample=False, **options)
        assert from_diffusers(made, 10).path == rg.paths.from_alphas_cumprod(made.alphas_cumprod)
