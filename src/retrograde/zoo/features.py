"""The classifier folder: the same three files, without a path."""

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from retrograde.errors import BadValue
from retrograde.nets import Classifier
from retrograde.train.folder import read_weights, write_folder


class ClassifierConfig(BaseModel):
    """config.json of a classifier folder. Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str
    classifier: Literal["Classifier"] = "Classifier"
    channels: int = 1
    classes: int = 10
    features: int = 64


def save_classifier(
    network: Classifier, folder: str | Path, config: ClassifierConfig, card: str = "", dtype: torch.dtype | None = None
) -> Path:
    """Write a classifier folder that `load_classifier` reads back; an existing folder is replaced in one move."""
    return write_folder(folder, config, network, card, dtype)


def load_classifier(folder: str | Path) -> Classifier:
    """Read a classifier folder; evaluation mode, float32, no gradients for parameters.

    Raises BadValue for a folder that lacks a file or whose configuration is wrong.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise BadValue(f"{folder}", "a folder with config.json and model.safetensors", "save one with save_classifier")
    try:
        config = ClassifierConfig.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        fields = ", ".join(ClassifierConfig.model_fields)
        raise BadValue(f"{file}: {error.errors()[0]['msg']}", fields, f"correct {file}") from None
    with torch.random.fork_rng(devices=[]):
        network = Classifier(config.channels, config.classes, config.features)
    read_weights(folder, network)
    return network.eval().requires_grad_(False)
