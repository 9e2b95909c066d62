"""Ten thousand handwritten digits, and a small version of them."""

from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from retrograde.errors import UnknownName

SPLITS = ("train", "test", "all")
Split = Literal["train", "test", "all"]

# The file is shuffled, so its tail is a fair test set.
_TRAIN = 9000


def digits(split: Split = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Return handwritten digits as images and labels.

    "train" is the first 9,000 items, "test" the last 1,000, "all" both in this order; always the same items.

    Shapes and units: images float32 [n, 1, 28, 28] in [-1, 1] (background -1, ink 1), labels int64 [n] in 0..9.

    Raises UnknownName for another split.

    Reference: LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition".
    """
    chosen = _chosen(split)
    pixels, labels = _stored()
    images = pixels[chosen].float().div_(127.5).sub_(1.0)
    return images[:, None], labels[chosen].clone()


def digits8(split: Split = "train") -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same digits at 8x8: padded to 32x32 with background, then averaged over blocks of 4x4.

    Shapes and units: images float32 [n, 1, 8, 8] in [-1, 1], labels int64 [n] in 0..9; items as in `digits`.

    Raises UnknownName for another split.
    """
    images, labels = digits(split)
    return functional.avg_pool2d(functional.pad(images, (2, 2, 2, 2), value=-1.0), 4), labels


def _chosen(split: str) -> slice:
    if split not in SPLITS:
        raise UnknownName("split", split, SPLITS)
    return {"train": slice(0, _TRAIN), "test": slice(_TRAIN, None), "all": slice(None)}[split]


@cache
def _stored() -> tuple[torch.Tensor, torch.Tensor]:
    with np.load(Path(__file__).with_name("mnist10k.npz")) as archive:
        return torch.from_numpy(archive["images"]), torch.from_numpy(archive["labels"]).long()
