"""From what a user holds (images, signals, points; any feature function) to float64 rows that every figure takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from retrograde.errors import BadType, BadValue, ShapeError

Features = Callable[[torch.Tensor], torch.Tensor]

# Feature networks are asked in pieces, so that a large set does not have to fit through one at once.
_BATCH = 256


def checked(x: torch.Tensor | np.ndarray, what: str) -> torch.Tensor:
    """A set of items as a finite, detached float64 tensor [n, ...].

    Raises BadType for anything but a real tensor or array, ShapeError for a scalar, BadValue for NaN or infinity.
    """
    x = _tensor(x, what)
    if x.is_complex():
        raise BadType(f"complex {what}", "real numbers", f"torch.view_as_real({what})")
    if x.ndim == 0:
        raise ShapeError(f"{what} is a single number", "[n, ...], one row an item", f"{what}[None]")
    # Some accelerators have no float64; the figures are computed on the CPU then.
    x = x.detach().cpu() if x.device.type == "mps" else x.detach()
    x = x.to(torch.float64)
    bad = ~torch.isfinite(x).reshape(len(x), -1).all(dim=1) if x.numel() else torch.zeros(0, dtype=torch.bool)
    if bad.any():
        raise BadValue(
            f"{int(bad.sum())} of {len(x)} {what} hold NaN or infinity, the first at index {int(bad.nonzero()[0])}",
            "finite numbers",
            f"find out why; {what}[torch.isfinite({what}).flatten(1).all(1)] leaves them out",
        )
    return x


def _tensor(x: object, what: str) -> torch.Tensor:
    if isinstance(x, torch.Tensor):
        return x
    if isinstance(x, np.ndarray) and x.dtype.kind in "biufc":
        return torch.as_tensor(x.copy())
    allowed = "a torch.Tensor or a numpy array of numbers"
    raise BadType(f"{what} of type {type(x).__name__}", allowed, f"torch.stack({what})")


def rows(x: torch.Tensor | np.ndarray, features: Features | None, what: str) -> torch.Tensor:
    """Feature rows [n, d] in float64: `features(x)` flattened, or the items themselves when `features` is None.

    The function is asked without gradients and in batches, in the items' own dtype; it must treat items independently.
    """
    if features is not None:
        checked(x, what)
        parts, outputs = _tensor(x, what).split(_BATCH), []
        with torch.no_grad():
            for part in parts:
                output = _tensor(features(part), f"features of {what}")
                if output.ndim == 0 or len(output) != len(part):
                    given = f"features of shape {tuple(output.shape)} for {len(part)} {what}"
                    raise ShapeError(given, "one row an item", "keep dim 0 in the feature function")
                outputs.append(output)
        x, what = torch.cat(outputs), f"features of {what}"
    x = checked(x, what)
    return x[:, None] if x.ndim == 1 else x.flatten(1)


def two_sets(
    samples: torch.Tensor | np.ndarray,
    reference: torch.Tensor | np.ndarray,
    features: Features | None,
    least: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sets as feature rows [n, d] and [m, d], at least `least` rows each.

    Raises ShapeError when the widths differ or are zero, BadValue for too few rows, and what `checked` raises.
    """
    if features is None and np.shape(samples)[1:] != np.shape(reference)[1:]:
        raise ShapeError(
            f"items of shape {tuple(np.shape(samples)[1:])} against {tuple(np.shape(reference)[1:])}",
            "equal item shapes on both sides",
            "bring both sets to one size, or pass features=",
        )
    x, y = rows(samples, features, "samples"), rows(reference, features, "reference")
    if x.shape[1] != y.shape[1] or x.shape[1] == 0:
        raise ShapeError(
            f"samples {tuple(x.shape)} against reference {tuple(y.shape)} (items by features)",
            "the same number of features, at least one, on both sides",
            "let the feature function pool to one width",
        )
    for what, count in (("samples", len(x)), ("reference", len(y))):
        if count < least:
            raise BadValue(f"{count} {what}", f"at least {least}", f"draw more {what}, or ask for a smaller setting")
    return x, y.to(x.device)


def paired_sets(
    x: torch.Tensor | np.ndarray, y: torch.Tensor | np.ndarray, features: Features | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets [n, d] whose rows belong together.

    Raises ShapeError when the item shapes or the counts differ, and what `two_sets` raises.
    """
    first, second = tuple(np.shape(x)), tuple(np.shape(y))
    if first != second:
        raise ShapeError(f"{first} against {second}", "equal shapes: item i belongs to item i", "x[: len(y)]")
    return two_sets(x, y, features, least=1)


def distance_blocks(x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Euclidean distances |x_i - y_j| in blocks of rows: (rows, [rows, m]); never more than some 64 MB at once.

    Differences are taken before squares: the faster expansion |x|^2 + |y|^2 - 2 x.y loses half of the digits.
    """
    step = max(1, 2**23 // max(1, len(y)))
    for start in range(0, len(x), step):
        part = slice(start, min(start + step, len(x)))
        yield part, torch.cdist(x[part], y, compute_mode="donot_use_mm_for_euclid_dist")


def count_in(name: str, value: int, least: int, most: int | None = None) -> int:
    """An integer setting inside its range; raises BadValue otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        allowed = f"an integer of at least {least}" + ("" if most is None else f" and at most {most}")
        raise BadValue(f"{name}={value!r}", allowed, f"{name}={least}")
    return value
