"""What a run costs, which options it heeds, and what it is called: complaints 48 to 52 of docs/complaints.md."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue, PlanError, RetrogradeError, UnknownName
from retrograde.interop import schedulers

VP = rg.paths.VP()


def counted(path: rg.paths.Path, predicts: str = "noise") -> tuple[rg.Denoiser, list[float]]:
    told: list[float] = []

    def network(x, t):
        told.append(float(t[0]))
        return 0.5 * x

    return rg.Denoiser(network, path, predicts, (2,)), told


@pytest.mark.parametrize("name", rg.recipes.names())
def test_a_budget_is_the_calls_of_the_network(name):
    for nfe in (1, 2, 7, 20):
        den, told = counted(VP)
        ledger = rg.record(den, rg.plan(name, VP, nfe=nfe), n=2).ledger
        assert len(told) == nfe == ledger.nfe


@pytest.mark.parametrize(
    ("name", "options", "cost"),
    [
        ("EulerDiscreteScheduler", {}, 50),
        ("DDIMScheduler", {"clip_sample": False}, 50),
        ("PNDMScheduler", {"skip_prk_steps": True}, 51),
        ("PNDMScheduler", {}, 59),
        ("HeunDiscreteScheduler", {}, 99),
        ("KDPM2DiscreteScheduler", {}, 99),
    ],
)
def test_an_imported_plan_says_what_fifty_steps_cost(name, options, cost):
    plan = schedulers.from_diffusers({"_class_name": name, **options}, 50)
    den, told = counted(plan.path)
    rg.sample(den, plan)
    assert plan.nfe == len(told) == cost


# ------------------------------------------------------------------------------------------------- options are heeded


def other_values(value: Any) -> Iterator[Any]:
    """Values that an option might have instead."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1, 0.5 * value + 0.25, 0.3, 1, 2, 3)
    elif isinstance(value, str):
        yield "no such choice"
    else:
        yield from (0.5, [], [1], "no such choice")


@pytest.mark.parametrize("name", rg.recipes.names())
def test_every_option_of_a_recipe_changes_its_table(name):
    plain = rg.plan(name, VP, nfe=14)
    for option, value in rg.recipes.get(name).options.items():
        seen = False
        for other in other_values(value):
            try:
                seen = seen or rg.plan(name, VP, nfe=14, **{option: other}).rows != plain.rows
            except RetrogradeError as error:
                seen = seen or isinstance(other, str) or option in str(error)
        assert seen or (name, option) == ("er_sde_1", "points"), option  # order one has no integrals


ELSEWHERE = {
    "clip_sample_range": "of clipping, which is refused",
    "dynamic_thresholding_ratio": "of thresholding, which is refused",
    "sample_max_value": "of thresholding, which is refused",
    "sigma_data": "the denoiser's: Denoiser(sigma_data=...)",
    "noise_sampler_seed": "the caller's seed",
    "base_shift": "pipelines compute mu of it",
    "max_shift": "pipelines compute mu of it",
    "base_image_seq_len": "pipelines compute mu of it",
    "max_image_seq_len": "pipelines compute mu of it",
    "upscale_mode": "of scale_factors, which are refused",
    "snr": "of correct_steps, which are refused",
    "stage_range": "of stages, which are refused",
    "gamma": "of stages, which are refused",
}
"""Options that are no matter of the table, and whose they are."""

UNREAD = {
    "sampling_eps": ("ScoreSdeVeScheduler",),
    "timestep_spacing": ("LCMScheduler", "TCDScheduler"),
    "steps_offset": ("LCMScheduler", "TCDScheduler"),
    "set_alpha_to_one": ("LCMScheduler", "TCDScheduler"),
    "timestep_scaling": ("TCDScheduler",),
    "beta_start": ("UnCLIPScheduler",),
    "beta_end": ("UnCLIPScheduler",),
    "euler_at_final": ("DPMSolverSinglestepScheduler",),
    "num_train_timesteps": (
        *("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler", "IPNDMScheduler"),
        *("ScoreSdeVeScheduler", "SCMScheduler"),
    ),
}
"""Options that the peer itself never reads, or that its steps do not depend on."""

