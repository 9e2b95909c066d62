"""What transforms have in common: they are denoisers, and look like the one they wrap."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from retrograde.denoisers.denoiser import AbstractDenoiser, checked_denoiser


@dataclasses.dataclass(frozen=True, eq=False)
class Transform(AbstractDenoiser):
    """A denoiser made of another one; a final transform adds its settings and `predict`.

    Attributes:
        inner: the denoiser it wraps.
        obeys: knobs of a plan's row that it consumes itself.
        makes: names of the parts its predictions carry.
    """

    inner: AbstractDenoiser
    path: Any = dataclasses.field(init=False)
    shape: tuple[int, ...] = dataclasses.field(init=False)
    predicts: str = dataclasses.field(init=False)
    conditions: Mapping[str, Any] = dataclasses.field(init=False)
    consumes: frozenset[str] = dataclasses.field(init=False)
    name: str = dataclasses.field(init=False)
    obeys: ClassVar[frozenset[str]] = frozenset()
    makes: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        checked_denoiser(self.inner)
        for field in ("path", "shape", "predicts", "conditions", "name", "reads", "codec", "shared"):
            object.__setattr__(self, field, getattr(self.inner, field))
        object.__setattr__(self, "consumes", self.inner.consumes | self.obeys)

    def network_time(self, t: float) -> float:
        return self.inner.network_time(t)

    def snap(self, t: float) -> float:
        return self.inner.snap(t)
