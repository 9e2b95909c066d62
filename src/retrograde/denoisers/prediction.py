"""One output of a denoiser, readable in every parameterization."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde.denoisers.anchor import given_anchor
from retrograde.errors import BadValue, UnknownName
from retrograde.paths import Path

MOST_KNOWN = 4096
"""Conversions that a path remembers at most: those of a few hundred plans."""

KINDS = ("data", "noise", "score", "v", "velocity")
"""Parameterizations of a prediction: E[x_0|x_t], E[eps|x_t], grad log p_t, a eps - s x_0, E[dx_t/dt|x_t]."""


def combination(path: Path, t: Any, kind: str) -> tuple[float | Tensor, float | Tensor, float | Tensor]:
    """Return (p, q, r) such that a prediction of this kind is p x_0 + q eps + r y."""
    match kind:
        case "data":
            return 1.0, 0.0, 0.0
        case "noise":
            return 0.0, 1.0, 0.0
        case "score":
            return 0.0, -1.0 / path.s(t), 0.0
        case "v":
            return -path.s(t), path.a(t), 0.0
        case "velocity":
            return path.a_dot(t), path.s_dot(t), path.b_dot(t)
    if kind in path.targets:
        return path.targets[kind](path, t)
    raise UnknownName("prediction", kind, (*KINDS, *path.targets))


def readings(basis: str) -> tuple[str, ...]:
    """Return the kinds a plan's basis reads off each evaluation: one, or those that "+" joins."""
    return tuple(basis.split("+"))


def conversion(path: Path, t: Any, source: str, target: str) -> tuple[float | Tensor, ...]:
    """Return (c_x, c_value, c_y) with target = c_x x_t + c_value source + c_y y.

    From x_t - b y = a D + s E and source = p D + q E + r y, both means D and E follow, and with them every kind. At the
    data end (s = 0) a data prediction says nothing of the noise; its exact mean there is zero. At a level without signal
    (a = 0) a noise prediction says nothing of the data.

    Raises:
        BadValue: the target is not determined by the source at this level.
    """
    if source == target:
        return 0.0, 1.0, 0.0
    a, s = path.a(t), path.s(t)
    if (not isinstance(s, Tensor) and s == 0.0 and "score" in (source, target)) or (source == "data" and _is_zero(s)):
        if target == "score":
            raise BadValue(f"the score at t={t}, where {path.name} holds no noise", "t with s(t) > 0", "read .data instead")
        p, q, r = combination(path, t, target)
        if _is_zero(a):  # neither data nor noise: the start of a path between two laws
            return 0.0, p, r
        return p / a, 0.0, r - p * path.b(t) / a
    p, q, r = combination(path, t, source)
    p_to, q_to, r_to = combination(path, t, target)
    determinant = a * q - s * p
    if _is_zero(determinant):
        if p_to == 0.0:  # noise and score differ by a factor only
            return 0.0, q_to / q, r_to - r * q_to / q
        raise BadValue(
            f"{target!r} from a {source!r} prediction at t={t}, where {path.name} holds no signal",
            "levels with a(t) > 0",
            f"start below it, rg.plan(..., start={0.99 * path.t_max:g}), or use a network of 'data', 'v' or 'velocity'",
        )
    c_x = (p_to * q - q_to * p) / determinant
    c_value = (q_to * a - p_to * s) / determinant
    return c_x, c_value, r_to - c_x * path.b(t) - c_value * r


