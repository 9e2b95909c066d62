"""The continuous schedulers of diffusers: their options with defaults, their levels and their steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from retrograde.errors import BadValue
from retrograde.interop import chains, other_ladders, writers
from retrograde.interop.ladders import Ladder, discrete

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Scheduler:
    """A scheduler class.

    Attributes:
        options: options of its constructor that change samples, with their defaults.
        ladder: (options, steps, mu, mended) to the levels.
        write: levels and options to rows.
        step: options of its `step` and their defaults.
        slips: what the peer does wrong, mended by mended=True; None where nothing is known.
        unused: options that the peer's code never reads.
    """

    options: Mapping[str, Any]
    ladder: Callable[[Config, int, float | None, bool], Ladder]
    write: writers.Write
    step: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    slips: str | None = None
    unused: tuple[str, ...] = ()


EXPLICIT = {
    "timesteps": (
        *("DDPMScheduler", "DDPMParallelScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler"),
        *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "TCDScheduler"),
    ),
    "sigmas": (
        *("EulerDiscreteScheduler", "FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler"),
        *("UniPCMultistepScheduler", "HeliosScheduler", "MiniMaxH3Scheduler"),
    ),
}
"""The classes whose `set_timesteps` takes levels instead of a number of them."""


BEGUN = ("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "SASolverScheduler", "UniPCMultistepScheduler")
"""The multistep classes whose run may begin at a later step: there they start again with order one."""

_TABLE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
_SPACED = {"timestep_spacing": "linspace", "steps_offset": 0}
_SPREAD = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_CLIP = {"clip_sample": False, "clip_sample_range": 1.0}
_FLOW = {"use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential"}
_LATENT = {"beta_start": 0.00085, "beta_end": 0.012}
_SOLVER = {"solver_order": 2, "solver_type": "midpoint", "lower_order_final": True, "euler_at_final": False}
_K = _TABLE | _LATENT | _SPREAD | _SPACED
_EULER = _TABLE | _SPACED | {"rescale_betas_zero_snr": False}
_DDIM = _TABLE | _SPACED | _CLIP | _THRESHOLD | {"set_alpha_to_one": True, "rescale_betas_zero_snr": False}
_DDIM |= {"clip_sample": True, "timestep_spacing": "leading"}
_EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
_FLOW_MATCH = {"num_train_timesteps": 1000, "shift": 1.0}
_FLOW_MATCH_ALL = (
    _FLOW_MATCH
    | _SPREAD
    | {"use_dynamic_shifting": False, "base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256}
    | {"max_image_seq_len": 4096, "invert_sigmas": False, "shift_terminal": None, "time_shift_type": "exponential"}
)


def _stepping_in_sigma(rounds: bool) -> Callable[[Config, int, float | None, bool], Ladder]:
    def ladder(config: Config, n: int, mu: float | None, mended: bool) -> Ladder:
        if config.get("timestep_type") == "continuous" and config["prediction_type"] == "v_prediction":
            return other_ladders.continuous(config, n)
        for option, known in (
            ("timestep_type", ("discrete", "continuous")),
            ("interpolation_type", ("linear", "log_linear")),
        ):
            if config.get(option, known[0]) not in known:
                raise BadValue(f"{option}={config[option]!r}", " or ".join(map(repr, known)), f"{option}={known[0]!r}")
        return discrete(config, n, beyond=0, whole=False, rounds=rounds, cuts=False)

    return ladder


def _multistep(ends: str) -> Callable[[Config, int, float | None, bool], Ladder]:
    def ladder(config: Config, n: int, mu: float | None, mended: bool) -> Ladder:
        if config.get("use_flow_sigmas"):
            return other_ladders.flow_of_multistep(config, n, mu, mended)
        rounds = ends != "table" or config["beta_schedule"] != "squaredcos_cap_v2"
        return discrete(config, n, ends=ends, rounds=rounds)

    return ladder


def _ends_low(config: Config, n: int, mu: float | None, mended: bool) -> Ladder:
    return _multistep("last")({**config, "final_sigmas_type": "sigma_min"}, n, mu, mended)


def _unipc(config: Config, n: int, mu: float | None, mended: bool) -> Ladder:
    if config["use_flow_sigmas"]:
        return other_ladders.flow_of_unipc(config, n, mu)
    return discrete(config, n, ends="last")


def _counted(stride: bool) -> Callable[[Config, int, float | None, bool], Ladder]:
    return lambda config, n, mu, mended: other_ladders.counted(config, n, stride=stride, mended=mended)


def _distilled(config: Config, n: int, mu: float | None, mended: bool) -> Ladder:
    return other_ladders.distilled(config, n)


def _flow(config: Config, n: int, mu: float | None, mended: bool) -> Ladder:
    return other_ladders.flow(config, n, mu, mended)


def _edm(ends: str) -> Callable[[Config, int, float | None, bool], Ladder]:
    return lambda config, n, mu, mended: other_ladders.edm(config, n, ends)


_DISTILLED = _DDIM | _LATENT | {"beta_schedule": "scaled_linear", "original_inference_steps": 50, "timestep_scaling": 10.0}
_DISTILLED |= {"clip_sample": False}
_STRIDE = 'with "linspace" or "trailing" spacing a step lands trained steps // n below, not where the next step asks'
_HALF = "order 3 takes half of the second difference (as the authors' code does), and its order is 2"
_TWICE = "the least level is shifted twice"

SCHEDULERS: dict[str, Scheduler] = {
    "DDIMScheduler": Scheduler(_DDIM, _counted(True), chains.ddim, {"eta": 0.0}, _STRIDE),
    "DDIMParallelScheduler": Scheduler(_DDIM, _counted(True), chains.ddim, {"eta": 0.0}, _STRIDE),
    "DDPMScheduler": Scheduler(
        {k: v for k, v in _DDIM.items() if k != "set_alpha_to_one"} | {"variance_type": "fixed_small"},
        _counted(False),
        chains.ddpm,
    ),
    "DDPMParallelScheduler": Scheduler(
        {k: v for k, v in _DDIM.items() if k != "set_alpha_to_one"} | {"variance_type": "fixed_small"},
        _counted(False),
        chains.ddpm,
    ),
    "UnCLIPScheduler": Scheduler(
        {"num_train_timesteps": 1000, "variance_type": "fixed_small_log", "clip_sample": True, "clip_sample_range": 1.0}
        | {"prediction_type": "epsilon", "beta_schedule": "squaredcos_cap_v2", "beta_start": 0.0001, "beta_end": 0.02},
        _counted(False),
        chains.unclip,
        slips="the last step multiplies the data by a ratio that is 1, and in float32 0.05% off it",
    ),
    "PNDMScheduler": Scheduler(
        _TABLE | {"skip_prk_steps": False, "set_alpha_to_one": False, "timestep_spacing": "leading", "steps_offset": 0},
        _counted(True),
        chains.pndm,
        slips=_STRIDE + "; v predictions of several levels are combined as if of one",
    ),
    "EulerDiscreteScheduler": Scheduler(
        _EULER
        | _SPREAD
        | {"interpolation_type": "linear", "sigma_min": None, "sigma_max": None, "timestep_type": "discrete"}
        | {"final_sigmas_type": "zero"},
        _stepping_in_sigma(False),
        writers.by_recipe("euler"),
    ),
    "EulerAncestralDiscreteScheduler": Scheduler(
        _EULER, _stepping_in_sigma(False), writers.by_recipe("euler_ancestral", eta=1.0)
    ),
    "HeunDiscreteScheduler": Scheduler(_K | _CLIP, _stepping_in_sigma(False), writers.by_recipe("heun")),
    "LMSDiscreteScheduler": Scheduler(
        _TABLE | _SPREAD | _SPACED, _stepping_in_sigma(False), chains.linear_multistep, {"order": 4}
    ),
    "KDPM2DiscreteScheduler": Scheduler(_K, _stepping_in_sigma(True), writers.by_recipe("dpm_2")),
    "KDPM2AncestralDiscreteScheduler": Scheduler(_K, _stepping_in_sigma(True), writers.kdpm2_ancestral),
    "DPMSolverSDEScheduler": Scheduler(
        _K | {"noise_sampler_seed": None}, _stepping_in_sigma(False), writers.by_recipe("dpmpp_sde"), {"s_noise": 1.0}
    ),
    "DPMSolverMultistepScheduler": Scheduler(
        _TABLE
        | _SPREAD
        | _SPACED
        | _SOLVER
        | _THRESHOLD
        | _FLOW
        | {"algorithm_type": "dpmsolver++", "use_lu_lambdas": False, "final_sigmas_type": "zero"}
        | {"lambda_min_clipped": -float("inf"), "variance_type": None, "rescale_betas_zero_snr": False},
        _multistep("table"),
        writers.dpm_multistep,
        slips=_HALF
        + '; in that of "sde-dpmsolver++" the sign of 1/2 is wrong, and it does not converge; flow sigmas that end '
        'at "sigma_min" end at a level of the table of betas',
    ),
    "DPMSolverSinglestepScheduler": Scheduler(
        _TABLE
        | _SPREAD
        | _SOLVER
        | _THRESHOLD
        | _FLOW
        | {"algorithm_type": "dpmsolver++", "lower_order_final": False, "final_sigmas_type": "zero"}
        | {"lambda_min_clipped": -float("inf"), "variance_type": None},
        _multistep("table"),
        writers.dpm_singlestep,
        slips='in "sde-dpmsolver++" of order 3, form "heun", the sign of 1/2 is wrong, and it does not converge',
    ),
    "UniPCMultistepScheduler": Scheduler(
        _TABLE
        | _SPREAD
        | _SPACED
        | _THRESHOLD
        | _FLOW
        | {"solver_order": 2, "predict_x0": True, "solver_type": "bh2", "lower_order_final": True, "disable_corrector": []}
        | {"solver_p": None, "final_sigmas_type": "zero", "rescale_betas_zero_snr": False}
        | {"sigma_min": None, "sigma_max": None, "shift_terminal": None},
        _unipc,
        writers.unipc,
        slips='with "bh1" or predict_x0=False a run that ends at zero noise returns NaN there (the plan does not)',
    ),
    "DEISMultistepScheduler": Scheduler(
        _TABLE
        | _SPREAD
        | _SPACED
        | _THRESHOLD
        | _FLOW
        | {"solver_order": 2, "algorithm_type": "deis", "solver_type": "logrho", "lower_order_final": True},
        _ends_low,
        writers.deis,
    ),
    "SASolverScheduler": Scheduler(
        _TABLE
        | _SPREAD
        | _SPACED
        | _THRESHOLD
        | {"predictor_order": 2, "corrector_order": 2, "tau_func": None, "algorithm_type": "data_prediction"}
        | {"lower_order_final": True, "use_flow_sigmas": False, "flow_shift": 1.0}
        | {"lambda_min_clipped": -float("inf"), "variance_type": None},
        _ends_low,
        writers.sa_solver,
    ),
    "LCMScheduler": Scheduler(_DISTILLED, _distilled, chains.lcm),
    "TCDScheduler": Scheduler(_DISTILLED, _distilled, chains.tcd, {"eta": 0.3}),
    "CMStochasticIterativeScheduler": Scheduler(
        {"num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "s_noise": 1.0}
        | {"rho": 7.0, "clip_denoised": True},
        lambda config, n, mu, mended: other_ladders.consistency(config, n),
        chains.consistency,
    ),
    "FlowMatchEulerDiscreteScheduler": Scheduler(
        _FLOW_MATCH_ALL | {"stochastic_sampling": False}, _flow, chains.jumps, slips=_TWICE
    ),
    "FlowMatchHeunDiscreteScheduler": Scheduler(_FLOW_MATCH, _flow, writers.by_recipe("heun"), slips=_TWICE),
    "FlowMatchLCMScheduler": Scheduler(
        _FLOW_MATCH_ALL | {"scale_factors": None, "upscale_mode": "bicubic"},
        _flow,
        writers.by_recipe("lcm"),
        slips=_TWICE,
    ),
    "LTXEulerAncestralRFScheduler": Scheduler(
        {"num_train_timesteps": 1000, "eta": 1.0, "s_noise": 1.0},
        lambda config, n, mu, mended: other_ladders.flow({**config, "shift": 1.0}, n),
        chains.rectified_ancestral,
    ),
    "CogVideoXDDIMScheduler": Scheduler(
        {k: v for k, v in _DDIM.items() if k not in ("thresholding", "dynamic_thresholding_ratio")}
        | _LATENT
        | {"beta_schedule": "scaled_linear", "snr_shift_scale": 3.0},
        _counted(True),
        chains.ddim,
        slips=_STRIDE,
        unused=("clip_sample",),
    ),
    "CogVideoXDPMScheduler": Scheduler(
        {k: v for k, v in _DDIM.items() if k not in ("thresholding", "dynamic_thresholding_ratio")}
        | _LATENT
        | {"beta_schedule": "scaled_linear", "snr_shift_scale": 3.0},
        _counted(True),
        chains.cogvideox,
        slips=_STRIDE,
        unused=("clip_sample",),
    ),
    "DDPMWuerstchenScheduler": Scheduler(
        {"scaler": 1.0, "s": 0.008},
        lambda config, n, mu, mended: other_ladders.wuerstchen(config, n),
        chains.wuerstchen,
        slips="it ends at the least level without the noise of that level, where the data mean is wanted",
    ),
    "HeliosScheduler": Scheduler(
        _FLOW_MATCH
        | {"stages": 3, "stage_range": [0, 1 / 3, 2 / 3, 1], "gamma": 1 / 3, "scheduler_type": "unipc"}
        | {"solver_order": 2, "predict_x0": True, "solver_type": "bh2", "lower_order_final": True, "disable_corrector": []}
        | {"solver_p": None, "thresholding": False, "prediction_type": "flow_prediction", "use_flow_sigmas": True}
        | {"use_dynamic_shifting": False, "time_shift_type": "exponential"},
        lambda config, n, mu, mended: other_ladders.helios(config, n, mu, mended),
        chains.helios,
        slips="UniPC from level 1 has weights of no method, and of order 3 NaN; its pipeline begins at 0.999",
    ),
    "MiniMaxH3Scheduler": Scheduler(
        {"shift": 12.0},
        lambda config, n, mu, mended: other_ladders.minimax(config, n),
        writers.by_recipe("euler"),
    ),
    "SCMScheduler": Scheduler(
        {"num_train_timesteps": 1000, "prediction_type": "trigflow", "sigma_data": 0.5},
        lambda config, n, mu, mended: other_ladders.angles(config, n),
        writers.by_recipe("lcm"),
        {"max_timesteps": 1.5708, "intermediate_timesteps": 1.3},
    ),
    "ScoreSdeVeScheduler": Scheduler(
        {"num_train_timesteps": 2000, "snr": 0.15, "sigma_min": 0.01, "sigma_max": 1348.0, "sampling_eps": 1e-5}
        | {"correct_steps": 1},
        lambda config, n, mu, mended: other_ladders.exploding(config, n),
        writers.by_recipe("reverse_diffusion"),
    ),
    "EDMEulerScheduler": Scheduler(_EDM, _edm("last"), writers.by_recipe("euler")),
    "EDMDPMSolverMultistepScheduler": Scheduler(
        _EDM | _SOLVER | _THRESHOLD | {"algorithm_type": "dpmsolver++"},
        _edm("config"),
        writers.dpm_multistep,
        slips=_HALF + '; "sde-dpmsolver++" of order 3 raises an error there',
    ),
    "CosineDPMSolverMultistepScheduler": Scheduler(
        _EDM
        | _SOLVER
        | {"sigma_min": 0.3, "sigma_max": 500.0, "sigma_data": 1.0, "sigma_schedule": "exponential"}
        | {"prediction_type": "v_prediction", "algorithm_type": "sde-dpmsolver++"},
        _edm("cosine"),
        writers.dpm_multistep,
    ),
    "IPNDMScheduler": Scheduler(
        {"num_train_timesteps": 1000, "trained_betas": None},
        lambda config, n, mu, mended: other_ladders.sines(config, n),
        chains.ipndm,
        slips="the first step, from pure noise, takes the data for zero",
    ),
}
"""The class names a config may have in `_class_name`."""

APART = {
    "RePaintScheduler": "it goes back and forth with a mask",
    "DDIMInverseScheduler": "it runs from data to noise",
    "DPMSolverMultistepInverseScheduler": "it runs from data to noise",
    "PiflowScheduler": "its steps are a network's",
    "FlowMapEulerDiscreteScheduler": "its network is told where a step ends",
    "ConsistencyDecoderScheduler": "its levels are those of one decoder",
    "KarrasVeScheduler": "it is deprecated; 'edm_stochastic' is its recipe",
    "HeliosDMDScheduler": "its pipeline hands every step its noise and its levels, and enlarges the state between stages",
    "RFD4ProteinaScheduler": "it samples a sharpened law of each token of a mask, not that of the path",
    **dict.fromkeys(
        (
            *("AmusedScheduler", "BlockRefinementScheduler", "DiscreteDDIMScheduler", "EntropyBoundScheduler"),
            "VQDiffusionScheduler",
        ),
        "its states are tokens, not vectors",
    ),
}
"""Classes that are known and not imported, and why."""

REFUSED: dict[str, tuple[Any, str, str]] = {
    "thresholding": (False, "it clips predictions, which a denoiser does", "rg.guide.threshold(denoiser)"),
    "clip_sample": (False, "it clips predictions, which a denoiser does", "rg.guide.threshold(denoiser, None)"),
    "clip_denoised": (False, "it clips predictions, which a denoiser does", "rg.guide.threshold(denoiser, None)"),
    "stages": (1, "it changes the size of the state", "one plan for each stage"),
    "scale_factors": (None, "it changes the size of the state", "one plan for each size"),
}
"""Options that no table can hold: the only value that can be honoured, why, and what does it here."""
