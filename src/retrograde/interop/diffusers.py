"""Pipelines of diffusers: as denoisers, and a plan in place of their scheduler.

Needs the extra `[diffusers]`; the module loads when it is first named. Written and tested with diffusers 0.42.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from retrograde.errors import BadType, BadValue, MissingExtra, PlanError, UnknownName
from retrograde.interop import schedulers
from retrograde.interop.answered import AnsweredRun, check_answerable, told_on
from retrograde.interop.pipelines import denoiser
from retrograde.paths import Flow
from retrograde.plan import Plan
from retrograde.plan_file import PlanFile, packed, unpacked

try:
    from diffusers import ConfigMixin, SchedulerMixin
    from diffusers.utils import BaseOutput
    from diffusers.utils.torch_utils import randn_tensor
except ImportError as error:
    raise MissingExtra("diffusers", "diffusers") from error

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")
"""What diffusers calls the parameterizations a pipeline's network can have."""


@dataclasses.dataclass
class PlanSchedulerOutput(BaseOutput):
    """What `PlanScheduler.step` returns: the next state and the mean of the data, both shaped as the sample."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class _Draws:
    """Noise of a pipeline's generator (or of torch's own), drawn in the order in which rows ask."""

    def __init__(self) -> None:
        self.generator: torch.Generator | list[torch.Generator] | None = None
        self.batch = 0

    def draw(
        self,
        shape: Sequence[int],
        interval: tuple[float, float],
        occurrence: int = 0,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        where = torch.device(device)
        return randn_tensor((self.batch, *shape), generator=self.generator, dtype=dtype, device=where)


@dataclasses.dataclass
class _Call:
    """The memory of one pipeline call: where it begins, its run, and the state last handed out with its version."""

    begin: int | None = None
    first: int = 0
    run: AnsweredRun | None = None
    draws: _Draws = dataclasses.field(default_factory=_Draws)
    made: Tensor | None = None
    version: int = -1


@final
class PlanScheduler(SchedulerMixin, ConfigMixin):
    """A plan as the scheduler of a pipeline: `pipe.scheduler = PlanScheduler.instead_of(pipe.scheduler, plan)`.

    States are x_t of the plan's path, which is what the pipeline's network sees, so nothing is scaled. One timestep stands
    for each evaluation of the plan, and `num_inference_steps` is `plan.nfe`. A run that begins at a later timestep
    (image-to-image, inpainting) is `plan.from_noise` there, or the peer's own begun there if the plan was imported. Each
    thread's call has a run of its own, on the library's loop.
    `save_pretrained` writes the whole table, tensors included, into scheduler_config.json.

    Args:
        plan: the plan; or what its config holds of it.
        prediction_type: what the pipeline's network predicts, "epsilon", "sample", "v_prediction" or "flow_prediction";
            left out, what an imported plan says of its network, "flow_prediction" on a flow path and otherwise "epsilon".
        num_train_timesteps: what a flow network is told at t = 1.
        whole_timesteps: a flow network is told whole numbers, rounded down.
        tensors: the plan's tensors as they are stored in a config.

    Raises:
        PlanError: the plan asks for what a scheduler cannot do (see `answered.check_answerable`).
        UnknownName: another prediction type.
    """

    order = 1
    _compatibles: list[str] = []  # noqa: RUF012 - what diffusers reads

    def __init__(
        self,
        plan: Plan | Mapping[str, Any],
        prediction_type: str | None = None,
        num_train_timesteps: int = 1000,
        tensors: str | None = None,
        whole_timesteps: bool = False,
    ) -> None:
        if isinstance(plan, Plan):
            content, parts = packed(plan)
            content = json.loads(json.dumps(content))
            tensors = base64.b64encode(safetensors.torch.save(parts)).decode() if parts else None
        else:
            content = dict(plan)
            parts = {} if tensors is None else safetensors.torch.load(base64.b64decode(tensors))
            plan = unpacked(PlanFile.model_validate(content), parts)
        check_answerable(plan)
        prediction_type = _prediction_type(plan) if prediction_type is None else prediction_type
        if prediction_type not in PREDICTION_TYPES:
            raise UnknownName("prediction type", prediction_type, PREDICTION_TYPES)
        self.register_to_config(
            plan=content,
            prediction_type=prediction_type,
            num_train_timesteps=num_train_timesteps,
            tensors=tensors,
            whole_timesteps=whole_timesteps,
        )
        self.plan = plan
        self._tables = {0: plan}
        self._calls: dict[int, _Call] = {}
        told = [
            self._tell(row.time) if row.network_time is None else row.network_time
            for row in plan.rows
            if row.time is not None
        ]
        whole = all(step.is_integer() for step in told)
        self._told = told
        self.timesteps = torch.tensor(told, dtype=torch.int64 if whole else torch.float32)
        self.num_inference_steps = plan.nfe

    @classmethod
    def instead_of(cls, scheduler: Any, plan: Plan) -> PlanScheduler:
        """Return the scheduler that takes the place of another: same path, same parameterization of the network.

        Raises:
            PlanError: the plan is on another path than the scheduler.
        """
        if isinstance(scheduler, PlanScheduler):
            path, predicts = scheduler.plan.path, str(scheduler.config["prediction_type"])
        else:
            path, kind = schedulers.path_of(scheduler), schedulers.predicts(scheduler)
            predicts = _named(kind)
        if plan.path != path:
            raise PlanError(
                f"a plan for path {plan.path.fingerprint} in place of a scheduler of path {path.fingerprint}",
                "a plan for the path the pipeline's network was trained on",
                "rg.plan(recipe, retrograde.interop.schedulers.path_of(pipe.scheduler), nfe=8)",
            )
        steps = int(scheduler.config.get("num_train_timesteps", 1000))
        return cls(plan, predicts, steps, whole_timesteps=schedulers.tells_whole(scheduler))

    @property
    def init_noise_sigma(self) -> float:
        """Standard deviation of the first state: that of the path at the plan's start, or of the peer that was imported."""
        start = 0.0 if self.plan.start is None else self.plan.start
        return float(self.plan.provenance.get("start_noise", 1.0)) * self.plan.path.s(start)

    @property
    def sigmas(self) -> Tensor:
        """Noise levels of the timesteps and of the end, as pipelines read them: s on a flow path, otherwise s/a."""
        path = self.plan.path
        level = path.s if isinstance(path, Flow) else path.sigma
        return torch.tensor([*map(level, self.plan.times), 0.0], dtype=torch.float32)

    @property
    def begin_index(self) -> int | None:
        """Where this thread's call begins, if the pipeline said so."""
        return self._call().begin

    @property
    def step_index(self) -> int | None:
        """Number of the evaluation this thread's call comes to next; None outside a call."""
        call = self._call()
        return None if call.run is None else call.first + call.run.answered

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_calls": {}}  # runs in progress belong to their threads

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a call of this thread. The levels are the plan's: what pipelines pass must ask for as many.

        Args:
            sigmas: the even levels from 1 to 1/n that flow pipelines pass by default.
            mu: shift that flow pipelines compute from the size; the plan's levels are not shifted.

        Raises:
            BadValue: another number of steps than plan.nfe, or levels of the caller's own.
        """
        nfe = self.plan.nfe
        if timesteps is not None and [float(t) for t in timesteps] != self.timesteps.tolist():
            raise BadValue("timesteps of the call's own", "the levels of the plan", f"num_inference_steps={nfe}")
        if sigmas is not None:
            num_inference_steps, given = len(sigmas), np.asarray(sigmas, dtype=np.float64)
            if not np.allclose(given, np.linspace(1.0, 1.0 / len(given), len(given)), atol=1e-6):
                raise BadValue("sigmas of the call's own", "the levels of the plan", f"num_inference_steps={nfe}")
        if num_inference_steps is not None and num_inference_steps != nfe:
            raise BadValue(
                f"num_inference_steps={num_inference_steps} for a plan of {nfe} evaluations",
                f"num_inference_steps={nfe}",
                f"pipe(..., num_inference_steps={nfe}), or a plan made with nfe={num_inference_steps}",
            )
        if device is not None and torch.device(device) != self.timesteps.device:
            self.timesteps = self.timesteps.to(device)
        self._calls[threading.get_ident()] = _Call()

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin this thread's call at a later timestep, as image-to-image pipelines do."""
        self._call().begin = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the sample: states are what the network sees."""
        return sample

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
    ) -> PlanSchedulerOutput | tuple[Tensor, ...]:
        """Run the plan's row that asked at this timestep, and the rows up to the next question.

        Args:
            model_output: what the network said, guidance included, [batch, *shape]; twice as many channels are a prediction
                and a learned variance, of which the plan uses the prediction.
            sample: the state it said it of.
            generator: what stochastic plans draw from.

        Raises:
            BadValue: the timestep is not the next of the plan; or eta or use_clipped_model_output, which plans have not.
        """
        if eta or use_clipped_model_output:
            raise BadValue(
                f"eta={eta}, use_clipped_model_output={use_clipped_model_output}",
                "neither: the plan says what noise is drawn, and clips nothing",
                "PlanScheduler(rg.plan('ddim', path, nfe=20, eta=1.0))",
            )
        call, place = self._call(), self._place(timestep)
        if call.run is None:
            call.first = place if call.begin is None else call.begin
            call.run = AnsweredRun(
                self._table(call.first), schedulers.PREDICTIONS[self.config["prediction_type"]], call.draws
            )
        expected = call.first + call.run.answered
        if self._told[expected] != self._told[place]:
            raise BadValue(
                f"timestep {self._told[place]:g} in a step",
                f"{self._told[expected]:g}, the next of the plan",
                "set_timesteps",
            )
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output.chunk(2, dim=1)[0]
        kind = torch.promote_types(sample.dtype, torch.float32)
        own = sample is call.made and not sample.is_inference() and sample._version == call.version
        call.draws.generator, call.draws.batch = generator, sample.shape[0]
        state = call.run.step(model_output.to(kind), None if own else sample.to(kind))
        call.made = state.x_t.to(sample.dtype)
        call.version = -1 if call.made.is_inference() else call.made._version
        mean, made = state.mean.to(sample.dtype), call.made
        if call.run.finished:
            self._calls[threading.get_ident()] = _Call()
        return PlanSchedulerOutput(made, mean) if return_dict else (made, mean)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return a x_0 + s eps at the levels of the timesteps [batch] or [1]."""
        path = self.plan.path
        times = [self._time(float(step)) for step in timesteps.reshape(-1).tolist()]
        shape = (-1, *(1,) * (original_samples.ndim - 1))
        a, s = (
            torch.tensor([c(t) for t in times], device=noise.device).reshape(shape).to(noise.dtype) for c in (path.a, path.s)
        )
        return a * original_samples + s * noise

    def scale_noise(self, sample: Tensor, timestep: float | Tensor, noise: Tensor | None = None) -> Tensor:
        """Return what `add_noise` does, under the name and in the order of flow pipelines."""
        if noise is None:
            raise BadType("scale_noise without noise", "noise shaped as the sample", "scale_noise(x, t, noise)")
        return self.add_noise(sample, noise, torch.as_tensor(timestep))

    def _call(self) -> _Call:
        return self._calls.setdefault(threading.get_ident(), _Call())

    def _place(self, timestep: float | Tensor) -> int:
        """Return the number of a timestep: that of a view of `timesteps` without looking at its value, which may be far."""
        if isinstance(timestep, Tensor):
            if timestep.untyped_storage().data_ptr() == self.timesteps.untyped_storage().data_ptr():
                return int(timestep.storage_offset())
            timestep = float(timestep.reshape(-1)[0])
        near = min(range(len(self._told)), key=lambda k: abs(self._told[k] - timestep))
        if abs(self._told[near] - timestep) > 1e-3:
            raise BadValue(f"timestep={timestep:g}", f"one of {self.timesteps.tolist()}", "iterate over scheduler.timesteps")
        return self._follow(near)

    def _follow(self, place: int) -> int:
        """Return the next place that is told the same, where this call has passed the first."""
        call = self._call()
        expected = place if call.run is None else call.first + call.run.answered
        return expected if expected < len(self._told) and self._told[expected] == self._told[place] else place

    def _table(self, first: int) -> Plan:
        """Return the plan of a call that begins at an evaluation."""
        if first not in self._tables:
            if first >= self.plan.nfe:
                raise BadValue(f"a begin index of {first}", f"0..{self.plan.nfe - 1}", "a larger strength")
            cut = schedulers.begun(self.plan, first) if first else self.plan
            if cut is None:
                cut = self.plan.from_noise(self.plan.path.sigma(self.plan.times[first]))
            if cut.times != self.plan.times[first:]:
                raise BadValue(
                    f"a call that begins at evaluation {first} of {self.plan.nfe}, inside a step of {self.plan.recipe}",
                    f"a beginning where a step begins, such as evaluation {self.plan.nfe - cut.nfe}",
                    "another strength, or a plan with one evaluation per step (dpmpp_2m, ddim)",
                )
            self._tables[first] = cut
        return self._tables[first]

    def _tell(self, t: float) -> float:
        """Return what the network is told at a path time that no row says it for."""
        return told_on(self.plan.path, int(self.config["num_train_timesteps"]), bool(self.config["whole_timesteps"]))(t)

    def _time(self, step: float) -> float:
        """Return the path time of a timestep: of the plan's, or of a trained one between."""
        for told, time in zip(self._told, self.plan.times, strict=True):
            if abs(told - step) < 1e-3:
                return time
        train = int(self.config["num_train_timesteps"])
        time = step / train if isinstance(self.plan.path, Flow) else (step + 1.0) / train
        if abs(self._tell(time) - step) > 1e-3:
            raise BadValue(f"timestep={step:g}", f"a trained timestep, 0..{train - 1}", "one of scheduler.timesteps")
        return time


def _prediction_type(plan: Plan) -> str:
    if "predicts" in plan.provenance:
        return _named(str(plan.provenance["predicts"]))
    return "flow_prediction" if isinstance(plan.path, Flow) else "epsilon"


def _named(kind: str) -> str:
    """Return what diffusers calls a parameterization."""
    for name in PREDICTION_TYPES:
        if schedulers.PREDICTIONS[name] == kind:
            return name
    raise PlanError(
        f"a network that predicts {kind!r}",
        f"{', '.join(PREDICTION_TYPES)}: a scheduler sees the network's bare output",
        "sample with the library's own loop: rg.sample(rg.Denoiser(network, path, predicts, shape), plan)",
    )


__all__ = ["PREDICTION_TYPES", "PlanScheduler", "PlanSchedulerOutput", "denoiser"]
