"""The embedded models: they load, they are small, they denoise digits they never saw, and their cards say so."""

from pathlib import Path

import pytest
import torch

from retrograde import data, paths, zoo
from retrograde.errors import UnknownName
from retrograde.train import held_out_loss
from retrograde.train.classify import accuracy

FOLDER = Path(zoo.__file__).with_name("models")

# Data set, parameterization, path, and the most that the denoising loss may be on 500 held-out items at each sigma.
EMBEDDED = {
    "digits": (data.digits, "edm", "edm", {0.05: 0.0004, 0.2: 0.0037, 0.5: 0.0128, 1.0: 0.032, 5.0: 0.17}),
    "digits8-noise": (data.digits8, "noise", "vp_discrete", {0.05: 0.0008, 0.2: 0.0075, 0.5: 0.025, 1.0: 0.046}),
    "digits8-flow": (data.digits8, "velocity", "flow", {0.05: 0.0008, 0.2: 0.0075, 0.5: 0.025, 1.0: 0.046, 5.0: 0.07}),
}


def test_names() -> None:
    assert set(zoo.models()) == set(EMBEDDED)


def test_weights_are_small() -> None:
    sizes = {file.parent.name: file.stat().st_size for file in FOLDER.glob("*/model.safetensors")}
    assert sum(sizes.values()) <= 6e6
    assert sizes["digits-classifier"] <= 0.5e6
    assert sizes["digits8-noise"] <= 0.7e6
    assert sizes["digits8-flow"] <= 0.7e6


@pytest.mark.parametrize("name", EMBEDDED)
def test_held_out_denoising_loss(name: str) -> None:
    load, predicts, path, most = EMBEDDED[name]
    denoiser = zoo.load(name)
    assert (denoiser.name, denoiser.predicts, denoiser.path.name) == (name, predicts, path)
    images, labels = load("test")
    images, labels = images[:500], labels[:500]
    assert denoiser.shape == tuple(images.shape[1:])
    assert dict(denoiser.conditions) == {"label": 10}
    found = held_out_loss(denoiser, images, labels, sigmas=tuple(most))
    assert {sigma: value for sigma, value in found.items() if value > most[sigma]} == {}
    # The null condition knows less, a wrong label knows worse; both still denoise.
    null = held_out_loss(denoiser, images, None, sigmas=(1.0,))[1.0]
    wrong = held_out_loss(denoiser, images, (labels + 1) % 10, sigmas=(1.0,))[1.0]
    assert found[1.0] < null < wrong
    assert null < 1.5 * most[1.0]


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_model_has_a_card(name: str) -> None:
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    for word in ("CC BY-SA", "examples/train_", "steps", "parameters", "| sigma | loss |"):
        assert word in card


def test_embedded_noise_model_is_told_the_index_of_its_step() -> None:
    denoiser = zoo.load("digits8-noise")
    assert isinstance(denoiser.path, paths.VPDiscrete)
    assert len(denoiser.path.alphas_cumprod) == 1000
    assert denoiser.network_time(0.001) == 0.0
    assert denoiser.network_time(1.0) == 999.0


def test_classifier_knows_held_out_digits() -> None:
    images, labels = data.digits("test")
    network = zoo.classifier()
    assert accuracy(network, images, labels) >= 0.97
    features = network.features(images[:200])
    assert features.shape == (200, 64)
    # No dead features: each answers to some digit.
    assert (features.amax(0) > 0).double().mean() > 0.5


def test_unknown_name_lists_the_near_ones() -> None:
    with pytest.raises(UnknownName, match="did you mean 'digits'") as caught:
        zoo.load("digist")
    assert all(name in str(caught.value) for name in EMBEDDED)


def test_loading_does_not_change_the_random_state_of_the_caller() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    zoo.load("digits8-flow")
    zoo.classifier()
    assert torch.equal(torch.rand(2), expected)
