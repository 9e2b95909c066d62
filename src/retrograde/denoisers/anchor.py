"""The anchor y of an anchored path, on its way from the caller to the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from retrograde.errors import PlanError, ShapeError
from retrograde.paths import Path

ANCHOR = "anchor"
"""The condition that holds the anchor y [batch, *shape] of an anchored path; no denoiser lists it among its own."""


def given_anchor(path: Path, anchor: Tensor | None) -> Tensor:
    """Return the anchor of an anchored path.

    Raises:
        PlanError: there is none.
    """
    if anchor is None:
        raise PlanError(
            f"a state of the anchored path {path.name!r} without its anchor y",
            "one anchor per item, shaped as the data",
            "pass anchor=y, for instance the degraded images",
        )
    return anchor


def prepare_anchor(shape: tuple[int, ...], anchor: Any, n: int, device: torch.device | str | None = None) -> Tensor:
    """Return the anchor with one entry per item, [n, *shape], from one for all items or one for each.

    Raises:
        ShapeError: another shape.
    """
    given = torch.as_tensor(anchor, device=device)
    if given.shape[-len(shape) :] == shape and given.shape[: -len(shape)] in ((), (1,), (n,)):
        return given.expand(n, *shape)
    raise ShapeError(
        f"an anchor of shape {list(given.shape)} for {n} items",
        f"{list(shape)} for all items, or {[n, *shape]}",
        "shape it as the data: a degraded image is scaled up to the clean one's size first",
    )


def anchor_of(path: Path, condition: Mapping[str, Any]) -> Tensor | None:
    """Return the anchor among prepared conditions; None on a path that has none.

    Raises:
        PlanError: an anchored path without an anchor, or an anchor on another path.
    """
    anchor = condition.get(ANCHOR)
    if path.anchored:
        return given_anchor(path, anchor)
    if anchor is not None:
        raise PlanError(
            f"an anchor on path {path.name!r}, which has none",
            f"an anchored path, such as retrograde.paths.MeanReverting(retrograde.paths.{type(path).__name__}())",
            "leave anchor out; what the network should see beside x_t is a condition",
        )
    return None


def anchor_of_run(
    path: Path, denoiser: Any, x: Tensor, condition: Mapping[str, Tensor], anchor: Tensor | None
) -> tuple[Mapping[str, Tensor], Tensor | None]:
    """Return the conditions with the anchor among them, and the anchor that the rows of a plan on `path` add.

    Raises:
        PlanError: the path, or that of a denoiser inside, carries an anchor and there is none; or the other way round.
        ShapeError: an anchor that does not have the state's shape.
    """
    given = condition.get(ANCHOR) if anchor is None else anchor
    paths = [path]
    while denoiser is not None:
        paths.append(denoiser.path)
        denoiser = getattr(denoiser, "inner", None)
    carrying = next((path for path in paths if path.anchored), None)
    if given is None:
        if carrying is not None:
            given_anchor(carrying, given)
        return condition, None
    if carrying is None:
        raise PlanError(
            f"an anchor for a plan on path {path.name!r}, which has none",
            "an anchor on anchored paths only",
            "leave anchor out; what the network should see beside x_t is a condition",
        )
    y = prepare_anchor(tuple(x.shape[1:]), given, x.shape[0], x.device).to(x.dtype)
    return {**condition, ANCHOR: y}, y if path.anchored else None
