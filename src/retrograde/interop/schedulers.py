"""Samplers of diffusers, k-diffusion and ComfyUI as plans, by the name and the options they have there.

Nothing here imports those packages: a scheduler's options are read from its `config`, or from the dict of a
`scheduler_config.json`. A plan made here does what the peer does, on the peer's levels, told the peer's trained steps; where
the peer's formula slips, it slips too, unless mended=True.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadType, BadValue, PlanError, RetrogradeError, UnknownName
from retrograde.interop.classes import APART, BEGUN, EXPLICIT, REFUSED, SCHEDULERS, Scheduler
from retrograde.interop.fitted import from_olss
from retrograde.interop.ladders import Ladder
from retrograde.interop.samplers import SAMPLERS, from_k_diffusion
from retrograde.interop.writers import Written
from retrograde.paths import Path
from retrograde.plan import Plan
from retrograde.recipes.recipe import made
from retrograde.recipes.solver_schedule import from_solver_schedule

PREDICTIONS = {
    "epsilon": "noise",
    "sample": "data",
    "original_sample": "data",
    "v_prediction": "v",
    "flow_prediction": "velocity",
    "trigflow": "v",
}
"""What diffusers calls `prediction_type`, and what a `Denoiser` calls `predicts`."""


TO_THE_DATA = "velocity to the data"
"""A velocity with the other sign, which no denoiser reads: negate the network's output and predict "velocity"."""

NEGATED_EDM = "edm, negated"
"""The raw network of EDM with the other sign, where prediction_type is "v_prediction": negate it and predict "edm"."""

_SIGNS = {TO_THE_DATA: "velocity", NEGATED_EDM: "edm"}


def names() -> tuple[str, ...]:
    """Return the names of the scheduler classes of diffusers that `from_diffusers` takes."""
    return tuple(sorted(SCHEDULERS))


def sampler_names() -> tuple[str, ...]:
    """Return the sampler names of k-diffusion and ComfyUI that `from_k_diffusion` takes."""
    return tuple(sorted(SAMPLERS))


def from_diffusers(
    scheduler: Any,
    num_inference_steps: int | None = None,
    *,
    timesteps: Sequence[int] | None = None,
    sigmas: Sequence[float] | None = None,
    class_name: str | None = None,
    mu: float | None = None,
    mended: bool = False,
    begin: int = 0,
    denoiser: AbstractDenoiser | None = None,
    **options: Any,
) -> Plan:
    """Return the plan of a scheduler of diffusers, run with so many steps.

    Its provenance holds the options, `start_noise` (the standard deviation of the peer's first state over that of the
    path: x = start_noise * path.s(plan.start) * eps is where the peer starts) and `predicts`, the parameterization of the
    network.

    Args:
        scheduler: a scheduler object, or its config as a dict with `_class_name`.
        num_inference_steps: what `set_timesteps` is given there; `plan.nfe` is what it costs.
        timesteps, sigmas: explicit trained steps or levels instead, for the classes whose `set_timesteps` takes them; flow
            pipelines pass sigmas=np.linspace(1.0, 1/n, n), which are then shifted as the scheduler does.
        class_name: another class with the same options, as `from_config` makes it there.
        mu: for use_dynamic_shifting, as pipelines pass it to `set_timesteps`.
        mended: the right formula where the peer's slips.
        begin: the step at which the run begins, as image-to-image pipelines begin it: a multistep method has no history
            there, and starts with its lower orders. For the classes in `classes.BEGUN`; others have `plan.from_noise`.
        denoiser: if given, checked for the path and the parameterization.
        **options: options that replace those of the config, and those of the peer's `step` (eta of DDIM and TCD, order of
            LMS, s_noise of DPMSolverSDE).

    Raises:
        BadType: neither a scheduler nor a config.
        UnknownName: a class, or an option, that is not known.
        BadValue: an option whose value cannot be honoured, which is named.
    """
    given = _config(scheduler)
    name = str(class_name or given.get("_class_name"))
    if name in APART:
        raise BadValue(
            f"the scheduler {name}", f"schedulers whose steps are a table from noise to data; {APART[name]}", "another"
        )
    if name not in SCHEDULERS:
        raise UnknownName("continuous scheduler of diffusers", name, SCHEDULERS)
    chosen = SCHEDULERS[name]
    known = {**chosen.options, **chosen.step}
    if unknown := sorted(set(options) - set(known)):
        raise UnknownName(f"option of {name}", unknown[0], known)
    unset = given.get("_use_default_values", ())  # options nobody gave: another class has its own defaults for them
    stored = {k: v for k, v in given.items() if k in chosen.options and k not in unset}
    config = {**known, **stored, **options}
    ignored = sorted(k for k in given if not k.startswith("_") and k not in chosen.options)
    _refuse(config, name)
    n = _steps(name, num_inference_steps, timesteps, sigmas, config)
    ladder = chosen.ladder({**config, "_timesteps": timesteps, "_sigmas": sigmas}, n, mu, mended)
    if begin:
        if name not in BEGUN or not 0 < begin < len(ladder.times):
            given = f"begin={begin} of {name} with {len(ladder.times)} steps"
            raise BadValue(given, f"a step of {', '.join(BEGUN)}", "from_diffusers(...).from_noise(sigma)")
        ladder = dataclasses.replace(ladder, times=ladder.times[begin:], noise=1.0)
    written = chosen.write(ladder, {**config, "_before": begin}, mended)
    if not written.rows:
        raise BadValue(f"{n} steps of {name}, which ends at its last level: there is none", ">= 2", "num_inference_steps=2")
    kept = {k: v for k, v in config.items() if v != chosen.options.get(k) and k not in ("trained_betas", "tau_func")}
    provenance = {
        "peer": "diffusers",
        "scheduler": name,
        "num_inference_steps": n,
        "options": kept,
        "ignored": ignored,
        "mended": mended,
        "start_noise": ladder.noise,
        "predicts": _predicts(config, name),
    } | ({"begin": begin} if begin else {})
    plan = _plan(ladder, written, provenance)
    if denoiser is not None:
        _check(plan, denoiser)
    return plan


