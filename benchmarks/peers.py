"""How near a plan comes to the sampler it was imported from: diffusers' schedulers and the samplers of k-diffusion.

Both sides get the same closed-form network, the same first state and the same draws; schedulers compute in float32. The gap
is the largest difference of the last states over the largest value. The samplers of k-diffusion and ComfyUI are compared
with what their own code returned (benchmarks/record_samplers.py).

    python benchmarks/peers.py          # all cases, into benchmarks/results/peers.json
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import math
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import retrograde as rg
from retrograde.interop.schedulers import SAMPLERS, SCHEDULERS, TO_THE_DATA, from_diffusers, from_k_diffusion
from retrograde.plan import Plan

ROOT = Path(__file__).parents[1]
RECORDED = ROOT / "tests" / "files" / "samplers.v1.json"
RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
TOLERANCE = 1e-4
LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A scheduler of diffusers with its options, run with `steps` steps."""

    name: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 10
    step: dict[str, Any] = dataclasses.field(default_factory=dict)
    mu: float | None = None
    levels: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        shown = {k: v for k, v in self.options.items() if LATENT.get(k) != v} | self.step | self.levels
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in shown.items())}), {self.steps} steps"

    @property
    def asked(self) -> dict[str, Any]:
        """What the scheduler and the importer are asked for: a number of steps, or the levels themselves."""
        if self.name.startswith(("UniPC", "Helios")):  # whose set_timesteps takes no list
            return {k: np.asarray(v) for k, v in self.levels.items()} or {"num_inference_steps": self.steps}
        return dict(self.levels) or {"num_inference_steps": self.steps}