OPTIONS = {
    "num_train_timesteps": (500, 2000),
    "trained_betas": ([0.01 + 0.0001 * k for k in range(100)],),
    "tau_func": (lambda t: 0.5,),
    "beta_schedule": ("scaled_linear", "squaredcos_cap_v2", "linear"),
    "timestep_spacing": ("linspace", "leading", "trailing"),
    "prediction_type": ("v_prediction", "sample"),
    "final_sigmas_type": ("sigma_min", "zero"),
    "shift": (2.0,),
    "flow_shift": (2.0,),
    "sigma_min": (0.05,),
    "sigma_max": (10.0,),
    "disable_corrector": ([2],),
    "solver_p": ("other",),
    "steps_offset": (1,),
    "shift_terminal": (0.05,),
    "interpolation_type": ("log_linear",),
    "timestep_type": ("continuous",),
}
FIXED = {"clip_sample": False, "clip_denoised": False, "correct_steps": 0, "stages": 1, "intermediate_timesteps": None}
CONTEXTS: tuple[dict[str, Any], ...] = (
    {},
    {"timestep_spacing": "leading"},
    {"skip_prk_steps": True},
    {"use_karras_sigmas": True},
    {"sigma_schedule": "karras"},
    {"use_flow_sigmas": True},
    {"use_flow_sigmas": True, "use_dynamic_shifting": True},
    {"use_dynamic_shifting": True},
    {"final_sigmas_type": "sigma_min"},
    {"lower_order_final": False, "final_sigmas_type": "sigma_min"},
    {"solver_order": 3, "final_sigmas_type": "sigma_min"},
    {"solver_order": 3},
    {"solver_order": 3, "lower_order_final": False, "final_sigmas_type": "sigma_min"},
    {"stochastic_sampling": True},
    {"scheduler_type": "euler"},
    {"timestep_type": "continuous", "prediction_type": "v_prediction", "use_karras_sigmas": True, "sigma_min": 0.02},
)


def imported(name: str, config: dict[str, Any], step: dict[str, Any]) -> tuple[Any, ...] | str:
    """What an importer makes of a config, in all that it says; or that it refuses."""
    mu = 0.7 if config.get("use_dynamic_shifting") else None
    mended = name == "HeliosScheduler"
    try:
        plan = schedulers.from_diffusers({"_class_name": name, **config}, 8, mu=mu, mended=mended, **step)
    except RetrogradeError as error:
        return f"refused: {error.given}"
    held = plan.provenance
    return plan.path, plan.rows, held["start_noise"], held["predicts"]


def heeded(name: str, option: str, value: Any) -> bool:
    """Whether some other value changes what is imported, or is refused, in some company of other options."""
    chosen = schedulers.SCHEDULERS[name]
    known = {**chosen.options, **chosen.step}
    for context in CONTEXTS:
        if not set(context) <= set(known):
            continue
        config = {k: v for k, v in {**FIXED, **context}.items() if k in chosen.options and k != option}
        step = {k: v for k, v in FIXED.items() if k in chosen.step and k != option}
        plain = imported(name, {**config, **({option: value} if option in chosen.options else {})}, step)
        if isinstance(plain, str) and context:
            continue
        for other in (*OPTIONS.get(option, ()), *other_values(value)):
            if option in chosen.options:
                made = imported(name, {**config, option: other}, step)
            else:
                made = imported(name, config, {**step, option: other})
            if made != plain:
                return True
    return False


@pytest.mark.parametrize("name", schedulers.names())
def test_every_option_of_a_scheduler_is_heeded_or_refused(name):
    chosen = schedulers.SCHEDULERS[name]
    for option, value in {**chosen.options, **chosen.step}.items():
        if option in ELSEWHERE or option in chosen.unused or name in UNREAD.get(option, ()):
            continue
        assert heeded(name, option, value), option
    with pytest.raises(UnknownName, match="option of"):
        schedulers.from_diffusers({"_class_name": name}, 8, no_such_option=1)


