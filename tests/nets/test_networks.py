"""The networks: shapes, conditions, errors, and that they depend on what they are told."""

from typing import Any

import pytest
import torch

from retrograde.errors import BadType, BadValue, ShapeError, UnknownName
from retrograde.nets import Beside, Classifier, MLPDenoiser, UNet


def awake(network: torch.nn.Module) -> torch.nn.Module:
    """Give the layers that start at zero random weights, so that the output shows what it depends on."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


NETWORKS = {
    "unet": lambda: UNet(shape=(1, 8, 8), channels=(8, 16), patch=1, width=16),
    "unet-folded": lambda: UNet(shape=(3, 12, 8), channels=(8, 16), patch=2, width=16),
    "unet-flat": lambda: UNet(shape=(1, 4, 4), channels=(8,), patch=1, width=16, attention=(), blocks=2),
    "mlp": lambda: MLPDenoiser(shape=(2, 3), width=16, classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_output_has_the_shape_of_the_input_and_starts_at_zero(name: str) -> None:
    network = NETWORKS[name]()
    x_t, t = torch.randn(5, *network.shape), torch.rand(5)
    assert torch.equal(network(x_t, t), torch.zeros_like(x_t))
    assert awake(network)(x_t, t).shape == x_t.shape


@pytest.mark.parametrize("name", NETWORKS)
def test_output_depends_on_state_time_and_label(name: str) -> None:
    network = awake(NETWORKS[name]())
    x_t, t, label = torch.randn(4, *network.shape), torch.full((4,), 0.3), torch.tensor([0, 1, 2, 3])
    reference = network(x_t, t, label)
    for other in (network(x_t + 0.1, t, label), network(x_t, t + 0.1, label), network(x_t, t, label + 1)):
        assert (other - reference).abs().amax() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
def test_items_do_not_see_each_other(name: str) -> None:
    network = awake(NETWORKS[name]())
    x_t, t, label = torch.randn(4, *network.shape), torch.rand(4), torch.tensor([0, 1, 2, 10])
    together = network(x_t, t, label)
    alone = torch.cat([network(x_t[i : i + 1], t[i : i + 1], label[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_null_label_is_the_class_after_the_last_and_a_number_serves_all() -> None:
    network = awake(UNet(shape=(1, 8, 8), channels=(8, 16), patch=1, width=16, classes=10))
    x_t, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    assert torch.equal(network(x_t, t), network(x_t, t, torch.tensor([10, 10, 10])))
    assert torch.equal(network(x_t, t, 4), network(x_t, t, torch.tensor([4, 4, 4])))


def test_label_errors_say_what_mends_them() -> None:
    network = MLPDenoiser(shape=(2,), width=8, classes=3)
    x_t, t = torch.randn(4, 2), torch.rand(4)
    with pytest.raises(BadType, match=r"label\.long\(\)"):
        network(x_t, t, torch.rand(4))
    with pytest.raises(ShapeError, match="for 4 items"):
        network(x_t, t, torch.tensor([1, 2]))
    with pytest.raises(BadValue, match="without classes"):
        MLPDenoiser(shape=(2,), width=8)(x_t, t, torch.tensor([1, 2, 0, 0]))


def test_sizes_are_checked() -> None:
    with pytest.raises(BadValue, match="multiples of 4"):
        UNet(shape=(1, 30, 28), channels=(8, 16), patch=2)
    with pytest.raises(BadValue, match="channels"):
        UNet(channels=(12, 24))
    with pytest.raises(ShapeError, match=r"\[n, 1, 8, 8\]"):
        UNet(shape=(1, 8, 8), channels=(8,), patch=1)(torch.zeros(1, 1, 28, 28), torch.zeros(1))
    with pytest.raises(BadValue, match="at least 1"):
        MLPDenoiser(shape=(), width=8)


def test_every_parameter_of_the_unet_is_used() -> None:
    network = awake(UNet(shape=(1, 8, 8), channels=(8, 16), patch=1, width=16, blocks=2))
    network(torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])).square().sum().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().amax() > 0]
    assert unused == []


def test_classifier_features_and_scores() -> None:
    network = Classifier().eval()
    x = torch.randn(3, 1, 28, 28)
    features = network.features(x)
    assert features.shape == (3, 64)
    assert features.amin() >= 0
    torch.testing.assert_close(network(x), network.score(features))
    with pytest.raises(ShapeError, match="missing axis"):
        network(x[0])


def test_what_the_fine_level_found_passes_by_the_coarse_one() -> None:
    network = awake(UNet(shape=(1, 8, 8), channels=(8, 16), patch=1, width=16))
    torch.nn.init.zeros_(network.shrink[0].weight)  # type: ignore[index, arg-type]
    network(torch.randn(2, 1, 8, 8), torch.rand(2)).square().sum().backward()
    # With the way down cut, the block on the fine level reaches the output by its skip connection alone.
    gradient = network.down[0][0].conv_out.weight.grad  # type: ignore[index, union-attr]
    assert gradient.abs().amax() > 0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize("inner", [{"of": "UNet", "channels": (8,), "patch": 1}, {"of": "MLPDenoiser"}])
def test_what_lies_beside_is_seen(inner: dict[str, Any]) -> None:
    network = Beside((2, 4, 4), sees=("anchor", "noisy"), classes=3, width=8, **inner)
    x_t, t, y, z = torch.randn(5, 2, 4, 4), torch.rand(5), torch.randn(5, 2, 4, 4), torch.randn(5, 2, 4, 4)
    assert torch.equal(network(x_t, t, anchor=y, noisy=z), torch.zeros_like(x_t))
    reference = awake(network)(x_t, t, 1, anchor=y, noisy=z)
    assert reference.shape == x_t.shape
    for other in (network(x_t, t, 1, anchor=z, noisy=y), network(x_t, t, 2, anchor=y, noisy=z)):
        assert (other - reference).abs().amax() > 1e-3
    assert torch.equal(network(x_t, t, 1, noisy=z, anchor=y), reference)


def test_what_is_missing_beside_is_named() -> None:
    network = Beside((1, 4, 4), channels=(8,), patch=1, attention=())
    x_t, t = torch.randn(2, 1, 4, 4), torch.rand(2)
    for given in ({}, {"noisy": x_t}, {"anchor": x_t[:, :, :2]}, {"anchor": x_t, "noisy": x_t}):
        with pytest.raises(ShapeError, match=r"anchor, shaped as x_t"):
            network(x_t, t, **given)
    with pytest.raises(UnknownName, match="UNet"):
        Beside((1, 4, 4), of="Unet")
    with pytest.raises(BadValue, match="chanels"):
        Beside((1, 4, 4), chanels=(8,))
    with pytest.raises(BadValue, match="one keyword"):
        Beside((1, 4, 4), sees=())
