"""The network of a pipeline, asked as the pipeline asks it: on its device, in its type, with its adapters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, final

from torch import Tensor

from retrograde.codec import Codec
from retrograde.denoisers.denoiser import Reader
from retrograde.errors import BadType, BadValue

Ask = Callable[[Any, Tensor, Tensor, Mapping[str, Tensor]], Tensor]
"""From (module, x, told, conditions) to what the module says, [batch, channels or twice as many, ...]."""

BY_HAND = "wrap it yourself: rg.Denoiser(network, interop.schedulers.path_of(pipe.scheduler), predicts, shape, conditions)"
"""The line that serves networks which no family opens."""

UNKNOWN = float("nan")
"""Stands for the embedding of no text where a pipeline has no text encoder to tell it."""


@dataclasses.dataclass(frozen=True)
class Size:
    """What is asked of a pipeline, in pixels; None for what it makes by default."""

    height: int | None = None
    width: int | None = None
    frames: int | None = None

    def sides(self, default: int | tuple[int, int], multiple: int) -> tuple[int, int]:
        """Return height and width.

        Raises:
            BadValue: a side that the network cannot make.
        """
        usual = (default, default) if isinstance(default, int) else (int(default[0]), int(default[1]))
        given = self.height, self.width
        height, width = (u if g is None else g for u, g in zip(usual, given, strict=True))
        if height % multiple or width % multiple or min(height, width) < 1:
            near = max(multiple, height // multiple * multiple), max(multiple, width // multiple * multiple)
            raise BadValue(
                f"height={height}, width={width}", f"multiples of {multiple}", f"height={near[0]}, width={near[1]}"
            )
        return height, width


@dataclasses.dataclass(frozen=True, eq=False)
class Opening:
    """What a family of pipelines says of one of them.

    Attributes:
        part: name of the network among the pipeline's components.
        shape: shape of one state, as the pipeline's scheduler sees it.
        ask: how the network is asked.
        conditions, reads, shared, codec: see `AbstractDenoiser`.
    """

    part: str
    shape: tuple[int, ...]
    ask: Ask
    conditions: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reads: Mapping[str, Reader] = dataclasses.field(default_factory=dict)
    shared: frozenset[str] = frozenset()
    codec: Codec | None = None


@final
@dataclasses.dataclass(frozen=True, eq=False)
class AskedPart:
    """A component of a pipeline as the network of a denoiser.

    It is looked up in the pipeline at every call, so that what is done to the pipeline later (adapters, compilation, another
    device or type, offloading) holds here too. Of an output of twice as many channels the second half is a learned
    variance, which is left out.

    Raises:
        BadType: its cache is enabled, whose state lives in the network and belongs to no run.
        BadValue: no text was given where the pipeline has no text encoder that could tell what none is.
    """

    pipe: Any
    part: str
    ask: Ask
    sure: tuple[str, ...] = ()

    def __call__(self, x: Tensor, told: Tensor, **condition: Tensor) -> Tensor:
        module = getattr(self.pipe, self.part)
        if getattr(module, "is_cache_enabled", False):
            raise BadType(
                f"pipe.{self.part} with its cache enabled",
                "a network without memory: what a cache holds belongs to one call of the pipeline",
                f"pipe.{self.part}.disable_cache()",
            )
        for name in self.sure:
            if bool(condition[name].isnan().any()):
                raise BadValue(
                    f"no {name!r}: the pipeline has no text encoder, so that the embedding of no text is not known",
                    f"embeddings for {', '.join(self.sure)}, also for the negative branch",
                    "condition={'prompt': embeddings}; rg.guide.cfg(den, 5.0, negative={'prompt': embeddings})",
                )
        device, kind = self.pipe._execution_device, module.dtype
        held = {
            name: value.to(device, kind if value.is_floating_point() else value.dtype) for name, value in condition.items()
        }
        made = self.ask(module, x.to(device, kind), told.to(device), held)
        if made.shape[1] == 2 * x.shape[1] and made.shape[2:] == x.shape[2:]:
            made = made[:, : x.shape[1]]
        return made.to(x.device, x.dtype)


def unread(pipe: Any, *encoders: str) -> bool:
    """Return whether a pipeline lacks all of these text encoders."""
    return all(getattr(pipe, name, None) is None for name in encoders)


def default_of(pipe: Any, argument: str, other: float) -> float:
    """Return the default of an argument of the pipeline's call."""
    import inspect

    found = inspect.signature(type(pipe).__call__).parameters.get(argument)
    return float(found.default) if found is not None and isinstance(found.default, int | float) else other
