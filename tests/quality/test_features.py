"""What every figure refuses, and how features are asked."""

import numpy as np
import pytest
import torch

from retrograde import quality
from retrograde.errors import BadType, BadValue, ShapeError

TWO_SETS = [
    quality.frechet_distance,
    quality.kernel_distance,
    quality.sliced_wasserstein,
    quality.energy_distance,
    quality.precision_recall,
    quality.density_coverage,
    quality.variance_ratio,
    quality.report,
    quality.paired_error,
    lambda x, y, features=None: quality.mmd_test(x, y, 0, features=features),
]
TAKES_ONE = (quality.sliced_wasserstein, quality.energy_distance, quality.paired_error)
NEEDS_TWO = [figure for figure in TWO_SETS if figure not in TAKES_ONE]


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("figure", TWO_SETS)
def test_refuses_different_dimensions(figure):
    with pytest.raises(ShapeError, match="against"):
        figure(normal(40, 3), normal(40, 4))


@pytest.mark.parametrize("figure", TWO_SETS)
def test_refuses_transposed_items_of_equal_size(figure):
    with pytest.raises(ShapeError, match="against"):
        figure(normal(40, 3, 2), normal(40, 2, 3))


@pytest.mark.parametrize("figure", TWO_SETS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_refuses_what_is_not_finite(figure, bad):
    x = normal(40, 3)
    x[7, 1] = bad
    with pytest.raises(BadValue, match="1 of 40 samples hold NaN or infinity, the first at index 7"):
        figure(x, normal(40, 3))
    with pytest.raises(BadValue, match="1 of 40 reference"):
        figure(normal(40, 3), x)


@pytest.mark.parametrize("figure", NEEDS_TWO)
def test_refuses_too_few(figure):
    with pytest.raises(BadValue, match="1 samples"):
        figure(normal(1, 3), normal(40, 3))
    with pytest.raises(BadValue, match="1 reference"):
        figure(normal(40, 3), normal(1, 3))


@pytest.mark.parametrize("figure", TWO_SETS)
def test_refuses_empty_sets(figure):
    with pytest.raises(BadValue, match="0 samples"):
        figure(normal(0, 3), normal(0, 3))


@pytest.mark.parametrize("figure", TWO_SETS)
def test_refuses_what_is_no_real_tensor(figure):
    with pytest.raises(BadType):
        figure([[1.0, 2.0]] * 40, normal(40, 2))
    with pytest.raises(BadType, match="complex"):
        figure(torch.ones(40, 2, dtype=torch.complex64), normal(40, 2))


def test_features_are_the_same_as_measuring_their_output():
    x, y = normal(600, 2, 3, 3), normal(300, 2, 3, 3, seed=1)
    asked = []

    def pooled(images):
        asked.append(len(images))
        return images.mean(dim=(2, 3)).square()

    given = quality.frechet_distance(x, y, features=pooled)
    assert given == quality.frechet_distance(pooled(x), pooled(y))
    assert max(asked[:-2]) < 600, "a large set goes through in pieces"


def test_features_may_bring_different_items_together():
    x, y = normal(50, 8), normal(60, 4)
    figure = quality.energy_distance(x, y, features=lambda items: items[:, :2])
    assert (figure.n_samples, figure.n_reference) == (50, 60)


def test_refuses_features_that_lose_items_or_are_not_finite():
    x = normal(40, 3)
    with pytest.raises(ShapeError, match="one row an item"):
        quality.energy_distance(x, x, features=lambda items: items.mean(0, keepdim=True))
    with pytest.raises(BadValue, match="features of samples"):
        quality.energy_distance(x, x, features=lambda items: items.log())
    with pytest.raises(BadType, match="features of samples of type tuple"):
        quality.energy_distance(x, x, features=lambda items: (items,))


def test_takes_numpy_float32_and_integers():
    x, y = normal(40, 3), normal(40, 3, seed=1)
    whole = quality.energy_distance(x.float(), y.float()).value
    assert quality.energy_distance(x.float().numpy(), y.float().numpy()[:, ::1]).value == whole
    assert quality.energy_distance(np.flip(x.float().numpy(), 0), y.float()).value == pytest.approx(whole, rel=1e-12)
    pixels = torch.tensor([[0], [255]], dtype=torch.uint8)
    assert quality.energy_distance(pixels, pixels.double()).value == 0
    # 255 + 255 would wrap in eight bits.
    assert quality.paired_error(pixels, pixels.flip(0)).rms.value == 255


def test_gradients_are_left_behind():
    x = normal(40, 3).requires_grad_()
    assert not quality.paired_error(x, normal(40, 3)).per_item.requires_grad