def begun(plan: Plan, begin: int) -> Plan | None:
    """Return the peer's run begun at a later step, where an imported plan's provenance tells it whole; None elsewhere."""
    origin = plan.provenance
    if origin.get("scheduler") not in BEGUN or "begin" in origin:
        return None
    config = {"_class_name": origin["scheduler"], **origin["options"]}

    def made(at: int) -> Plan:
        return from_diffusers(config, origin["num_inference_steps"], mended=origin["mended"], begin=at)

    try:
        # levels that the caller chose are not in the provenance: then it makes another plan
        return made(begin) if made(0).rows == plan.rows else None
    except RetrogradeError:
        return None


def path_of(scheduler: Any) -> Path:
    """Return the path that a scheduler of diffusers, or its config as a dict, steps on.

    Raises:
        BadType: neither a scheduler nor a config.
        UnknownName: a class that is not known.
    """
    given = _config(scheduler)
    name = str(given.get("_class_name"))
    if name not in SCHEDULERS:
        raise UnknownName("continuous scheduler of diffusers", name, SCHEDULERS)
    known = {**SCHEDULERS[name].options, **SCHEDULERS[name].step}
    config = known | {k: v for k, v in given.items() if k in known}
    return SCHEDULERS[name].ladder({**config, "_timesteps": None, "_sigmas": None}, 2, 1.0, False).path


def predicts(scheduler: Any) -> str:
    """Return the parameterization of the network a scheduler of diffusers, or its config as a dict, is made for."""
    given = _config(scheduler)
    return _predicts(given, str(given.get("_class_name")))


def tells_whole(scheduler: Any) -> bool:
    """Return whether a scheduler of diffusers, or its config, tells a flow network times rounded down to whole numbers."""
    given = _config(scheduler)
    return bool(given.get("use_flow_sigmas") or given.get("whole_timesteps"))


def _config(scheduler: Any) -> dict[str, Any]:
    config = scheduler if isinstance(scheduler, Mapping) else getattr(scheduler, "config", None)
    if not isinstance(config, Mapping):
        raise BadType(
            f"{scheduler!r}", "a scheduler of diffusers, or its config as a dict", "from_diffusers(pipe.scheduler, 20)"
        )
    found = dict(config)
    if not isinstance(scheduler, Mapping):
        found.setdefault("_class_name", type(scheduler).__name__)
    return found


