"""Measurements from what was typed: files, operators, noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrograde.cli import asked
from retrograde.errors import BadValue, ShapeError

if TYPE_CHECKING:
    from torch import Tensor

    from retrograde.operators import Measurement


def posed(
    operator: str, noise: str, shape: Sequence[int], file: Path | None, truth: Tensor | None, seed: int
) -> Measurement:
    """Return the measurement in a file, or that of a known item, with noise drawn.

    Raises:
        UnknownName, BadValue, ShapeError: as operators, noises and `read` do.
    """
    from retrograde import operators

    taken, law = operators.make(operator, shape), operators.noise_of(noise)
    if truth is not None:
        return operators.measure(taken, truth, law, seed)
    if file is None:
        raise BadValue("no measurement", "a file or a known item", "--measurement y.npy")
    return operators.Measurement(taken, read(file, tuple(taken.measured)), law)


def read(file: Path, shape: Sequence[int]) -> Tensor:
    """Return the array in a .npy, .npz or .png file, [*shape]; a picture's black is -1 and its white 1.

    Raises:
        BadValue: no such file, another ending, several arrays none of which is called "y", or numbers that are complex.
        ShapeError: an array of another shape.
    """
    import numpy as np
    import torch

    if not file.is_file():
        raise BadValue(f"{file}, which is no file", "a file of numbers", 'numpy.save("y.npy", y) writes one')
    match file.suffix.lower():
        case ".npy":
            array = np.load(file, allow_pickle=False)
        case ".npz":
            array = _only(file, dict(np.load(file, allow_pickle=False)))
        case ".png":
            array = _picture(file, shape)
        case _:
            raise BadValue(
                f"{file}, a file of another kind", "a name ending in .npy, .npz or .png", 'numpy.save("y.npy", y) writes one'
            )
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        given = f"{file}, an array of {array.dtype}"
        raise BadValue(
            given, "real numbers; of complex ones the real parts before the imaginary ones", "y.astype('float32')"
        )
    value = torch.as_tensor(array, dtype=torch.float32)
    if tuple(value.shape) == (1, *shape):
        value = value[0]
    if tuple(value.shape) != tuple(shape):
        raise ShapeError(f"{file} of shape {list(value.shape)}", f"{list(shape)}", _reshaped(tuple(value.shape), shape))
    return value


def _reshaped(given: tuple[int, ...], shape: Sequence[int]) -> str:
    """Return what makes an array of the right shape of this one."""
    if math.prod(given) == math.prod(shape):
        return f"numpy.save with y.reshape{tuple(shape)}"
    if given[1:] == tuple(shape):
        return "one measurement at a time: numpy.save with y[0]"
    return "--operator with the settings that it was measured with, and the model of what was measured"


def _only(file: Path, arrays: dict[str, Any]) -> Any:
    arrays = {key: value for key, value in arrays.items() if value.dtype.kind in "fiuc"}
    if len(arrays) != 1 and "y" not in arrays:
        given = f"{file} with the arrays {', '.join(arrays) or 'none'}"
        raise BadValue(given, "one array, or one that is called y", 'numpy.savez("y.npz", y=y)')
    return arrays["y"] if "y" in arrays else next(iter(arrays.values()))


def _picture(file: Path, shape: Sequence[int]) -> Any:
    import numpy as np
    from PIL import Image

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise BadValue(
            f"{file}, a picture, for numbers of shape {list(shape)}", "a .npy or .npz file", "--measurement y.npy"
        )
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("L" if shape[0] == 1 else "RGB"), dtype=np.float32) / 127.5 - 1.0
    return pixels[None] if shape[0] == 1 else pixels.transpose(2, 0, 1)


def one(text: str | None) -> Any:
    """Return the one condition of all samples.

    Raises:
        BadValue: several values.
    """
    values, more = asked.condition(text, 1), asked.condition(text, 2)
    if values is None:
        return None
    several = [entry for entry in (more.values() if isinstance(more, dict) else [more]) if entry[0] != entry[1]]
    if several:
        raise BadValue(
            f"--condition {text}", "one value: all samples are of the one item that was measured", "--condition 3"
        )
    return {name: entry[0] for name, entry in values.items()} if isinstance(values, dict) else values[0]
