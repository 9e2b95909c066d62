"""Samples as files: .png, .npz or .safetensors, written whole or not at all, with a record of how they came.

A name without an ending is a folder, of one .png for each item.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrograde.cli import pictures
from retrograde.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

ENDINGS = (".png", ".npz", ".safetensors")


def check(file: Path, shape: Sequence[int]) -> None:
    """Raise BadValue, before any work, for a file whose ending cannot hold items of this shape."""
    if is_folder(file):
        if file.is_file():
            raise BadValue(f"-o {file}, a file", "a folder for the pictures, or a name with an ending", f"-o {file}.png")
    elif file.suffix.lower() not in ENDINGS:
        allowed = f"a name ending in {', '.join(ENDINGS)}, or a folder for a picture of each item"
        raise BadValue(f"-o {file}", allowed, f"-o {file.with_suffix('.npz')}")
    if is_folder(file) or file.suffix.lower() == ".png":
        pictures.check(shape, f"-o {file}")


def check_place(file: Path) -> None:
    """Raise BadFile, before any work, for a place where nothing can be written."""
    from retrograde.plan_file import check_writable

    check_writable(file / "000.png" if is_folder(file) else file)


def is_folder(file: Path) -> bool:
    """Whether the name stands for a folder: it is one, or has no ending."""
    return file.is_dir() or not file.suffix


def write(
    file: Path, samples: Tensor, items: Sequence[int], made_by: dict[str, Any], latents: Tensor | None = None
) -> list[Path]:
    """Write samples [n, *shape], the numbers of the items, and the record `made_by` (as JSON under "retrograde").

    Args:
        latents: what the samples were decoded from, kept beside them where the file holds numbers.

    Returns:
        The files that were written.
    """
    from retrograde.plan_file import write_atomically

    record = json.dumps(made_by)
    if is_folder(file):
        files = [file / f"{item:03d}.png" for item in items]
        for one, place in zip(files, range(len(samples)), strict=True):
            write_atomically(one, _picture(samples[place : place + 1], json.dumps(made_by | {"item": items[place]})))
        return files
    match file.suffix.lower():
        case ".png":
            content = _picture(samples, record)
        case ".npz":
            import numpy as np

            stream = io.BytesIO()
            numbers = np.asarray(items, dtype=np.int64)
            kept: dict[str, Any] = {} if latents is None else {"latents": latents.cpu().numpy()}
            np.savez_compressed(stream, samples=samples.cpu().numpy(), items=numbers, retrograde=np.array(record), **kept)
            content = stream.getvalue()
        case _:
            import torch
            from safetensors.torch import save

            tensors = {"samples": samples.cpu().contiguous(), "items": torch.tensor(list(items), dtype=torch.int64)}
            tensors |= {} if latents is None else {"latents": latents.cpu().contiguous()}
            content = save(tensors, {"retrograde": record})
    write_atomically(file, content)
    return [file]


def _picture(samples: Tensor, record: str) -> bytes:
    return pictures.png(pictures.mosaic(samples), record)
