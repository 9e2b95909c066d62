"""Masks: some elements are seen, the others are not."""

from __future__ import annotations

import dataclasses
from typing import final

import numpy as np
import torch
from torch import Tensor

from retrograde.errors import BadValue, ShapeError
from retrograde.operators.operator import Linear
from retrograde.operators.registry import operator
from retrograde.operators.spectra import Diagonal


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Mask(Linear):
    """y = m x, element by element: a measurement has the shape of an item, with 0 where nothing is seen.

    Attributes:
        seen: m, broadcastable to one item; 0 and 1, or any weights >= 0.
        shape: of one item.
    """

    seen: Tensor
    shape: tuple[int, ...]
    measured: tuple[int, ...] = dataclasses.field(init=False)
    spectrum: Diagonal = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            seen = torch.as_tensor(self.seen).double().expand(self.shape)
        except RuntimeError:
            raise ShapeError(
                f"a mask of shape {list(self.seen.shape)}",
                f"one that broadcasts to {list(self.shape)}",
                "give it the height and width of your items",
            ) from None
        if not bool(((seen >= 0.0) & seen.isfinite()).all()) or not bool(seen.any()):
            raise BadValue(f"a mask from {seen.min():g} to {seen.max():g}", "numbers >= 0, not all 0", "1 where it is seen")
        derived = {"seen": seen, "measured": tuple(self.shape), "spectrum": Diagonal(seen.reshape(-1), tuple(self.shape))}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def _apply(self, x: Tensor) -> Tensor:
        return self.seen.to(x) * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.seen.to(y) * y


@operator(
    "mask",
    "some elements are seen: a random share, a half, a box that is missing, or a mask of yours",
    ((2, 5, 4), {"share": 0.3}),
    ((1, 6, 6), {"keep": "left"}),
    ((1, 6, 6), {"keep": "frame"}),
    ((7,), {"share": 0.5}),
)
def mask(shape: tuple[int, ...], share: float = 0.3, keep: str = "random", seed: int = 0, file: str | None = None) -> Mask:
    """Return the mask that keeps a random `share` of the places, or a part of the picture.

    Args:
        keep: "random"; "left", "right", "top" or "bottom" half; "frame", all but the middle half of each side.
        seed: of the random places; all channels of a picture share them.
        file: a .npy file with a mask, instead.

    Raises:
        BadValue: a share outside (0, 1], or another part.
        ShapeError: a part of items that have no height and width.
    """
    if file is not None:
        return Mask(torch.from_numpy(np.load(file)).double(), tuple(shape))
    places = tuple(shape[-2:]) if len(shape) > 1 else tuple(shape)
    if keep == "random":
        if isinstance(share, str) or not 0.0 < share <= 1.0:
            raise BadValue(f"share={share!r}", "0 < share <= 1", "share=0.3: 30 % of the pixels are seen")
        count = int(torch.Size(places).numel())
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        seen = torch.zeros(count, dtype=torch.float64)
        seen[order[: max(1, round(share * count))]] = 1.0
        return Mask(seen.reshape(places), tuple(shape))
    if len(shape) < 2:
        raise ShapeError(f"keep={keep!r} of items of shape {list(shape)}", "pictures", "keep='random'")
    height, width = places
    seen = torch.zeros(places, dtype=torch.float64)
    match keep:
        case "left":
            seen[:, : width // 2] = 1.0
        case "right":
            seen[:, width // 2 :] = 1.0
        case "top":
            seen[: height // 2] = 1.0
        case "bottom":
            seen[height // 2 :] = 1.0
        case "frame":
            seen += 1.0
            seen[height // 4 : height - height // 4, width // 4 : width - width // 4] = 0.0
        case _:
            raise BadValue(f"keep={keep!r}", "'random', 'left', 'right', 'top', 'bottom', 'frame'", "keep='left'")
    return Mask(seen, tuple(shape))