def _is_zero(value: float | Tensor) -> bool:
    return not isinstance(value, Tensor) and value == 0.0


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """A reading that was not made: c_x x_t + c_value value, of the state asked and the network's own output."""

    c_x: float
    x_t: Tensor
    c_value: float
    value: Tensor

    @property
    def made(self) -> Tensor:
        """The reading as a tensor of its own, [batch, *shape]."""
        made = torch.mul(self.value, self.c_value)
        return made.add_(self.x_t, alpha=self.c_x) if self.c_x else made


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """One network output at (x_t, t), readable as data mean, noise, score, v and velocity.

    Attributes:
        x_t: state, [batch, *shape].
        t: path time, a float or a tensor [batch].
        path: the path on which both live.
        value: the output in its own parameterization, shaped as x_t.
        kind: that parameterization, one of `KINDS` or of the path's own targets.
        parts: named predictions this one was made of (for instance "conditional" and "unconditional").
        evaluations: network evaluations per item, by label; a mean where items differ.
        anchor: the anchor y of an anchored path, or None.
        log_weight: increment of the particles' log-weights [batch], where a transform has one.
        exponents: the law that weighted particles aim at, as a product of powers of those of the parts; empty where the
            prediction is of a law of its own.
        heads: further outputs of the same evaluation, by kind. With one of them the anchor y of an anchored path may be
            unknown: x_t, value and head together tell the means of data, noise and y.
        carried: what a transform hands to the run's next evaluation, by name, each with one entry per item.
    """

    x_t: Tensor
    t: float | Tensor
    path: Path
    value: Tensor
    kind: str
    parts: Mapping[str, Prediction] = dataclasses.field(default_factory=dict)
    evaluations: Mapping[str, float] = dataclasses.field(default_factory=dict)
    anchor: Tensor | None = None
    log_weight: Tensor | None = None
    exponents: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    heads: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    carried: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def read(self, kind: str) -> Tensor:
        """Return the prediction as `kind`, one of `KINDS` or of the path's own targets; shaped as x_t.

        Raises:
            BadValue: at this level the asked reading is not determined (see `conversion`).
            PlanError: the reading takes the anchor of an anchored path, and the prediction has none.
        """
        if kind == self.kind:
            return self.value
        if kind in self.heads:
            return self.heads[kind]
        if self.heads:
            return self._solved(kind)
        c_x, c_value, c_y = self._conversion(kind)
        if isinstance(c_value, Tensor) or isinstance(c_x, Tensor):
            value = (c_x * self.x_t + c_value * self.value).to(self.value.dtype)
        else:
            value = Reading(c_x, self.x_t, c_value, self.value).made
        if not self.path.anchored or (not isinstance(c_y, Tensor) and c_y == 0.0):
            return value
        anchor = given_anchor(self.path, self.anchor)
        return value.add_((c_y * anchor).to(value))

    def reading(self, kind: str) -> Tensor | Reading:
        """Return the prediction as `kind`, as weights of x_t and value where these two are all it takes.

        A loop that weighs the reading can weigh x_t and value instead, and spare the state that the reading would be.

        Raises:
            BadValue: at this level the asked reading is not determined (see `conversion`).
        """
        if kind == self.kind or kind in self.heads or self.heads or isinstance(self.t, Tensor):
            return self.read(kind)
        c_x, c_value, c_y = self._conversion(kind)
        if isinstance(c_x, Tensor) or isinstance(c_value, Tensor) or isinstance(c_y, Tensor):
            return self.read(kind)
        return self.read(kind) if self.path.anchored and c_y != 0.0 else Reading(c_x, self.x_t, c_value, self.value)

    def _conversion(self, kind: str) -> tuple[float | Tensor, ...]:
        t = self.t
        if isinstance(t, Tensor):
            t = t.double().reshape(-1, *(1,) * (self.x_t.ndim - 1))
        if isinstance(t, Tensor) or torch.compiler.is_compiling():  # a traced graph holds the numbers themselves
            return conversion(self.path, t, self.kind, kind)
        asked = (t, self.kind, kind)
        if (known := self.path.conversions).get(asked) is None:
            if len(known) >= MOST_KNOWN:
                known.clear()
            known[asked] = conversion(self.path, t, self.kind, kind)
        return known[asked]

    def _solved(self, kind: str) -> Tensor:
        """Read a kind off x_t = a D + b Y + s E, the value and a head: three equations for the means D, E and Y."""
        head, second = next(iter(self.heads.items()))
        t = torch.as_tensor(self.t, dtype=torch.float64).reshape(-1)
        path = self.path
        places: Any = t if isinstance(self.t, Tensor) else self.t
        ones = torch.ones_like(t)
        known = [(path.a(places), path.s(places), path.b(places))]
        known += [combination(path, places, one) for one in (self.kind, head)]
        columns = torch.stack([torch.stack([ones * part for part in one], -1) for one in known], -1)
        wanted = torch.stack([ones * part for part in combination(path, places, kind)], -1)
        # the least solution: where a mean does not enter x_t, nothing asks for it
        factors = torch.linalg.pinv(columns, rtol=1e-13) @ wanted[..., None]
        missed = (columns @ factors - wanted[..., None]).abs().amax()
        if float(missed) > 1e-6 * (1.0 + float(wanted.abs().amax())):
            raise BadValue(
                f"{kind!r} from {self.kind!r} and {head!r} at t={self.t} of {path.name}",
                "a level at which the two determine it",
                "answer with two of 'data', 'noise' and 'velocity', inside the path's range of times",
            )
        shape = (-1, *(1,) * (self.x_t.ndim - 1))
        c_x, c_value, c_head = (f.reshape(shape).to(self.x_t.device) for f in factors[..., 0].unbind(-1))
        return (c_x * self.x_t + c_value * self.value + c_head * second).to(self.value.dtype)

    @property
    def data(self) -> Tensor:
        """Mean of the data, E[x_0 | x_t]."""
        return self.read("data")

    @property
    def noise(self) -> Tensor:
        """Mean of the noise, E[eps | x_t]."""
        return self.read("noise")

    @property
    def score(self) -> Tensor:
        """Score grad log p_t(x_t) = -E[eps | x_t]/s."""
        return self.read("score")

    @property
    def v(self) -> Tensor:
        """The v prediction a E[eps | x_t] - s E[x_0 | x_t] (Salimans and Ho, 2022, arXiv 2202.00512)."""
        return self.read("v")

    @property
    def velocity(self) -> Tensor:
        """Velocity of the probability flow, E[dx_t/dt | x_t] = a' E[x_0|x_t] + b' y + s' E[eps|x_t]."""
        return self.read("velocity")

    def derive(self, value: Tensor, kind: str, parts: Mapping[str, Prediction] | None = None) -> Prediction:
        """Return the prediction that a transform made of this one, with another value and kind."""
        return dataclasses.replace(self, value=value, kind=kind, parts=parts if parts is not None else self.parts)


def selected(prediction: Prediction, places: Tensor | slice) -> Prediction:
    """Return the prediction of the items at these places of the batch [m], in this order."""

    def of(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: of(entry) for name, entry in value.items()}
        if isinstance(value, Prediction):
            return selected(value, places)
        return value[places] if isinstance(value, Tensor) and value.ndim and len(value) == len(prediction.x_t) else value

    fields = ("x_t", "t", "value", "parts", "anchor", "log_weight", "exponents", "heads", "carried")
    return dataclasses.replace(prediction, **{field: of(getattr(prediction, field)) for field in fields})
