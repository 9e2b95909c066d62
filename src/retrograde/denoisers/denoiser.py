"""What predicts: the interface, and the adapter around a network."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from retrograde.codec import Codec
from retrograde.denoisers.anchor import ANCHOR, anchor_of, prepare_anchor
from retrograde.denoisers.carried import BRANCHES, into, out_of
from retrograde.denoisers.prediction import KINDS, Prediction, selected
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName, described
from retrograde.paths import Path, VPDiscrete, checked

NOTHING: Mapping[str, Any] = MappingProxyType({})

ELSEWHERE: Mapping[str, str] = MappingProxyType(
    dict.fromkeys(("epsilon", "eps"), "noise")
    | dict.fromkeys(("sample", "x0", "x_0", "x_start"), "data")
    | {"v_prediction": "v", "flow": "velocity", "flow_prediction": "velocity", "u": "velocity"}
)
"""What other libraries call the parameterizations."""

Reader = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""From texts to conditions, each with one entry per text."""


class AbstractDenoiser(ABC):
    """Anything that predicts: maps (x_t, t, conditions) to a `Prediction`.

    Attributes:
        path: the path whose states it understands.
        shape: shape of one item.
        predicts: the parameterization of its own output.
        conditions: names of the conditions it takes, each with its null value.
        consumes: knobs of a plan's row that it obeys.
        name: what the ledger calls it.
        reads: for conditions that may be given as text, by name, the function from a list of texts to conditions.
        codec: encoder and decoder, where the states are latents; None where they are data.
        shared: names of the conditions that every branch has: guidance does not drop them (a size, a mask).
    """

    path: Path
    shape: tuple[int, ...]
    predicts: str
    conditions: Mapping[str, Any]
    consumes: frozenset[str]
    name: str
    reads: Mapping[str, Reader] = NOTHING
    codec: Codec | None = None
    shared: frozenset[str] = frozenset()

    @abstractmethod
    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        """Predict at state x_t [batch, *shape] and path time t (a float, or a tensor [batch])."""

    @abstractmethod
    def network_time(self, t: float) -> float:
        """What the network is told at path time t."""

    @abstractmethod
    def snap(self, t: float) -> float:
        """Path time nearest to t at which the network was trained; t itself for a continuous network."""

    def __call__(self, x_t: Tensor, t: float | Tensor, **condition: Any) -> Prediction:
        """Predict for conditions given by name (`anchor` among them, on an anchored path); missing ones are null."""
        return self.predict(x_t, t, prepare_condition(self, condition, x_t.shape[0], x_t.device))


def checked_denoiser(value: Any) -> AbstractDenoiser:
    """Return a denoiser that somebody gave.

    Raises:
        BadType: anything else, for instance a bare network, or the class of a denoiser.
    """
    if not isinstance(value, AbstractDenoiser):
        mend = "wrap the network: retrograde.Denoiser(network, path, predicts=..., shape=...)"
        mend = f"retrograde.load({value!r})" if isinstance(value, str) else mend
        raise BadType(f"{described(value)}, as the denoiser", "a denoiser", mend)
    return value


