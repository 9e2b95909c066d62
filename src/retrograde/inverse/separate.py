"""Signals that are measured added up: one prior for each, sampled together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.carried import CARRIED, into, out_of
from retrograde.denoisers.denoiser import NOTHING, checked_denoiser, prepare_condition
from retrograde.errors import BadValue
from retrograde.operators import Operator, function


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Together(AbstractDenoiser):
    """The denoiser of independent signals side by side, p(x_1) p(x_2) ...: items [k, *shape], each by its own denoiser.

    Its data mean is that of each, so that every method of a measurement couples them, by what was measured of all. Of
    conditional denoisers the null condition is asked. What a part's transforms remember is theirs, as a branch's.

    Args:
        parts: denoisers of items of one shape, on one path.

    Raises:
        BadValue: none, or denoisers of other shapes or paths.
    """

    parts: tuple[AbstractDenoiser, ...]
    path: Any = dataclasses.field(init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    predicts: str = dataclasses.field(init=False, default="data")
    conditions: Mapping[str, Any] = dataclasses.field(init=False, default_factory=dict)
    consumes: frozenset[str] = dataclasses.field(init=False, default=frozenset())
    name: str = dataclasses.field(init=False, default="together")

    def __post_init__(self) -> None:
        parts = tuple(checked_denoiser(part) for part in self.parts)
        if len({(part.path, tuple(part.shape)) for part in parts}) != 1:
            given = ", ".join(f"{list(part.shape)} on {part.path.name!r}" for part in parts) or "none"
            raise BadValue(f"denoisers of items {given}", "one shape and one path", "Together((speech, noise))")
        for name, value in {"parts": parts, "path": parts[0].path, "shape": (len(parts), *parts[0].shape)}.items():
            object.__setattr__(self, name, value)

    def network_time(self, t: float) -> float:
        return self.parts[0].network_time(t)

    def snap(self, t: float) -> float:
        return self.parts[0].snap(t)

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        means, evaluations, left = [], {}, {}
        for k, part in enumerate(self.parts):
            null = prepare_condition(part, None, len(x_t), x_t.device)
            held = {name: value for name, value in into(knobs, [str(k)]).items() if name == CARRIED}
            made = part.predict(x_t[:, k], t, null, held, None if isinstance(t, Tensor) else part.network_time(t))
            means.append(made.data)
            left |= out_of(made.carried, [str(k)])[0]
            evaluations |= {f"{k}:{label}": count for label, count in made.evaluations.items()}
        return Prediction(x_t, t, self.path, torch.stack(means, 1), "data", evaluations=evaluations, carried=left)


def added(denoiser: Together) -> Operator:
    """Return the operator y = x_1 + x_2 + ..., linear, for the items of `Together`; its own operators come `then`.

    Reference: Stevens, Meral, Yu, Apostolakis, Robert and van Sloun, Dehazing Ultrasound using Diffusion Models, 2023, arXiv
    2307.11204, who separate tissue from haze so, with the guidance of `dps`.
    """
    return function(lambda x: x.sum(1), denoiser.shape, linear=True)


systems.register(
    systems.System(
        title="Dehazing Ultrasound using Diffusion Models",
        authors=(
            "Tristan S. W. Stevens",
            "Faik C. Meral",
            "Jason Yu",
            "Iason Z. Apostolakis",
            "Jean-Luc Robert",
            "Ruud J. G. van Sloun",
        ),
        year=2023,
        arxiv="2307.11204",
        home="inverse",
        call="rg.inverse.solve(both, rg.operators.Measurement(rg.inverse.added(both), y, 0.1), method='dps', n=16, nfe=100)",
        test="tests/inverse/test_separate.py::test_two_signals_have_their_joint_posterior",
    )
)
