"""The loop: bit-identical resumption, seeds, dropped labels, refusals, and that it learns."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from retrograde import paths
from retrograde.denoisers import Denoiser
from retrograde.denoisers.oracles import Gaussian
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.train import TrainConfig, export, fit, held_out_loss, run
from retrograde.train.fit import drop, learning_rate
from retrograde.train.run import build

TINY = {
    "data": "digits8",
    "network": {"class": "UNet", "channels": [8], "patch": 2, "width": 8, "attention": [], "dropout": 0.2},
    "batch": 8,
    "warmup": 2,
    "log_every": 1,
    "progress": False,
}


def weights(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    return denoiser.network.state_dict()  # type: ignore[attr-defined]


def small(out: Path, steps: int, images: torch.Tensor, **changes: object) -> Denoiser:
    config = TrainConfig(**{**TINY, "out": str(out), "steps": 6, **changes})  # type: ignore[arg-type]
    denoiser, _ = build(config, (1, 8, 8))
    if steps < config.steps:
        # Stop after `steps` steps the way an interruption does: through the data, in the middle of a step.
        with pytest.raises(KeyboardInterrupt):
            fit(denoiser, images, Interrupting(steps), config)  # type: ignore[arg-type]
        return denoiser
    return fit(denoiser, images, torch.arange(len(images)) % 10, config).denoiser


class Interrupting:
    """Labels that raise KeyboardInterrupt when they are read for the (steps + 1)-th time."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __getitem__(self, chosen: torch.Tensor) -> torch.Tensor:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return (torch.arange(20) % 10)[chosen]


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_resumed_training_is_the_uninterrupted_one(tmp_path: Path, images: torch.Tensor) -> None:
    whole = small(tmp_path / "whole", 6, images)
    small(tmp_path / "parts", 3, images, save_every=1e-9)
    torch.rand(7)  # what others draw in between must not matter
    parts = small(tmp_path / "parts", 6, images, resume=True)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]


def test_steps_after_the_last_checkpoint_are_done_and_logged_again(tmp_path: Path, images: torch.Tensor) -> None:
    whole = small(tmp_path / "whole", 6, images)
    small(tmp_path / "parts", 3, images, save_every=1e9)
    parts = small(tmp_path / "parts", 6, images, resume=True)
    assert all(torch.equal(value, weights(parts)[name]) for name, value in weights(whole).items())
    log = [json.loads(line) for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [1, 2, 3, 4, 5, 6]


def test_same_seed_same_weights_other_seed_other_weights(tmp_path: Path, images: torch.Tensor) -> None:
    first = small(tmp_path / "a", 6, images)
    again = small(tmp_path / "b", 6, images)
    other = small(tmp_path / "c", 6, images, seed=1)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert not torch.equal(weights(first)["enter.weight"], weights(other)["enter.weight"])


def test_training_leaves_the_global_generator_alone(tmp_path: Path, images: torch.Tensor) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    small(tmp_path, 6, images)
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_is_not_overwritten_by_accident(tmp_path: Path, images: torch.Tensor) -> None:
    small(tmp_path, 6, images)
    with pytest.raises(BadValue, match="resume=True"):
        small(tmp_path, 6, images)


def test_refused_training_leaves_the_record_of_the_first(tmp_path: Path) -> None:
    config = TrainConfig(**{**TINY, "out": str(tmp_path), "steps": 1})  # type: ignore[arg-type]
    run(config)
    before = (tmp_path / "train.json").read_text()
    with pytest.raises(BadValue, match="resume=True"):
        run(config.model_copy(update={"lr": 0.5}))
    assert (tmp_path / "train.json").read_text() == before


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, images: torch.Tensor) -> None:
    small(tmp_path, 6, images)
    with pytest.raises(BadValue, match=r"train\.json"):
        small(tmp_path, 6, images, resume=True, network={**TINY["network"], "channels": [16]})  # type: ignore[dict-item]


