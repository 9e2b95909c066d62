"""What of a step is not linear in states and predictions: a small network as a column of the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from retrograde.errors import BadValue, PlanError, ShapeError


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """A small residual network g(x, m_0, m_1, ..., conditions), added to the state a row makes.

    h_0 = W_in z + place + sum_c E_c[c],  h_{i+1} = h_i + W_i silu(h_i),  g = W_out silu(h),

    z the newest state and the newest predictions on top of each other. Weights of images [channels, height, width] are
    3x3 convolutions, on the image with `fold` by `fold` pixels folded into channels; or they are dense on the flattened
    item, as for items of any other shape.

    Attributes:
        weights: by name: "in", "in.bias", "place" (images: one bias per place), "0", "0.bias", "1", ..., "out", "out.bias",
            and "condition.NAME": one row per class of an integer condition, or per number of a vector.
        inputs: how many it sees: the state, and the newest inputs - 1 predictions.
        fold: how many pixels on a side become channels.

    Raises:
        BadValue: weights without an entrance or an exit.
    """

    weights: Mapping[str, Tensor]
    inputs: int
    fold: int = 1

    def __post_init__(self) -> None:
        if missing := {"in", "in.bias", "out", "out.bias"} - set(self.weights):
            raise BadValue(
                f"a correction without {sorted(missing)}", "weights for entrance and exit", "use Correction.initial"
            )

    @classmethod
    def initial(
        cls,
        shape: Sequence[int],
        inputs: int,
        conditions: Mapping[str, int],
        *,
        width: int,
        depth: int,
        generator: torch.Generator,
        dense: bool = False,
    ) -> Correction:
        """Return the correction that adds nothing yet: random entrance and blocks, an exit of zeros.

        Args:
            shape: shape of an item.
            inputs: how many states and predictions it sees.
            conditions: rows of each condition's table.
            width: channels inside.
            depth: number of residual blocks.
            dense: dense layers on images too.
        """
        image = len(shape) == 3 and not dense
        fold = _fold(shape) if image else 1
        size = shape[0] * fold**2 if image else torch.Size(shape).numel()
        kernel, area = ((3, 3), 9) if image else ((), 1)

        def random(rows: int, columns: int) -> Tensor:
            bound = (columns * area) ** -0.5
            return (torch.rand(rows, columns, *kernel, generator=generator) * 2 - 1) * bound

        weights = {"in": random(width, inputs * size), "in.bias": torch.zeros(width)}
        if image:
            weights["place"] = torch.zeros(width, shape[1] // fold, shape[2] // fold)
        for i in range(depth):
            weights |= {f"{i}": random(width, width), f"{i}.bias": torch.zeros(width)}
        weights |= {"out": torch.zeros(size, width, *kernel), "out.bias": torch.zeros(size)}
        weights |= {f"condition.{name}": torch.zeros(rows, width) for name, rows in conditions.items()}
        return cls(weights, inputs, fold)

    def __call__(self, state: Tensor, outputs: Iterable[Tensor], condition: Mapping[str, Tensor]) -> Tensor:
        """Return g [n, *shape] for the newest state and the predictions, newest first, each [n, *shape].

        Raises:
            PlanError: a condition it is told is missing.
            ShapeError: states of another shape than it was made for.
        """
        w = {name: value.to(state) for name, value in self.weights.items()}
        image = w["in"].ndim == 4
        z = torch.cat([part if image else part.flatten(1) for part in (state, *islice(outputs, self.inputs - 1))], 1)
        z = F.pixel_unshuffle(z, self.fold) if image else z
        if z.shape[1] != w["in"].shape[1] or ("place" in w and z.shape[2:] != w["place"].shape[1:]):
            raise ShapeError(
                f"items of shape {list(state.shape[1:])}", "the shape the plan was fitted for", "tune a plan for this shape"
            )
        apply = _convolve if image else F.linear
        h = apply(z, w["in"], w["in.bias"])
        if "place" in w:
            h = h + w["place"]
        for name in self.conditions:
            if name not in condition:
                raise PlanError(
                    f"a run without the condition {name!r} that the plan's corrections were fitted with",
                    f"a denoiser with the conditions {list(self.conditions)}",
                    "sample the denoiser it was tuned for, or tune a plan for this one",
                )
            told = _told(w[f"condition.{name}"], condition[name], name)
            h = h + (told[:, :, None, None] if image else told)
        for i in range(self.depth):
            h = h + apply(F.silu(h), w[f"{i}"], w[f"{i}.bias"])
        g = apply(F.silu(h), w["out"], w["out.bias"])
        return F.pixel_shuffle(g, self.fold) if image else g.reshape(state.shape)

    @property
    def depth(self) -> int:
        """Number of residual blocks."""
        return sum(name.isdigit() for name in self.weights)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the conditions it is told."""
        return tuple(name.partition(".")[2] for name in self.weights if name.startswith("condition."))

    @property
    def parameters(self) -> int:
        """Number of its weights."""
        return sum(value.numel() for value in self.weights.values())

    @property
    def multiplications(self) -> int:
        """Multiply-accumulates for one item."""
        places = self.weights["place"][0].numel() if "place" in self.weights else 1
        return places * sum(value.numel() for name, value in self.weights.items() if is_layer(name))

    @property
    def finite(self) -> bool:
        """Whether every weight is finite."""
        return all(bool(value.isfinite().all()) for value in self.weights.values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Correction):
            return NotImplemented
        same = (self.inputs, self.fold, self.weights.keys()) == (other.inputs, other.fold, other.weights.keys())
        return same and all(torch.equal(value, other.weights[name]) for name, value in self.weights.items())

    __hash__ = None  # type: ignore[assignment]


def is_layer(name: str) -> bool:
    """Return whether a weight of this name is a layer's map: entrance, exit or a residual block's."""
    return name in ("in", "out") or name.isdigit()


def _fold(shape: Sequence[int]) -> int:
    """Pixels folded into channels: until no side is over 16, while both sides halve evenly."""
    fold = 1
    while max(shape[1:]) > 16 * fold and all(side % (2 * fold) == 0 for side in shape[1:]):
        fold *= 2
    return fold


def _convolve(z: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(z, weight, bias, padding=1)


def _told(table: Tensor, value: Tensor, name: str) -> Tensor:
    """Return what a condition adds, [n, width]: rows of the table by number, or a vector times it.

    A number below zero, as a network's null class may have, adds nothing.
    """
    if value.is_floating_point():
        return value.flatten(1).to(table) @ table
    if value.device.type == "cpu" and not torch.compiler.is_compiling() and int(value.max()) >= len(table):
        allowed = f"0 to {len(table) - 1}, or the null class" if len(table) else "the null class"
        raise BadValue(f"condition {name!r} = {int(value.max())}", allowed, "tune a plan with this condition")
    return torch.cat([table, table.new_zeros(1, table.shape[1])])[value.clamp(min=-1)]