def test_an_edited_copy_is_another_plan_and_an_edit_in_place_is_impossible():
    plan = rg.plan("dpmpp_2m", VP, nfe=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.basis = "noise"
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan[0].states = (2.0,)
    with pytest.raises(PlanError, match="row 1"):
        dataclasses.replace(plan, rows=(plan[0], dataclasses.replace(plan[1], states=(2.0,)), *plan.rows[2:]))
    with pytest.raises(BadValue, match="clip_sample"):
        rg.plan("ddim", VP, nfe=4, clip_sample=True)


# ------------------------------------------------------------------------------------------------------ names are tables


def karras(n: int, low: float, high: float) -> list[float]:
    return [(high ** (1 / 7) + i / (n - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for i in range(n)]


@pytest.mark.parametrize(
    ("label", "name", "options"),
    [
        ("Euler", "EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("DPM++ 2M Karras", "DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("Heun", "HeunDiscreteScheduler", {"use_karras_sigmas": True}),
        (
            "DPM++ 2M SDE Karras",
            "DPMSolverMultistepScheduler",
            {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
        ),
    ],
)
def test_the_sampler_of_a_user_interface_is_found_by_comparing_tables(label, name, options):
    theirs = schedulers.from_diffusers({"_class_name": name, **options}, 10)
    sigmas = list(dict.fromkeys(theirs.path.sigma(t) for t in theirs.times))
    ours = schedulers.from_k_diffusion(label, [*sigmas, 0.0], path=theirs.path)
    assert len(ours) == len(theirs)
    for one, other in zip(ours.rows, theirs.rows, strict=True):
        assert (one.next_time is None) == (other.next_time is None)
        for field in ("states", "outputs", "noises"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-9, abs=1e-9)
    assert sigmas == pytest.approx(karras(10, sigmas[-1], sigmas[0]), rel=1e-5)


def test_a_name_that_is_no_sampler_offers_the_nearest():
    with pytest.raises(UnknownName, match="dpmpp_2m"):
        schedulers.from_k_diffusion("dpmp_2m", [1.0, 0.5])
    with pytest.raises(BadValue, match="chooses its levels"):
        schedulers.from_k_diffusion("DPM adaptive", [1.0, 0.5])


# -------------------------------------------------------------------------------------------------- gradients and kinds


def test_likelihoods_and_samples_have_gradients():
    mean = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    x = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    law = torch.distributions.Normal(mean, 1.0)
    den = rg.Denoiser(lambda x_t, t: mean + 0.1 * x_t, VP, "data", (2,))
    made = rg.sample(den, rg.plan("dpmpp_2m", VP, nfe=4), x=x, gradient="unroll")
    law.log_prob(made).sum().backward()
    assert mean.grad.abs().min() > 0.0
    assert x.grad.abs().min() > 0.0
    oracle = rg.oracles.Gaussian(VP, torch.zeros(2), torch.ones(2))
    point = torch.tensor([[0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(oracle.log_prob(point, 0.5).sum(), point)
    torch.testing.assert_close(score, oracle(point.detach(), 0.5).score)


PLAN = rg.plan("ddpm", VP, nfe=3)
DEN = rg.Denoiser(lambda x, t: x, VP, "noise", (2,))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rg.plan("ddim", rg.paths.VP, nfe=3), "class VP"),
        (lambda: rg.Plan(rg.paths.VP, PLAN.rows), "class VP"),
        (lambda: rg.Denoiser(DEN.network, rg.paths.VP, "noise", (2,)), "class VP"),
        (lambda: rg.Denoiser(torch.nn.Identity, VP, "noise", (2,)), "class Identity"),
        (lambda: rg.oracles.Gaussian(rg.paths.VP, torch.zeros(2), torch.ones(2)), "class VP"),
        (lambda: rg.denoisers.on_path(DEN, rg.paths.EDM), "class EDM"),
        (lambda: rg.sample(DEN, rg.Plan), "class Plan"),
        (lambda: rg.sample(rg.Denoiser, PLAN), "class Denoiser"),
        (lambda: rg.sample(DEN.network, PLAN), "wrap the network"),
        (lambda: rg.tune(DEN.network, nfe=3), "wrap the network"),
        (lambda: rg.guide.cfg(rg.Denoiser, 3.0), "class Denoiser"),
        (lambda: rg.guide.threshold(DEN.network), "wrap the network"),
        (lambda: rg.sample(DEN, "ddim"), "retrograde.plan"),
        (lambda: rg.plan(rg.recipes.get("ddim"), VP, nfe=3), "a name of"),
        (lambda: rg.plan("ddim", VP, nfe=3, grid=rg.grids.karras), "grid='karras'"),
        (lambda: rg.sample(DEN, PLAN, noise=rg.noise.Noise(0, [0])), "noise=Brownian"),
        (lambda: rg.sample(DEN, PLAN, controllers=rg.controllers.adaptive(VP)), r"controllers=\[controller\]"),
        (lambda: rg.sample(DEN, PLAN, controllers=[type(rg.controllers.adaptive(VP))]), "class Adaptive"),
        (lambda: rg.sample(DEN, PLAN, particles=rg.noise.Noise), "class Noise"),
    ],
)
def test_a_class_in_place_of_one_of_it_is_named(call, words):
    with pytest.raises(BadType, match=words):
        call()
