"""Samples as files: .png, .npz or .safetensors, written whole or not at all, with a record of how they came."""

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
    if file.suffix.lower() not in ENDINGS:
        raise BadValue(f"-o {file}", f"a name ending in {', '.join(ENDINGS)}", f"-o {file.with_suffix('.npz')}")
    if file.is_dir():
        raise BadValue(f"-o {file}, a folder", "the name of a file", f"-o {file / 'samples.npz'}")
    if file.suffix.lower() == ".png":
        pictures.check(shape, f"-o {file}")


def write(file: Path, samples: Tensor, items: Sequence[int], made_by: dict[str, Any]) -> None:
    """Write samples [n, *shape], the numbers of the items, and the record `made_by` (as JSON under "retrograde")."""
    from retrograde.plan_file import write_atomically

    record = json.dumps(made_by)
    match file.suffix.lower():
        case ".png":
            from PIL.PngImagePlugin import PngInfo

            info = PngInfo()
            info.add_itxt("retrograde", record)
            content = pictures.png(pictures.mosaic(samples), info)
        case ".npz":
            import numpy as np

            stream = io.BytesIO()
            numbers = np.asarray(items, dtype=np.int64)
            np.savez_compressed(stream, samples=samples.cpu().numpy(), items=numbers, retrograde=np.array(record))
            content = stream.getvalue()
        case _:
            import torch
            from safetensors.torch import save

            tensors = {"samples": samples.cpu().contiguous(), "items": torch.tensor(list(items), dtype=torch.int64)}
            content = save(tensors, {"retrograde": record})
    write_atomically(file, content)