def prepare_condition(
    denoiser: AbstractDenoiser, condition: Any, n: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Return every condition of the denoiser as a tensor with one entry per item.

    Args:
        condition: None (all null), one value for all items, a list or tensor of n values, or a mapping from names to
            such values. A bare value belongs to the denoiser's only condition, a bare text to the one it reads. A mapping
            may hold the "anchor" too.

    Raises:
        BadValue: a bare value where there is not exactly one condition, or a list of another length than n.
        UnknownName: a name that the denoiser does not have.
        ShapeError: an anchor that does not have the denoiser's shape.
    """
    if condition is None:
        condition = {}
    condition = without_texts(denoiser, condition)
    if not isinstance(condition, Mapping):
        if len(denoiser.conditions) != 1:
            raise BadValue(
                f"condition={condition!r} for {denoiser.name!r}",
                f"a mapping with the names {sorted(denoiser.conditions)}",
                "pass condition={name: value}" if denoiser.conditions else "leave condition out: it takes none",
            )
        condition = {next(iter(denoiser.conditions)): condition}
    for name in condition:
        if name not in denoiser.conditions and name != ANCHOR:
            raise UnknownName("condition", str(name), denoiser.conditions)
    anchor = condition.get(ANCHOR)
    held = {} if anchor is None else {ANCHOR: prepare_anchor(denoiser.shape, anchor, n, device)}
    return held | {
        name: _per_item(name, null if condition.get(name) is None else condition[name], null, n, device)
        for name, null in denoiser.conditions.items()
    }


def without_texts(denoiser: AbstractDenoiser, condition: Any) -> Any:
    """Return the condition with the texts in it read: one text as one value, a list of them as values of as many items.

    Raises:
        BadType: a text for a condition that is not read from texts.
    """
    if _is_text(condition) and len(denoiser.reads) == 1:
        condition = {next(iter(denoiser.reads)): condition}
    if not isinstance(condition, Mapping):
        if _is_text(condition):
            _refuse_text(denoiser, condition)
        return condition
    made: dict[str, Any] = {}
    for name, value in condition.items():
        if not _is_text(value):
            continue
        if name not in denoiser.reads:
            _refuse_text(denoiser, value)
        texts = [value] if isinstance(value, str) else list(value)
        different = list(dict.fromkeys(texts))
        read = denoiser.reads[name](different)
        places = [different.index(text) for text in texts]
        made |= {key: tensor[0] if isinstance(value, str) else tensor[places] for key, tensor in read.items()}
    return {**made, **{name: value for name, value in condition.items() if not _is_text(value)}}


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list | tuple) and any(isinstance(one, str) for one in value))


def _refuse_text(denoiser: AbstractDenoiser, text: Any) -> None:
    allowed = f"texts for {', '.join(denoiser.reads)}, by name" if denoiser.reads else "numbers or tensors: it reads no text"
    mend = f"condition={{{next(iter(denoiser.reads), 'label')!r}: ...}}"
    raise BadType(f"the text {text!r} as a condition of {denoiser.name!r}", allowed, mend)


def _per_item(name: str, value: Any, null: Any, n: int, device: torch.device | str) -> Tensor:
    one = torch.as_tensor(null, device=device)
    given = torch.as_tensor(value, device=device)
    given = given.to(one.dtype) if not given.is_floating_point() or one.is_floating_point() else given
    if given.ndim == one.ndim:
        return given.expand(n, *given.shape)
    if given.ndim == one.ndim + 1 and given.shape[0] in (1, n):
        return given.expand(n, *given.shape[1:])
    raise BadValue(
        f"condition {name!r} of shape {list(given.shape)} for {n} items",
        f"one value of shape {list(one.shape)}, or {n} of them",
        f"pass n={given.shape[0] if given.ndim else 1}, or one value for all",
    )


def predict_branches(
    denoiser: AbstractDenoiser,
    x_t: Tensor,
    t: float | Tensor,
    conditions: Mapping[str, Mapping[str, Tensor]],
    knobs: Mapping[str, Any] = NOTHING,
    network_time: float | None = None,
) -> dict[str, Prediction]:
    """Predict several branches (the same state under different conditions) in one call of the network.

    Args:
        conditions: for each branch its prepared conditions, each tensor [batch, ...].

    Returns:
        For each branch a prediction whose evaluations are counted under "name:branch".
    """
    branches = list(conditions)
    held = (*denoiser.conditions, *((ANCHOR,) if all(ANCHOR in c for c in conditions.values()) else ()))
    joined = {name: torch.cat([conditions[b][name] for b in branches]) for name in held}
    times = t.repeat(len(branches)) if isinstance(t, Tensor) else t
    copies = x_t.repeat(len(branches), *(1,) * (x_t.ndim - 1))
    passed = {**into(knobs, branches), BRANCHES: len(branches)}
    together = denoiser.predict(copies, times, joined, passed, network_time)
    left = out_of(together.carried, branches)
    n = x_t.shape[0]
    made = {}
    for place, branch in enumerate(branches):
        own = selected(together, slice(place * n, (place + 1) * n))
        made[branch] = dataclasses.replace(
            own,
            x_t=x_t,
            t=t,
            evaluations={f"{label}:{branch}": count for label, count in together.evaluations.items()},
            anchor=conditions[branch].get(ANCHOR),
            carried=left[place],
        )
    return made


@dataclasses.dataclass(frozen=True, eq=False)
class Denoiser(AbstractDenoiser):
    """A network on a path, seen through any parameterization.

    The network is called as network(x_t, network_time, **conditions) with x_t [batch, *shape] and network_time a float32
    tensor [batch]; it returns a tensor shaped as x_t. With predicts="edm" it is the raw network F of

        D = c_skip x + c_out F(c_in x, log(sigma)/4),   x = x_t/a,  sigma = s/a,
        c_skip = d^2/(sigma^2 + d^2),  c_out = sigma d/sqrt(sigma^2 + d^2),  c_in = 1/sqrt(sigma^2 + d^2),

    with d = `sigma_data` (Karras et al., 2022, arXiv 2206.00364); on an anchored path x = (x_t - b y)/a.

    Args:
        network: any callable that returns a tensor of its own at each call: later rows look back at what it returned. One
            that writes into the same buffer every time wants a `.clone()`.
        path: the path it was trained on.
        predicts: "data", "noise", "score", "v", "velocity", "edm", or one of the path's own targets.
        shape: shape of one item.
        conditions: names of the network's keywords, each with its null value (the dropped condition).
        discrete: number N of trained steps of a discrete network (taken from a `VPDiscrete` path); it is told the index
            round(N t) - 1 in 0..N-1. None for a network of continuous time, which is told t (log(sigma)/4 for "edm").
        clock: another translation of path time to what the network is told, float to float.
        sigma_data: standard deviation of the data, for "edm".
        dtype: type the network computes in; inputs are cast to it, outputs cast back. Time stays float32.
        name: what the ledger calls it.
        anchor: on an anchored path, the network's keyword for the anchor y; None where it is not told.
        reads, codec, shared: see `AbstractDenoiser`.
    """

    network: Callable[..., Tensor]
    path: Path
    predicts: str
    shape: tuple[int, ...]
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    discrete: int | None = None
    clock: Callable[[float], float] | None = None
    sigma_data: float = 0.5
    dtype: torch.dtype | None = None
    name: str = "network"
    consumes: frozenset[str] = frozenset()
    anchor: str | None = ANCHOR
    reads: Mapping[str, Reader] = dataclasses.field(default_factory=dict)
    codec: Codec | None = None
    shared: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        checked(self.path)
        if isinstance(self.network, type) or not callable(self.network):
            raise BadType(f"{described(self.network)}, as the network", "a callable network(x_t, t)", "network=Network(...)")
        if not isinstance(self.shape, Sequence) or isinstance(self.shape, str):
            raise BadType(f"shape={self.shape!r}", "the shape of one item, a tuple", "shape=(3, 32, 32)")
        if not isinstance(self.conditions, Mapping):
            mend = "conditions={'label': 10}, where 10 stands for none"
            raise BadType(f"conditions={self.conditions!r}", "a mapping from names to null values", mend)
        kinds = (*KINDS, *self.path.targets, "edm")
        if self.predicts not in kinds:
            raise UnknownName("prediction", self.predicts, kinds, elsewhere=ELSEWHERE)
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.discrete is None and isinstance(self.path, VPDiscrete):
            object.__setattr__(self, "discrete", len(self.path.alphas_cumprod))

    def network_time(self, t: float) -> float:
        if self.clock is not None:
            return self.clock(t)
        if self.discrete is not None:
            return float(min(max(round(t * self.discrete), 1), self.discrete) - 1)
        return 0.25 * math.log(self.path.sigma(t)) if self.predicts == "edm" else t

    def snap(self, t: float) -> float:
        if self.discrete is None:
            return t
        return min(max(round(t * self.discrete), 1), self.discrete) / self.discrete

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        if x_t.shape[1:] != self.shape:
            raise ShapeError(
                f"x_t of shape {list(x_t.shape)} for {self.name!r}",
                f"[batch, {', '.join(map(str, self.shape))}]",
                f"reshape it, or make the denoiser with shape={tuple(x_t.shape[1:])}",
            )
        told = self._told(t, network_time, x_t)
        anchor = anchor_of(self.path, condition)
        if anchor is not None:
            anchor = anchor.to(x_t)
            condition = {name: value for name, value in condition.items() if name != ANCHOR}
            condition |= {} if self.anchor is None else {self.anchor: anchor}
        if self.predicts == "edm":
            value, kind = self._preconditioned(x_t, t, told, condition, anchor), "data"
        else:
            value, kind = self._evaluate(x_t, told, condition), self.predicts
        return Prediction(x_t, t, self.path, value, kind, evaluations={self.name: 1}, anchor=anchor)

    def _told(self, t: float | Tensor, network_time: float | None, x_t: Tensor) -> Tensor:
        if isinstance(t, Tensor):
            told = [self.network_time(one) for one in t.double().tolist()]
            return torch.tensor(told, dtype=torch.float32, device=x_t.device)
        told = self.network_time(t) if network_time is None else network_time
        return torch.full((x_t.shape[0],), told, dtype=torch.float32, device=x_t.device)

    def _evaluate(self, x: Tensor, told: Tensor, condition: Mapping[str, Any]) -> Tensor:
        output = self.network(x if self.dtype is None else x.to(self.dtype), told, **condition)
        if not isinstance(output, Tensor):
            mend = "lambda x, t, **held: network(x, t, **held).sample (or [0], or what holds the prediction)"
            raise BadType(f"{described(output)}, returned by {self.name!r}", "a tensor shaped as x_t", mend)
        if output.shape != x.shape:
            raise ShapeError(
                f"an output of shape {list(output.shape)} from {self.name!r}",
                f"the input's shape {list(x.shape)}",
                "return the prediction alone (drop a learned variance with output.chunk(2, dim=1)[0])",
            )
        return output if output.dtype == x.dtype else output.to(x.dtype)

    def _preconditioned(
        self, x_t: Tensor, t: float | Tensor, told: Tensor, condition: Mapping[str, Any], anchor: Tensor | None
    ) -> Tensor:
        d = self.sigma_data
        per_item: Any = t.double().reshape(-1, *(1,) * len(self.shape)) if isinstance(t, Tensor) else t
        a, sigma = self.path.a(per_item), self.path.sigma(per_item)
        if anchor is not None:
            x_t = (x_t - self.path.b(per_item) * anchor).to(x_t.dtype)
        norm = (sigma * sigma + d * d) ** 0.5
        x = x_t if not isinstance(a, Tensor) and a == 1.0 else (x_t / a).to(x_t.dtype)
        output = self._evaluate((x / norm).to(x_t.dtype), told, condition)
        c_skip, c_out = d * d / norm**2, sigma * d / norm
        if isinstance(c_out, Tensor):
            return cast(Tensor, c_skip * x + c_out * output).to(x_t.dtype)
        return torch.mul(x, c_skip).add(output, alpha=c_out)
