"""Superposition: several models in one run, weighed by densities that the run estimates on its way."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction, on_path, prepare_condition
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.carried import CARRIED, carried, into
from retrograde.denoisers.denoiser import NOTHING
from retrograde.denoisers.prediction import conversion
from retrograde.errors import BadType, BadValue, PlanError, ShapeError
from retrograde.guide.branches import alone, counts, labelled
from retrograde.guide.transform import Transform
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.state import State

systems.register(
    systems.System(
        title="The Superposition of Diffusion Models Using the Itô Density Estimator",
        authors=("Marta Skreta", "Lazar Atanackovic", "Avishek Joey Bose", "Alexander Tong", "Kirill Neklyudov"),
        year=2024,
        arxiv="2412.17762",
        home="compose",
        call="rg.sample(rg.guide.superpose([one, other]), rg.plan('euler_maruyama', one, nfe=200), n=16)",
        test="tests/guide/test_superpose.py::test_or_samples_the_mixture_and_averaging_does_not",
    )
)

STATE, CLOCK, SCORES, LOGS = (f"superpose/{name}" for name in ("state", "clock", "scores", "log_densities"))
"""Names under which the run carries the state last asked, its path time, the scores there and the log-densities."""


def gained(path: Path, x: Tensor, t: float, x_next: Tensor, t_next: float, scores: Tensor) -> Tensor:
    """Return what log q_i grows by from (x, t) to (x_next, t_next) along the reversed process, [n, M] in nats.

    With y = x/a, which has no drift, and v = sigma(t)^2 - sigma(t_next)^2, the estimator of Ito in y is

        d log q_i = a <y' - y, s_i> - (v a^2/2) |s_i|^2 - d log(a'/a),

    for scores s_i [n, M, *shape] at (x, t): no divergence, since that of the path's law and Ito's term cancel.
    """
    a, a_next = path.a(t), path.a(t_next)
    moved = (x_next.double() / a_next - x.double() / a).flatten(1)
    flat = scores.double().flatten(2)
    v = path.sigma(t) ** 2 - path.sigma(t_next) ** 2
    along = a * (flat @ moved[..., None])[..., 0]
    return along - 0.5 * v * a * a * flat.square().sum(2) - moved.shape[1] * math.log(a_next / a)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Superposed(Transform):
    """Several denoisers in one run (see `superpose`)."""

    others: tuple[AbstractDenoiser, ...]
    terms: tuple[Mapping[str, Any], ...]
    temperature: float
    biases: tuple[float, ...]

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        level = _level(self.path, t)
        logs = self._logs(x_t, level, carried(knobs))
        parts: dict[str, Prediction] = {}
        for place, (denoiser, term) in enumerate(zip((self.inner, *self.others), self.terms, strict=True)):
            own = {name: value for name, value in condition.items() if name in (ANCHOR, *denoiser.conditions)}
            told = prepare_condition(denoiser, {**own, **term}, len(x_t), x_t.device) if term else own
            held = into(knobs, [str(place)])
            passed = {name: value for name, value in held.items() if name in (CARRIED, *denoiser.consumes)}
            one = denoiser.predict(x_t, t, told, passed, network_time if denoiser is self.inner else None)
            parts[str(place)] = labelled(alone(one, "a superposition"), str(place))
        first = parts["0"]
        weights = torch.softmax(self.temperature * logs + torch.tensor(self.biases).to(logs), 1)
        value = torch.zeros_like(first.value)
        for place, part in enumerate(parts.values()):
            value += weights[:, place].to(value).reshape(-1, *(1,) * (x_t.ndim - 1)) * part.read(first.kind)
        left = {name: tensor for part in parts.values() for name, tensor in part.carried.items()}
        left[STATE], left[CLOCK], left[LOGS] = x_t, logs.new_full((len(x_t),), level), logs
        left[SCORES] = torch.stack([part.score for part in parts.values()], 1)
        return dataclasses.replace(
            first, value=value, parts=parts, evaluations=counts(parts), carried=left, exponents={}, log_weight=None
        )

    def _logs(self, x_t: Tensor, t: float, held: Mapping[str, Tensor]) -> Tensor:
        """Return the log-densities at (x_t, t), [n, M] float64: those carried and what the row gained."""
        if LOGS not in held:  # the start is noise, the same for all
            scale = self.path.s(t)
            one = -0.5 * (x_t.double() / scale).flatten(1).square().sum(1)
            one = one - x_t[0].numel() * math.log(scale * math.sqrt(2.0 * math.pi))
            return one[:, None].expand(-1, 1 + len(self.others))
        before = float(held[CLOCK][0])
        return held[LOGS] + gained(self.path, held[STATE], before, x_t, t, held[SCORES])


def superpose(
    denoisers: Sequence[AbstractDenoiser],
    *,
    conditions: Sequence[Mapping[str, Any]] | None = None,
    temperature: float = 1.0,
    biases: Sequence[float] | None = None,
) -> Superposed:
    """Return several denoisers as one, of score sum_i k_i s_i with k = softmax(temperature log q_i(x_t) + biases_i).

    At temperature 1 that is the score of the mixture with weights exp(biases_i) (OR); at 0 the mean of the models, which
    samples neither; with the controller `EqualDensity` around the mean all densities stay equal (AND). The log-densities are
    estimated along the run (see `gained`), exact in the limit of many rows, their error falls with the root of the step.
    That holds where rows draw the noise of the reversed process: "euler_maruyama", "reverse_diffusion", "ddpm". Each
    denoiser is asked in each row, the i-th counted as "name:i"; models may be guided. `log_densities` reads them, also
    of a single model.

    Args:
        denoisers: models of one shape; they are asked on the path of the first.
        conditions: for each its own conditions, by name, which overrule the run's; so that one model under two
            prompts is `superpose([den, den], conditions=[{"prompt": one}, {"prompt": other}])`.
        temperature: of the densities; large ones choose the likeliest model.
        biases: log-weights of the models; None for equal ones.

    Raises:
        BadValue: no denoisers, other numbers of conditions or biases, or a level without signal (a flow at t = 1, where
            start with `plan.from_noise(sigma)`).
        ShapeError: models of different shapes.
        BadType: a network that answers with two quantities; at a run, levels of the items' own.

    Reference: Skreta, Atanackovic, Bose, Tong, Neklyudov, 2024, arXiv 2412.17762.
    """
    count = len(denoisers)
    terms = [{}] * count if conditions is None else [dict(term) for term in conditions]
    held = [0.0] * count if biases is None else [float(bias) for bias in biases]
    if not count == len(terms) == len(held) or count < 1 or not math.isfinite(temperature + sum(held)):
        given = f"{count} denoisers, {len(terms)} conditions, {len(held)} biases, temperature={temperature}"
        raise BadValue(given, "as many of each, at least one, all finite", "superpose([one, other], biases=[0.0, 0.0])")
    first, *others = denoisers
    if any(one.shape != first.shape for one in others):
        shapes = ", ".join(str(one.shape) for one in denoisers)
        raise ShapeError(f"shapes {shapes}", "one shape", "take models of the same data")
    moved = tuple(on_path(one, first.path) for one in others)
    return Superposed(first, moved, tuple(terms), float(temperature), tuple(held))


@final
@dataclasses.dataclass(frozen=True)
class EqualDensity:
    """A controller that keeps the log-densities of superposed models apart by `biases`: the AND of them.

    After a row x' = ... + c u, made with the score u and fresh noise, u is replaced by sum_i k_i s_i, sum_i k_i = 1, for
    which all log q_i + biases_i are equal after this very step: a linear system in k for each item (see `gained`). What
    earlier rows left unequal is made up for. Around `superpose(..., temperature=0.0)`.

    The tracked densities are equal to rounding; the true ones only where the curvatures H_i of log q_i agree along
    d = s_1 - s_2, as those of Gaussians of one covariance do. k knows the row's noise and takes it out along d, so that
    Ito's term of that direction is counted and not there: log q_1 - log q_2 drifts by -(v/2) d^T (H_1 - H_2) d/|d|^2 in a
    row, which does not vanish with the step. On two mixtures that left 5 to 7 % of the spread that averaging leaves.

    Args:
        biases: one for each model; None for equal densities.

    Raises:
        PlanError: a run of something else, or rows of several predictions or without noise.

    Reference: Skreta, Atanackovic, Bose, Tong, Neklyudov, 2024, arXiv 2412.17762, proposition 6.
    """

    biases: tuple[float, ...] | None = None
    consumes: ClassVar[frozenset[str]] = frozenset()

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        """Leave the rows as they are."""
        return remaining

    def correct(self, state: State) -> Tensor:
        """Return the state at which the densities are equal."""
        row, plan, prediction, held = state.row, state.plan, state.prediction, state.memory.carried
        if row.next_time is None:
            return state.x_t
        weight = row.outputs[0] if len(row.outputs) == len(row.noises) == 1 and row.correction is None else None
        if prediction is None or plan is None or LOGS not in held or row.time is None or not isinstance(weight, float):
            raise PlanError(
                f"row {state.index} of {len(row.outputs)} outputs and {len(row.noises)} noises, for equal densities",
                "superposed models, and rows that make the state of one prediction and fresh noise",
                "rg.sample(rg.guide.superpose([one, other], temperature=0.0), rg.plan('euler_maruyama', one, nfe=200), ...)",
            )
        path, t, t_next = prediction.path, float(row.time), float(row.next_time)
        scores = held[SCORES].double()
        n, models = scores.shape[:2]
        # how far one unit of score moves the state
        c = weight * float(conversion(path, t, "score", plan.basis)[1])
        last = scores[:, -1]
        without = state.x_t.double() + c * (last - prediction.score.double())
        logs = held[LOGS] + gained(path, prediction.x_t, t, without, t_next, scores)
        logs = logs + torch.tensor(self.biases or (0.0,) * models).to(logs)
        apart = (scores[:, :-1] - scores[:, -1:]).flatten(2)
        gram = (c * path.a(t) / path.a(t_next)) * (apart @ apart.transpose(1, 2))
        k = torch.linalg.pinv(gram, rtol=1e-12, hermitian=True) @ (logs[:, -1:] - logs[:, :-1])[..., None]
        step = (apart.transpose(1, 2) @ k).reshape(n, *state.x_t.shape[1:])
        return (without + c * step).to(state.x_t.dtype)


def log_densities(state: State) -> Tensor:
    """Return log q_i of the state that the last evaluation saw, `state.prediction.x_t`, [n, M] float64, in nats.

    Raises:
        PlanError: a run of other models, or by a plan that draws no noise, for which the estimate does not hold.
    """
    if LOGS not in state.memory.carried or state.plan is None or not state.plan.stochastic:
        raise PlanError(
            "log-densities of a run without them",
            "a stochastic run of superposed models",
            "rg.steps(rg.plan('euler_maruyama', den, nfe=200), rg.guide.superpose([den]), ...)",
        )
    return state.memory.carried[LOGS]


def _level(path: Path, t: float | Tensor) -> float:
    if isinstance(t, Tensor):
        raise BadType("superposition at levels of the items' own", "one level for all items", "a plan without them")
    if path.a(t) == 0.0:
        mend = f"rg.plan('euler_maruyama', den, nfe=200).from_noise({path.sigma(0.99 * path.t_max):.3g})"
        raise BadValue(f"superposition at t={t} of {path.name!r}, a level without signal", "levels with a(t) > 0", mend)
    return float(t)
