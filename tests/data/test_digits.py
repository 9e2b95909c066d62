"""The embedded digits: fixed splits, units, and the 8x8 version against a direct computation."""

import pytest
import torch

from retrograde import data
from retrograde.errors import UnknownName


@pytest.mark.parametrize(("load", "size"), [(data.digits, 28), (data.digits8, 8)])
def test_splits_partition_all(load, size: int) -> None:
    train, test, everything = load("train"), load("test"), load("all")
    assert train[0].shape == (9000, 1, size, size)
    assert test[0].shape == (1000, 1, size, size)
    assert train[0].dtype == torch.float32
    assert train[1].dtype == torch.int64
    assert torch.equal(torch.cat([train[0], test[0]]), everything[0])
    assert torch.equal(torch.cat([train[1], test[1]]), everything[1])
    assert everything[0].amin() == -1
    assert everything[0].amax() <= 1
    assert set(everything[1].tolist()) == set(range(10))


def test_pixels_keep_their_256_values() -> None:
    images, _ = data.digits("test")
    pixels = (images + 1) * 127.5
    torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-4)
    assert images.amax() == 1


def test_small_digits_are_means_of_blocks() -> None:
    images, _ = data.digits("test")
    small, _ = data.digits8("test")
    # Block (3, 4) of the padded image covers rows 10..13 and columns 14..17 of the original.
    torch.testing.assert_close(small[:, 0, 3, 4], images[:, 0, 10:14, 14:18].mean((1, 2)))
    # The corner block is half padding: 2x2 of 16 pixels lie in the image.
    torch.testing.assert_close(small[:, 0, 0, 0], (images[:, 0, :2, :2].sum((1, 2)) - 12) / 16)


def test_callers_cannot_change_the_data() -> None:
    images, labels = data.digits("test")
    before = images.clone(), labels.clone()
    images.zero_()
    labels.zero_()
    again = data.digits("test")
    assert torch.equal(again[0], before[0])
    assert torch.equal(again[1], before[1])


def test_unknown_split_names_the_near_one() -> None:
    with pytest.raises(UnknownName, match="did you mean 'train'"):
        data.digits("trian")  # type: ignore[arg-type]
