"""From a configuration to a trained model folder."""

from pathlib import Path as FilePath
from typing import Any

import torch

from retrograde import paths
from retrograde.denoisers import Denoiser
from retrograde.errors import BadValue
from retrograde.train.card import card
from retrograde.train.checkpoint import Checkpoint, checkpoint_file, read_average
from retrograde.train.config import TrainConfig
from retrograde.train.fit import Trained, fit, module_of
from retrograde.train.folder import ModelConfig, write_folder
from retrograde.train.held_out import held_out_loss
from retrograde.train.pairs import load_data, named

_BLIND = ("UNet", "MLPDenoiser")
"""Networks that take no anchor."""


def run(config: TrainConfig) -> Trained:
    """Train as the configuration says; leave the averaged model in `config.out`/model.

    `config.out` also receives checkpoint.pt (to resume), log.jsonl and train.json (the configuration).

    Raises UnknownName for data, networks or paths that do not exist, BadValue as `fit` does.
    """
    images, labels, anchors = load_data(config, "train")
    held_out = load_data(config, "test")
    shape = tuple(images.shape[1:])
    denoiser, model = build(config, shape)
    out = FilePath(config.out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint_file(out, config.resume)
    given = labels if config.classes else None

    def test(mean: Denoiser) -> dict[str, float]:
        labels_of, anchors_of = (None if part is None else part[:256] for part in held_out[1:])
        found = held_out_loss(mean, held_out[0][:256], labels_of if config.classes else None, anchors=anchors_of)
        return {f"{sigma:g}": round(value, 6) for sigma, value in found.items()}

    (out / "train.json").write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    trained = fit(denoiser, images, given, config, test, anchors=anchors)
    write_model(config, trained.denoiser, model, Checkpoint(trained.step, trained.seconds, trained.loss), out / "model")
    return trained


def export(run_folder: str | FilePath, into: str | FilePath, command: str | None = None) -> FilePath:
    """Write a model folder from the last checkpoint of a training, which may still be running.

    `command` is what the model card says made the weights (None: as in the configuration).

    Raises BadValue for a folder without train.json and checkpoint.pt.
    """
    run_folder = FilePath(run_folder)
    for name in ("train.json", "checkpoint.pt"):
        if not (run_folder / name).is_file():
            raise BadValue(f"{run_folder} without {name}", "the out folder of a training", "train first")
    config = TrainConfig.model_validate_json((run_folder / "train.json").read_text(encoding="utf-8"))
    if command is not None:
        config = config.model_copy(update={"command": command})
    shape = tuple(load_data(config, "test")[0].shape[1:])
    denoiser, model = build(config, shape)
    at = read_average(run_folder / "checkpoint.pt", module_of(denoiser))
    return write_model(config, denoiser, model, at, FilePath(into))


def write_model(config: TrainConfig, denoiser: Denoiser, model: ModelConfig, at: Checkpoint, into: FilePath) -> FilePath:
    """Write config, weights (as `config.store`) and card of a trained denoiser; return the folder."""
    network = module_of(denoiser).eval()
    images, labels, anchors = load_data(config, "test")
    losses = held_out_loss(denoiser, images, labels if config.classes else None, anchors=anchors)
    parameters = sum(p.numel() for p in network.parameters())
    text = card(config, denoiser, parameters, at, losses)
    return write_folder(into, model, network, text, getattr(torch, config.store))


def build(config: TrainConfig, shape: tuple[int, ...]) -> tuple[Denoiser, ModelConfig]:
    """Build the untrained denoiser of a configuration, seeded by it, and the description its folder will carry."""
    path = paths.from_config({"name": config.path} if isinstance(config.path, str) else config.path)
    kind = str(config.network.get("class", "UNet"))
    arguments = {"shape": list(shape), "classes": config.classes, **config.network}
    arguments.pop("class", None)
    if path.anchored and kind in _BLIND:
        kind, arguments = "Beside", {**arguments, "of": kind}
    make = named(kind, "retrograde.nets", "network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = make(**arguments)
    conditions: dict[str, Any] = {"label": config.classes} if config.classes else {}
    denoiser = Denoiser(
        network,
        path,
        config.predicts,
        shape,
        conditions=conditions,
        sigma_data=config.sigma_data,
        name=config.name,
    )
    described = ModelConfig(
        name=config.name,
        network={"class": kind, **arguments},
        path=path.config(),
        predicts=config.predicts,
        shape=list(shape),
        conditions=conditions,
        sigma_data=config.sigma_data,
    )
    return denoiser, described