def _latent(name: str, steps: int = 10, step: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case(name, LATENT | options, steps, step or {})


def _flow(name: str, mu: float | None = None, **options: Any) -> Case:
    return Case(name, options, 10, {}, mu)


_STEPS = [980.0, 700.0, 430.0, 250.0, 90.0, 20.0]
_TIMES = [1.0, 0.9, 0.7, 0.4, 0.1]
_HELIOS = [0.999, 0.8, 0.6, 0.4, 0.2]
_V = {"prediction_type": "v_prediction"}
_F = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
_LOW = {"final_sigmas_type": "sigma_min"}

CASES: tuple[Case, ...] = (
    *(_latent("EulerDiscreteScheduler", timestep_spacing=s, steps_offset=1) for s in ("linspace", "leading", "trailing")),
    *(_latent("EulerDiscreteScheduler", **{f"use_{s}_sigmas": True}) for s in ("karras", "exponential", "beta")),
    _latent("EulerDiscreteScheduler", **_LOW),
    _latent("EulerDiscreteScheduler", interpolation_type="log_linear"),
    _latent("EulerDiscreteScheduler", rescale_betas_zero_snr=True, timestep_spacing="trailing", **_V),
    _latent(
        "EulerDiscreteScheduler",
        timestep_type="continuous",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
        timestep_spacing="leading",
        **_V,
    ),
    _latent("EulerAncestralDiscreteScheduler"),
    *(
        _latent(f"{name}Scheduler", use_karras_sigmas=karras)
        for name in ("HeunDiscrete", "LMSDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
        for karras in (False, True)
    ),
    *(
        _latent("DPMSolverMultistepScheduler", algorithm_type=kind, solver_type=form, solver_order=order)
        for kind in ("dpmsolver++", "sde-dpmsolver++")
        for form in ("midpoint", "heun")
        for order in (1, 2, 3)
    ),
    *(
        _latent("DPMSolverMultistepScheduler", algorithm_type=kind, solver_type=form, solver_order=order, **_LOW)
        for kind, orders in (("dpmsolver", (1, 2, 3)), ("sde-dpmsolver", (1, 2)))
        for form in ("midpoint", "heun")
        for order in orders
    ),
    _latent("DPMSolverMultistepScheduler", 20, solver_order=3),
    _latent("DPMSolverMultistepScheduler", 20, euler_at_final=True, use_karras_sigmas=True, **_LOW),
    _latent("DPMSolverMultistepScheduler", 20, use_lu_lambdas=True),
    _latent("DPMSolverMultistepScheduler", 20, timestep_spacing="trailing", rescale_betas_zero_snr=True, **_V),
    Case("DPMSolverMultistepScheduler", {"lambda_min_clipped": -5.1, "beta_schedule": "squaredcos_cap_v2"}, 20),
    _flow("DPMSolverMultistepScheduler", flow_shift=3.0, **_F),
    _flow("DPMSolverMultistepScheduler", flow_shift=3.0, **_F, **_LOW),
    _flow("DPMSolverMultistepScheduler", 1.1, use_dynamic_shifting=True, **_F),
    *(
        _latent(
            "DPMSolverSinglestepScheduler",
            steps,
            algorithm_type=kind,
            solver_type=form,
            solver_order=order,
            **({} if kind.endswith("++") else _LOW),
        )
        for kind in ("dpmsolver++", "sde-dpmsolver++", "dpmsolver")
        for form in ("midpoint", "heun")
        for order, steps in ((2, 10), (2, 11), (3, 10), (3, 11), (3, 12))
    ),
    *(
        _latent("UniPCMultistepScheduler", solver_order=order, solver_type=form, predict_x0=data, **_LOW)
        for order in (1, 2, 3)
        for form in ("bh1", "bh2")
        for data in (True, False)
    ),
    _latent("UniPCMultistepScheduler"),
    _latent("UniPCMultistepScheduler", 7, solver_order=3, disable_corrector=[0, 1]),
    _latent("UniPCMultistepScheduler", use_karras_sigmas=True, **_LOW),
    _latent("UniPCMultistepScheduler", use_exponential_sigmas=True),
    _latent("UniPCMultistepScheduler", solver_order=3, lower_order_final=False, **_LOW),
    _flow("UniPCMultistepScheduler", flow_shift=3.0, **_F),
    _flow("UniPCMultistepScheduler", use_karras_sigmas=True, **_F),
    _flow("UniPCMultistepScheduler", 0.9, use_dynamic_shifting=True, shift_terminal=0.02, **_F),
    *(_latent("DEISMultistepScheduler", solver_order=order) for order in (1, 2, 3)),
    _latent("DEISMultistepScheduler", 20, solver_order=3, use_karras_sigmas=True),
    _flow("DEISMultistepScheduler", flow_shift=2.0, **_F),
    *(
        _latent("SASolverScheduler", predictor_order=predictor, corrector_order=corrector)
        for predictor in (1, 2, 3, 4)
        for corrector in (1, 2, 4)
    ),
    _latent("SASolverScheduler", 20, use_karras_sigmas=True),
    _flow("SASolverScheduler", flow_shift=3.0, **_F),
    *(
        _latent("DDIMScheduler", 7, {"eta": eta}, timestep_spacing=spacing, steps_offset=1, clip_sample=False)
        for spacing in ("linspace", "leading", "trailing")
        for eta in (0.0, 0.7, 1.0)
    ),
    _latent("DDIMScheduler", set_alpha_to_one=False, steps_offset=1, clip_sample=False),
    _latent("DDIMScheduler", rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False, **_V),
    _latent("DDIMParallelScheduler", clip_sample=False),
    *(
        _latent("DDPMScheduler", variance_type=f"fixed_{kind}", clip_sample=False)
        for kind in ("small", "small_log", "large")
    ),
    _latent("DDPMScheduler", timestep_spacing="trailing", rescale_betas_zero_snr=True, clip_sample=False, **_V),
    _latent("DDPMParallelScheduler", 13, timestep_spacing="linspace", clip_sample=False),
    Case("UnCLIPScheduler", {"clip_sample": False, "prediction_type": "sample"}, 25),
    _latent("PNDMScheduler", skip_prk_steps=True, steps_offset=1),
    _latent("PNDMScheduler", skip_prk_steps=True, set_alpha_to_one=True),
    _latent("PNDMScheduler", 20),
    *(_latent("LCMScheduler", steps) for steps in (1, 2, 4, 8)),
    _latent("LCMScheduler", 4, timestep_scaling=0.01),
    *(_latent("TCDScheduler", steps) for steps in (1, 4, 8)),
    *(_latent("TCDScheduler", 5, {"eta": eta}) for eta in (0.0, 1.0)),
    _flow("CMStochasticIterativeScheduler", clip_denoised=False),
    _flow("FlowMatchEulerDiscreteScheduler"),
    _flow("FlowMatchEulerDiscreteScheduler", shift=3.0),
    _flow("FlowMatchEulerDiscreteScheduler", 1.15, use_dynamic_shifting=True),
    _flow("FlowMatchEulerDiscreteScheduler", 1.15, use_dynamic_shifting=True, time_shift_type="linear", shift_terminal=0.1),
    _flow("FlowMatchEulerDiscreteScheduler", use_karras_sigmas=True),
    _flow("FlowMatchEulerDiscreteScheduler", use_beta_sigmas=True, shift=3.0),
    _flow("FlowMatchEulerDiscreteScheduler", stochastic_sampling=True, shift=3.0),
    _flow("FlowMatchEulerDiscreteScheduler", invert_sigmas=True, shift=3.0),
    _flow("FlowMatchHeunDiscreteScheduler", shift=3.0),
    _flow("FlowMatchLCMScheduler", shift=3.0),
    *(
        Case(f"{name}Scheduler", LATENT | options, 6, {}, None, {"timesteps": [int(t) for t in _STEPS]})
        for name, options in (
            ("DDPM", {"clip_sample": False}),
            ("EulerDiscrete", {}),
            ("HeunDiscrete", {}),
            ("DPMSolverMultistep", {}),
            ("DPMSolverSinglestep", {}),
        )
    ),
    *(Case(f"{name}Scheduler", LATENT, 4, {}, None, {"timesteps": [999, 759, 499, 259]}) for name in ("LCM", "TCD")),
    Case("EulerDiscreteScheduler", LATENT, 4, {}, None, {"sigmas": [14.6, 6.3, 2.1, 0.5, 0.0]}),
    Case("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, 5, {}, None, {"sigmas": _TIMES}),
    Case("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, 5, {}, 1.15, {"sigmas": _TIMES}),
    Case("FlowMatchLCMScheduler", {"shift": 3.0}, 5, {}, None, {"sigmas": _TIMES}),
    Case("UniPCMultistepScheduler", {"flow_shift": 3.0, **_F}, 5, {}, None, {"sigmas": _TIMES}),
    _flow("LTXEulerAncestralRFScheduler"),
    _flow("LTXEulerAncestralRFScheduler", eta=0.5),
    Case("CogVideoXDDIMScheduler"),
    Case("CogVideoXDDIMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **_V}),
    Case("CogVideoXDPMScheduler", {"timestep_spacing": "trailing", **_V}),
    Case("CogVideoXDPMScheduler", {"timestep_spacing": "linspace", "set_alpha_to_one": False}, 13),
    Case("CogVideoXDPMScheduler", {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", **_V}),
    *(_flow("DDPMWuerstchenScheduler", scaler=scaler) for scaler in (0.7, 1.0, 1.5)),
    _flow("HeliosScheduler", stages=1, shift=1.5, time_shift_type="linear", scheduler_type="euler"),
    _flow("HeliosScheduler", 1.2, stages=1, use_dynamic_shifting=True, scheduler_type="euler"),
    *(Case("HeliosScheduler", {"stages": 1, "solver_order": order}, 5, {}, None, {"sigmas": _HELIOS}) for order in (2, 3)),
    Case("HeliosScheduler", {"stages": 1, "use_dynamic_shifting": True}, 5, {}, 0.9, {"sigmas": _HELIOS}),
    _flow("MiniMaxH3Scheduler"),
    Case("MiniMaxH3Scheduler", {"shift": 3.0}, 5, {}, None, {"sigmas": [*_TIMES, 0.0]}),
    Case("SCMScheduler", {"sigma_data": 1.0}, 2),
    Case("ScoreSdeVeScheduler", {"correct_steps": 0, "sigma_max": 50.0}),
    _flow("EDMEulerScheduler"),
    _flow("EDMEulerScheduler", sigma_schedule="exponential"),
    *(
        _flow("EDMDPMSolverMultistepScheduler", solver_order=order, solver_type=form, algorithm_type=kind)
        for kind, orders in (("dpmsolver++", (1, 2, 3)), ("sde-dpmsolver++", (1, 2)))
        for form in ("midpoint", "heun")
        for order in orders
    ),
    _flow("EDMDPMSolverMultistepScheduler", **_LOW),
    *(_flow("CosineDPMSolverMultistepScheduler", solver_type=form) for form in ("midpoint", "heun")),
    _flow("IPNDMScheduler"),
)


def mixture(path: rg.paths.Path) -> rg.oracles.GaussianMixture:
    """The mixture of tests/conftest.py."""
    return rg.oracles.GaussianMixture(
        path,
        means=torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.1]]),
        covariances=torch.tensor([[[0.4, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.5]], [[0.35, -0.1], [-0.1, 0.4]]]),
        weights=torch.tensor([0.5, 0.3, 0.2]),
    )


class Draws:
    """The draws of a run in the order they are made; both sides read the same ones."""

    def __init__(self, shape: tuple[int, ...], seed: int = 3) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.shape, self.made, self.place = shape, list[Tensor](), 0
        self.used: list[int] | None = None  # which of the peer's draws have an effect, where it makes others too

    def rewind(self) -> Draws:
        self.place = 0
        return self

    def next(self) -> Tensor:
        while self.place >= len(self.made):
            self.made.append(torch.randn(self.shape, generator=self.generator, dtype=torch.float64))
        self.place += 1
        return self.made[self.place - 1]

    def draw(self, shape: Any, interval: Any, occurrence: int = 0, dtype: Any = None, device: Any = None) -> Tensor:
        """What the loop asks of a source of noise."""
        if self.used is not None:
            self.place = self.used.pop(0)
        return self.next().to(dtype)


def first_state(plan: Plan, n: int = 3) -> Tensor:
    """The peer's first state, in the units of the plan's path."""
    eps = torch.randn((n, 2), generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    return plan.provenance["start_noise"] * plan.path.s(plan.start) * eps


def ours(plan: Plan, den: Any, x: Tensor, draws: Draws) -> Tensor:
    *_, last = rg.run(plan, den, x, noise=draws.rewind())  # type: ignore[arg-type]
    return last.x_t


def theirs(
    scheduler: Any,
    plan: Plan,
    den: Any,
    x: Tensor,
    draws: Draws,
    step_at: Callable[[int], dict[str, Any]] | None = None,
    **step: Any,
) -> Tensor:
    """Loop over the scheduler's timesteps as a pipeline does, and return its last state in the units of the plan's path.

    The network is the exact prediction at the level at which the scheduler is, whatever it is told, in the parameterization
    that the scheduler expects.
    """
    module = importlib.import_module(type(scheduler).__module__)
    draws.rewind()

    def drawn(*_: Any, **__: Any) -> Tensor:
        return draws.next().float()

    given = mock.patch.object(module, "randn_tensor", drawn)
    with given if hasattr(module, "randn_tensor") else contextlib.nullcontext():
        return _looped(scheduler, plan, den, x, step_at or (lambda i: step))


def _looped(scheduler: Any, plan: Plan, den: Any, x: Tensor, step_at: Callable[[int], dict[str, Any]]) -> Tensor:
    scaled = plan.path.a(plan.start)
    # schedulers in s/a hold x/a and divide before the network is asked; the others hold the state of the path
    in_sigma = hasattr(scheduler, "is_scale_input_called") or "KDPM2" in type(scheduler).__name__
    in_sigma = in_sigma or type(scheduler).__name__ in ("HeunDiscreteScheduler", "DPMSolverSDEScheduler")
    in_sigma = in_sigma and plan.path.name in ("vp_discrete", "vp")
    state = (x / scaled if in_sigma else x).float()
    asked = list(plan.times)
    kind = plan.provenance["predicts"]
    ended = kind_of(scheduler) in ("SCMScheduler", "DDPMWuerstchenScheduler")  # their last timestep is no question
    for i, timestep in enumerate(scheduler.timesteps[: len(asked)] if ended else scheduler.timesteps):
        t = asked[i] if i < len(asked) else asked[-1]
        seen = scheduler.scale_model_input(state, timestep) if hasattr(scheduler, "scale_model_input") else state
        output = _output(den, plan, seen.double(), t, kind, scheduler)
        if hasattr(scheduler, "step_pred"):  # its pipeline returns the last mean
            made = scheduler.step_pred(output.float(), timestep, state)
            state = made.prev_sample if i + 1 < len(asked) else made.prev_sample_mean
            continue
        timestep = timestep[None] if "Wuerstchen" in kind_of(scheduler) else timestep  # it wants one for each item
        state = scheduler.step(output.float(), timestep, state, **step_at(i)).prev_sample
    end = plan.rows[-1].next_time
    return state.double() * (plan.path.a(end) if in_sigma and end is not None else 1.0)


def kind_of(scheduler: Any) -> str:
    return type(scheduler).__name__


def _output(den: Any, plan: Plan, x: Tensor, t: float, kind: str, scheduler: Any) -> Tensor:
    if type(scheduler).__name__ == "CMStochasticIterativeScheduler":  # it makes the consistency function of the output
        state = x * math.hypot(t, scheduler.config.sigma_data)
        skip, out = (float(c) for c in scheduler.get_scalings_for_boundary_condition(t))
        return (den.predict(state, t).data - skip * state) / out
    if kind == TO_THE_DATA:
        return -den.predict(x, t).read("velocity")
    if not kind.startswith("edm"):
        return den.predict(x, t).read(kind)
    # x is c_in times the state; F = (D - c_skip x)/c_out
    d, sigma = float(scheduler.config.sigma_data), t
    state = x * math.hypot(sigma, d)
    sign = -1.0 if scheduler.config.prediction_type == "v_prediction" else 1.0
    skip, out = d * d / (sigma**2 + d**2), sign * sigma * d / math.hypot(sigma, d)
    return (den.predict(state, t).data - skip * state) / out


def gap(one: Tensor, other: Tensor) -> float:
    """Largest difference, relative to the largest value."""
    return float((one - other).abs().max() / other.abs().max())


class Brownian:
    """A noise sampler over one Brownian path in sigma: the increment of a step contains that of its first part."""

    def __init__(self, draws: Draws) -> None:
        self.draws, self.last = draws, (math.nan, math.nan, torch.zeros(()))

    def __call__(self, sigma: Any, sigma_next: Any) -> Tensor:
        start, end = float(sigma), float(sigma_next)
        if self.last[0] == start and end < self.last[1]:
            part = (start - self.last[1]) / (start - end)
            noise = math.sqrt(part) * self.last[2] + math.sqrt(1.0 - part) * self.draws.next()
        else:
            noise = self.draws.next()
        self.last = (start, end, noise)
        return noise.float()


def scheduler_of(case: Case) -> Any:
    """Make the scheduler, and set its steps."""
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    own = {"DPMSolverSDEScheduler": "dpmsolver_sde", "CosineDPMSolverMultistepScheduler": "cosine_dpmsolver_multistep"}
    if case.name in own:
        if "torchsde" not in sys.modules:  # their noise comes from here, never from torchsde
            sys.modules["torchsde"] = types.ModuleType("torchsde")
            sys.modules["torchsde"].BrownianTree = object  # type: ignore[attr-defined]
        cls = getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{own[case.name]}"), case.name)
    else:
        cls = getattr(diffusers, case.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = cls(**case.options)
        counted = {"num_inference_steps": case.steps} if case.name.startswith("Helios") else {}  # which wants both
        made.set_timesteps(**{**counted, **case.asked}, **({} if case.mu is None else {"mu": case.mu}))
        if hasattr(made, "set_sigmas"):
            made.set_sigmas(case.steps)
    return made


def compare(case: Case, mended: bool = False) -> tuple[Plan, float]:
    """Return the plan of a case and the gap between the two runs."""
    made = scheduler_of(case)
    plan = from_diffusers(made, **case.asked, mu=case.mu, mended=mended, **case.step)
    den, draws, x = mixture(plan.path), Draws((3, 2)), first_state(plan)
    if hasattr(made, "noise_sampler"):
        made.noise_sampler = Brownian(draws)
    step_at = None
    if case.name == "UnCLIPScheduler":  # pipelines hand it the step that follows
        following = [*made.timesteps[1:].tolist(), None]
        step_at = lambda i: {"prev_timestep": following[i]}  # noqa: E731
    if case.name == "CogVideoXDPMScheduler":  # its pipeline keeps the last data mean, and the timestep it is of
        made.step = _remembering(made)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = theirs(made, plan, den, x, draws, step_at, **case.step)
    if case.name == "CogVideoXDPMScheduler":  # between its first step and its last it draws twice, and uses the second
        n = len(made.timesteps)
        draws.used = [0, *range(2, 2 * n - 2, 2), 2 * n - 3]
    if case.name == "SASolverScheduler":  # it draws in every step, and uses the draws of these
        draws.used = [i for i, t in enumerate(made.timesteps) if 200 <= int(t) <= 800]
    return plan, gap(ours(plan, den, x, draws), other)


def _remembering(scheduler: Any) -> Callable[..., Any]:
    """The step of CogVideoX's DPM scheduler as its pipeline calls it, with what the last call returned."""
    step, past = scheduler.step, list[Any]([None, None])

    def call(output: Tensor, timestep: Any, state: Tensor) -> Any:
        made, past[0] = step(output, past[0], timestep, past[1], state)[:2]
        past[1] = timestep
        return types.SimpleNamespace(prev_sample=made)

    return call


def recorded() -> dict[str, Any]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def compare_recorded(run: dict[str, Any], sigmas: list[float], mended: bool = False) -> tuple[Plan, float]:
    """Return the plan of a recorded run of k-diffusion or ComfyUI and the gap to what was recorded."""
    name = f"sample_{run['sampler']}" if run["package"] == "k-diffusion" else run["sampler"]
    plan, draws, options = from_k_diffusion(name, sigmas, mended=mended, **run["options"]), Draws((3, 2)), run["options"]
    if options.get("s_churn") and run["package"] == "k-diffusion":  # it draws in every step, and uses the draws of these
        draws.used = [i for i, s in enumerate(sigmas) if options["s_tmin"] <= s <= options["s_tmax"]]
    return plan, gap(ours(plan, mixture(plan.path), first_state(plan), draws), torch.tensor(run["end"], dtype=torch.float64))


def main() -> None:
    import diffusers

    torch.set_num_threads(1)
    rows = []
    for case in CASES:
        plan, difference = compare(case)
        options = {k: v for k, v in case.options.items() if LATENT.get(k) != v} | case.step | case.levels
        name = {"package": "diffusers", "name": case.name, "options": options, "steps": case.steps}
        rows.append(name | {"recipe": plan.recipe, "nfe": plan.nfe, "gap": difference})
        print(f"{difference:.1e}  {case}")
    stored = recorded()
    for run in stored["runs"]:
        plan, difference = compare_recorded(run, stored["sigmas"])
        name = {
            "package": run["package"],
            "name": run["sampler"],
            "options": run["options"],
            "steps": len(stored["sigmas"]) - 1,
        }
        rows.append(name | {"recipe": plan.recipe, "nfe": plan.nfe, "gap": difference})
        print(f"{difference:.1e}  {run['package']} {run['sampler']} {run['options']}")
    result = {
        "versions": {"diffusers": diffusers.__version__, **stored["versions"], "torch": torch.__version__},
        "command": "python benchmarks/peers.py",
        "tolerance": TOLERANCE,
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    worst = max(row["gap"] for row in rows)
    names = {(row["package"], row["name"]) for row in rows}
    print(f"{len(rows)} runs of {len(names)} samplers, largest gap {worst:.1e}")
    assert not {name for name in SCHEDULERS if ("diffusers", name) not in names}
    assert not {
        name
        for name in SAMPLERS
        if not name.startswith("sample_") and ("ComfyUI", name) not in names | {("ComfyUI", "ddim")}
    }


if __name__ == "__main__":
    main()
