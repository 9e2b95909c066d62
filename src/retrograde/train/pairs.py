"""Data with what it is to be restored from: pairs of clean and degraded items."""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any

from torch import Tensor

from retrograde import paths
from retrograde.errors import BadValue, ShapeError, UnknownName
from retrograde.operators import GaussianNoise, Linear, make
from retrograde.train.config import TrainConfig

_QUALIFIED = re.compile(r"[\w.]+:\w+")


def degraded(images: Tensor, operator: str, noise: float = 0.0, seed: int = 0) -> Tensor:
    """Return an anchor for every item: A(x) + noise n, brought back to the shape of the data by A^+ where it left it.

    Noise is drawn before A^+, so that a picture averaged over blocks and scaled up again has one draw for a block.

    Shapes: images [n, *shape] -> [n, *shape]; noise is a standard deviation, in units of what is measured.

    Raises:
        UnknownName: no such operator, see `retrograde.operators.names()`.
        BadValue: the operator is not linear and changes the shape.
    """
    A = make(operator, images.shape[1:])
    inside = tuple(A.measured) == tuple(images.shape[1:])
    if not inside and not isinstance(A, Linear):
        raise BadValue(
            f"degrade={operator!r}, which measures {list(A.measured)} of {list(A.shape)}",
            "a linear operator, or one that keeps the shape",
            "give the pairs by a data function of your own: images, labels, anchors",
        )
    y = A(images) if noise == 0.0 else GaussianNoise(noise).corrupt(A(images), seed)
    return y if inside or not isinstance(A, Linear) else A.pseudo_inverse(y)


def load_data(config: TrainConfig, split: str) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return images, labels and, on an anchored path, the anchors of a split: the data function's own, or degraded images.

    Raises:
        UnknownName, BadValue: the data or the operator do not exist; an anchored path without anchors, or the other way
            round.
        ShapeError: anchors that are not shaped as the images.
    """
    made = named(config.data, "retrograde.data", "data set")(split)
    images, labels = made[:2]
    anchored = paths.from_config({"name": config.path} if isinstance(config.path, str) else config.path).anchored
    if config.degrade is not None:
        anchors = degraded(images, config.degrade, config.degrade_noise, seed=0 if split == "train" else 1)
    else:
        anchors = made[2] if len(made) > 2 else None
    if anchored != (anchors is not None):
        name = config.path if isinstance(config.path, str) else config.path.get("name")
        raise BadValue(
            f"path {name!r} {'without' if anchored else 'with'} degraded copies of {config.data!r}",
            "an anchored path with degrade=..., or with data that has anchors; other paths without",
            "degrade='down:4', say, or a path without anchor" if anchored else "path='residual_shift', for instance",
        )
    if anchors is not None and anchors.shape != images.shape:
        given = f"anchors {list(anchors.shape)} of images {list(images.shape)}"
        raise ShapeError(given, "anchors shaped as the images", "scale the degraded ones up to the clean ones' size")
    return images, labels, anchors


def named(what: str, home: str, kind: str) -> Any:
    """Return the object called `what`: a public name of the module `home`, or "package.module:name".

    The homes lie above this package, so they are looked up by name and not imported by it: whoever trains on their own
    data and network needs neither.
    """
    if _QUALIFIED.fullmatch(what):
        module, name = what.split(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise BadValue(f"{kind} {what!r}: {error}", "package.module:name", "check both parts") from error
    module = import_module(home)
    if what not in module.__all__:
        raise UnknownName(kind, what, module.__all__)
    return getattr(module, what)
