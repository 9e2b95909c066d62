"""Large pictures from a network of small ones: overlapping windows, each with a condition of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional

from retrograde import systems
from retrograde.codec import Codec
from retrograde.denoisers import AbstractDenoiser, Prediction, prepare_condition
from retrograde.denoisers.carried import CARRIED
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue, ShapeError
from retrograde.guide.branches import alone
from retrograde.guide.transform import Transform

systems.register(
    systems.System(
        title="Learned representation-guided diffusion models for large-image generation",
        authors=(
            "Alexandros Graikos",
            "Srikar Yellapragada",
            "Minh-Quan Le",
            "Saarthak Kapse",
            "Prateek Prasanna",
            "Joel Saltz",
            "Dimitris Samaras",
        ),
        year=2023,
        arxiv="2312.07330",
        home="compose",
        call="rg.guide.windows(denoiser, 96, 96, rg.guide.interpolated('embedding', map, 96, 96))",
        test="tests/guide/test_windows.py::test_a_stationary_field_has_no_seams",
    )
)

ConditionAt = Callable[[float, float], Mapping[str, Any]]
"""From the centre of a window, (row, column) in elements of the canvas, to its conditions by name."""


def places(whole: int, window: int, step: int, shift: int = 0) -> list[int]:
    """Return where windows along a side begin: every `step`, moved by `shift`, the borders always covered."""
    last = whole - window
    return sorted({min(max(begin, 0), last) for begin in range(shift - step, last + step + 1, step)})


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Windowed(Transform):
    """A denoiser of a canvas that asks its inner one window by window (see `windows`)."""

    height: int
    width: int
    told: ConditionAt | None
    step: tuple[int, int]
    moving: bool
    taper: float

    def __post_init__(self) -> None:
        super().__post_init__()
        given = {} if self.told is None else self.told(0.5 * self.height, 0.5 * self.width)
        left = {name: null for name, null in self.inner.conditions.items() if name not in given}
        object.__setattr__(self, "shape", (*self.inner.shape[:-2], self.height, self.width))
        object.__setattr__(self, "conditions", left)
        object.__setattr__(self, "codec", _codec(self.inner.codec, self.inner.shape, self.shape))

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        corners = self._corners(t)
        n, (height, width) = len(x_t), self.inner.shape[-2:]
        cuts = [(..., slice(row, row + height), slice(column, column + width)) for row, column in corners]
        own = [self._conditions(row, column, condition, n, x_t.device) for row, column in corners]
        joined = {name: torch.cat([one[name] for one in own]) for name in self.inner.conditions}
        times = t.repeat(len(cuts)) if isinstance(t, Tensor) else t
        passed = {name: value for name, value in knobs.items() if name != CARRIED}
        made = alone(
            self.inner.predict(torch.cat([x_t[cut] for cut in cuts]), times, joined, passed, network_time), "windows"
        )
        counted = {label: count * len(cuts) for label, count in made.evaluations.items()}
        if len(cuts) == 1:
            value = made.value
        else:
            value, total = torch.zeros_like(x_t), x_t.new_zeros(self.shape[-2:])
            weight = _weight(height, width, self.taper).to(x_t)
            for cut, part in zip(cuts, made.value.chunk(len(cuts)), strict=True):
                value[cut] += weight * part
                total[cut] += weight
            value /= total
        return Prediction(x_t, t, self.path, value, made.kind, evaluations=counted)

    def _corners(self, t: float | Tensor) -> list[tuple[int, int]]:
        """Return where the windows begin at a level; the same for all items, in every run."""
        shifts = (0, 0)
        if self.moving and not isinstance(t, Tensor):
            digest = hashlib.sha256(struct.pack("<d", t)).digest()
            shifts = tuple(
                int.from_bytes(digest[8 * axis : 8 * axis + 8], "little") % step for axis, step in enumerate(self.step)
            )
        rows, columns = (
            places(whole, window, step, shift)
            for whole, window, step, shift in zip(
                (self.height, self.width), self.inner.shape[-2:], self.step, shifts, strict=True
            )
        )
        return [(row, column) for row in rows for column in columns]

    def _conditions(self, row: int, column: int, condition: Mapping[str, Any], n: int, device: Any) -> dict[str, Tensor]:
        height, width = self.inner.shape[-2:]
        given = {} if self.told is None else self.told(row + 0.5 * height, column + 0.5 * width)
        return prepare_condition(self.inner, {**condition, **given}, n, device)


def windows(
    denoiser: AbstractDenoiser,
    height: int,
    width: int,
    conditions: ConditionAt | None = None,
    *,
    step: int | tuple[int, int] | None = None,
    moving: bool = True,
    taper: float = 2.0,
) -> Windowed:
    """Return the denoiser of pictures [.., height, width], made of one of smaller pictures.

    At every evaluation the canvas is cut into windows of the denoiser's own size, each is asked with the condition of its
    place, and where windows overlap what they say is averaged, with weights that fall towards the borders of each. All
    windows are asked in one call of the network, and the ledger counts each. A canvas of one window is the denoiser, bit
    by bit. Put guidance inside, where it sees windows; what transforms there would remember is not kept, since windows
    move.

    Args:
        conditions: function from the centre (row, column) of a window to its conditions by name, such as
            `interpolated`; None for the run's own in every window.
        step: distance of neighbouring windows, also one for rows and one for columns; a half of a window by default.
        moving: shift the windows by random parts of a step, others at each level (the same in each run), so that no border
            stays in place.
        taper: weights are min(i + 1, side - i)^taper along each side. 0 is the plain average, which believes the border of
            a window as much as its middle: of a stationary field whose variance and correlation of neighbours 2 keeps to 2
            and 5 %, it lost 12 to 15 % of that correlation, and 46 % where windows do not move.

    Raises:
        ShapeError: items that are no pictures, or a canvas smaller than a window.
        BadValue: a step that leaves gaps, or a negative taper.
        BadType: an anchored path, or latents that are packed.

    Reference: Graikos et al., 2023, arXiv 2312.07330 (windows of a representation's map); Bar-Tal et al., MultiDiffusion,
    2023, arXiv 2302.08113 (the average).
    """
    shape = denoiser.shape
    if len(shape) < 2 or height < shape[-2] or width < shape[-1]:
        given = f"a canvas of {height}x{width} for items of shape {list(shape)}"
        raise ShapeError(given, "pictures, and a canvas of at least their size", "windows(den, 96, 96)")
    if denoiser.path.anchored:
        raise BadType(f"windows on the anchored path {denoiser.path.name!r}", "a path without anchor", "leave them out")
    halves = (max(1, shape[-2] // 2), max(1, shape[-1] // 2))
    steps = halves if step is None else (step, step) if isinstance(step, int) else step
    if not taper >= 0.0:
        raise BadValue(f"taper={taper}", "0 or more", "taper=2.0")
    if any(not 1 <= one <= side for one, side in zip(steps, shape[-2:], strict=True)):
        raise BadValue(f"step={step}", f"1 to {shape[-2]} for rows, 1 to {shape[-1]} for columns", f"step={halves}")
    return Windowed(denoiser, height, width, conditions, steps, moving, taper)


def interpolated(name: str, values: Tensor, height: int, width: int) -> ConditionAt:
    """Return the condition of a window as the value at its centre of a map over the canvas, interpolated linearly.

    Args:
        values: the map, [rows, columns, *value]; its outer values lie half a cell within the borders and hold up to them.
    """
    rows, columns, *shape = values.shape
    plane = values.reshape(rows, columns, -1).movedim(-1, 0)[None]

    def at(row: float, column: float) -> Mapping[str, Any]:
        place = torch.tensor([2.0 * column / width - 1.0, 2.0 * row / height - 1.0], dtype=plane.dtype)
        found = functional.grid_sample(plane, place.reshape(1, 1, 1, 2), padding_mode="border", align_corners=False)
        return {name: found.reshape(shape)}

    return at


def _weight(height: int, width: int, taper: float) -> Tensor:
    """Return the weight of a window's elements, [height, width]: one at its borders, a power of the distance further in."""
    sides = []
    for side in (height, width):
        place = torch.arange(side, dtype=torch.float64)
        sides.append(torch.minimum(place + 1.0, side - place) ** taper)
    return sides[0][:, None] * sides[1]


def _codec(codec: Codec | None, window: tuple[int, ...], canvas: tuple[int, ...]) -> Codec | None:
    if codec is None:
        return None
    if codec.unpack is not None:
        raise BadType("windows of latents that are packed", "latents that are pictures", "a model such as Stable Diffusion")
    sides = (side * codec.shape[-1] // window[-1] for side in canvas[-2:])
    return dataclasses.replace(codec, latent=canvas, shape=(*codec.shape[:-2], *sides))