def test_time_limit_stops_with_a_checkpoint(tmp_path: Path, images: torch.Tensor) -> None:
    config = TrainConfig(**{**TINY, "out": str(tmp_path), "steps": 10**6, "seconds": 0.3})  # type: ignore[arg-type]
    denoiser, _ = build(config, (1, 8, 8))
    trained = fit(denoiser, images, None, config)
    assert 0 < trained.step < 10**6
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["at"]["step"] == trained.step


def test_labels_are_dropped_with_the_stated_probability() -> None:
    labels = torch.arange(10).repeat(2000)
    dropped = drop(labels, 10, 0.1, torch.Generator().manual_seed(0))
    share = (dropped == 10).double().mean()
    assert abs(share - 0.1) < 4 * (0.09 / 20000) ** 0.5
    assert torch.equal(dropped[dropped != 10], labels[dropped != 10])
    assert torch.equal(drop(labels, 10, 0.0, torch.Generator()), labels)


def test_learning_rate_ramps_up_and_falls_to_zero() -> None:
    config = TrainConfig(steps=1000, warmup=100, lr=2.0)
    assert learning_rate(0, config) == pytest.approx(0.02, rel=1e-3)
    assert learning_rate(500, config) == pytest.approx(1.0)
    assert learning_rate(1000, config) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("path", "predicts"), [("edm", "edm"), ("flow", "velocity"), ("vp_cosine", "noise")])
def test_it_learns_a_point_mass(tmp_path: Path, path: str, predicts: str) -> None:
    # Data at one point: the denoiser must say that point wherever it is asked, within what 400 steps reach.
    config = TrainConfig(
        path=path,
        predicts=predicts,  # type: ignore[arg-type]
        network={"class": "MLPDenoiser", "width": 32, "depth": 2},
        classes=0,
        steps=400,
        batch=64,
        lr=5e-3,
        warmup=20,
        out=str(tmp_path),
        progress=False,
    )
    denoiser, _ = build(config, (2,))
    images = torch.tensor([[0.5, -0.3]]).expand(64, 2).contiguous()
    trained = fit(denoiser, images, None, config).denoiser
    assert held_out_loss(trained, images, sigmas=(0.3, 1.0))[1.0] < 0.1 * 0.17


def test_held_out_loss_of_the_exact_denoiser_is_the_posterior_variance() -> None:
    oracle = Gaussian(paths.VP(), torch.zeros(4), 0.25)
    images = 0.5 * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(1))
    for sigma, value in held_out_loss(oracle, images, sigmas=(0.1, 1.0, 10.0)).items():
        assert value == pytest.approx(0.25 * sigma**2 / (0.25 + sigma**2), rel=0.02)


def test_run_leaves_a_model_folder_and_export_writes_it_again(tmp_path: Path) -> None:
    config = TrainConfig(**{**TINY, "out": str(tmp_path / "run"), "steps": 2, "store": "float16", "name": "tiny"})  # type: ignore[arg-type]
    trained = run(config)
    assert trained.step == 2
    folder = tmp_path / "run" / "model"
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert "| 0.5 |" in (folder / "README.md").read_text()
    again = export(tmp_path / "run", tmp_path / "again", command="my command")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "my command" in (again / "README.md").read_text()
    with pytest.raises(BadValue, match=r"train\.json"):
        export(tmp_path, tmp_path / "again")


def test_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainConfig(step=3)  # type: ignore[call-arg]
    with pytest.raises(UnknownName, match="did you mean 'digits'"):
        run(TrainConfig(data="digit", out=str(tmp_path)))
    with pytest.raises(BadValue, match="package.module:name"):
        run(TrainConfig(data="nowhere.to:find", out=str(tmp_path)))
    with pytest.raises(UnknownName, match="UNet"):
        run(TrainConfig(network={"class": "Unet"}, out=str(tmp_path)))
    closed_form = Denoiser(lambda x, t: x, paths.VP(), "data", (1,))
    with pytest.raises(BadType, match="Module"):
        fit(closed_form, torch.zeros(2, 1), None, TrainConfig(out=str(tmp_path)))