def _steps(name: str, count: int | None, timesteps: Any, sigmas: Any, config: Mapping[str, Any]) -> int:
    """Return the number of steps of the one argument that says it."""
    given = {"num_inference_steps": count, "timesteps": timesteps, "sigmas": sigmas}
    chosen = [key for key, value in given.items() if value is not None]
    if len(chosen) != 1:
        raise BadValue(f"{' and '.join(chosen) or 'no steps'} for {name}", f"one of {', '.join(given)}", "20 steps")
    key = chosen[0]
    if key == "num_inference_steps":
        if count is None or count < 1:
            raise BadValue(f"num_inference_steps={count}", ">= 1", "num_inference_steps=20")
        return count
    flow = bool(config.get("use_flow_sigmas"))
    other = (name == "UniPCMultistepScheduler" and not flow) or (key == "timesteps" and flow)
    if name not in EXPLICIT[key] or other or config.get("timestep_type") == "continuous":
        on_flow = flow or _predicts(config, name) == "velocity"
        steps = "[step / 1000 for step in timesteps]" if on_flow else "[(step + 1) / 1000 for step in timesteps]"
        times = "sigmas" if on_flow else "rg.grids.from_sigmas(path, sigmas)"
        levels = steps if key == "timesteps" else times
        mend = f"rg.plan(recipe, path, grid={levels}) with path = schedulers.path_of(scheduler)"
        raise BadValue(f"{key} of {name}" + " on flow times" * flow, f"{key} of {', '.join(EXPLICIT[key])}", mend)
    return len(given[key]) - (name == "EulerDiscreteScheduler" and key == "sigmas")


def _refuse(config: Mapping[str, Any], name: str) -> None:
    for option, (allowed, why, instead) in REFUSED.items():
        if option in config and option not in SCHEDULERS[name].unused and config[option] not in (allowed, None):
            raise BadValue(
                f"{option}={config[option]!r} of {name}",
                f"{option}={allowed!r}: {why}",
                f"from_diffusers(..., {option}={allowed!r}), and {instead}",
            )
    if name.startswith(("DPMSolver", "SASolver")) and config.get("variance_type") is not None:
        raise BadValue(
            f"variance_type={config['variance_type']!r} of {name}",
            "None: the plan's denoiser returns the prediction alone",
            "variance_type=None, and drop the variance in the network: output.chunk(2, dim=1)[0]",
        )


def _predicts(config: Mapping[str, Any], name: str) -> str:
    if name == "MiniMaxH3Scheduler" or config.get("invert_sigmas"):
        return TO_THE_DATA
    if name.startswith(("Flow", "LTX")):
        return "velocity"
    if name.startswith("Helios"):
        config = {"prediction_type": "flow_prediction", **config}
    if name.startswith(("EDM", "Cosine")):
        return NEGATED_EDM if config.get("prediction_type") == "v_prediction" else "edm"
    own = {
        "DDPMWuerstchenScheduler": "noise",
        "CMStochasticIterativeScheduler": "data",
        "IPNDMScheduler": "v",
        "ScoreSdeVeScheduler": "score",
    }
    if name in own:
        return own[name]
    return PREDICTIONS.get(str(config.get("prediction_type", "epsilon")), str(config.get("prediction_type")))


def _plan(ladder: Ladder, written: Written, provenance: Mapping[str, Any]) -> Plan:
    rows = written.rows
    if ladder.tell is not None:
        tell = ladder.tell
        rows = [
            row
            if row.time is None or row.network_time is not None
            else dataclasses.replace(row, network_time=tell(row.time))
            for row in rows
        ]
    return made(ladder.path, rows, written.basis, written.recipe, provenance, ladder.times[0])


def _check(plan: Plan, denoiser: AbstractDenoiser) -> None:
    if denoiser.path != plan.path:
        raise PlanError(
            f"a denoiser of path {denoiser.path.fingerprint}; the scheduler's is {plan.path.fingerprint}",
            "the path of the scheduler",
            "Denoiser(network, plan.path, ...)",
        )
    predicts = plan.provenance["predicts"]
    if predicts in _SIGNS:
        kind = _SIGNS[predicts]
        given = f"a denoiser that predicts {denoiser.predicts!r}, for a network that says {kind!r} with the other sign"
        mend = f"Denoiser(lambda x, t: -network(x, t), plan.path, {kind!r}, shape), without denoiser="
        raise BadValue(given, "the negated output, which nobody can check from here", mend)
    if denoiser.predicts != predicts:
        raise BadValue(
            f"a denoiser that predicts {denoiser.predicts!r}; the scheduler's network predicts {predicts!r}",
            f"predicts={predicts!r}",
            f"Denoiser(network, plan.path, {predicts!r}, shape)",
        )


__all__ = [
    "PREDICTIONS",
    "SAMPLERS",
    "SCHEDULERS",
    "Scheduler",
    "from_diffusers",
    "from_k_diffusion",
    "from_olss",
    "from_solver_schedule",
    "names",
    "path_of",
    "predicts",
    "sampler_names",
    "tells_whole",
]
