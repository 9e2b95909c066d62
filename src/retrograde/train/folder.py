"""The folder a model lives in: config.json, model.safetensors, README.md."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from retrograde.errors import BadValue
from retrograde.train.config import Target


class ModelConfig(BaseModel):
    """config.json of a model folder. Unknown fields are errors.

    `network` holds "class" and the keywords it is built with; `path` is `Path.config()`; `conditions` maps each keyword
    of the network to its null value; `shape` is that of one item.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    name: str
    network: dict[str, Any]
    path: dict[str, Any]
    predicts: Target
    shape: list[int]
    conditions: dict[str, Any] = Field(default_factory=dict)
    sigma_data: float = Field(default=0.5, gt=0)


def write_folder(
    folder: str | Path,
    config: BaseModel,
    network: nn.Module,
    card: str = "",
    dtype: torch.dtype | None = None,
) -> Path:
    """Write a model folder, as a whole or not at all; an existing one is replaced.

    Weights are stored as they are, or as `dtype`.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        weights = {
            name: (value.to(dtype) if dtype and value.is_floating_point() else value).contiguous()
            for name, value in network.state_dict().items()
        }
        save_file(weights, beside / "model.safetensors")
        (beside / "model.safetensors").chmod(0o644)
        (beside / "config.json").write_text(json.dumps(config.model_dump(), indent=2) + "\n", encoding="utf-8")
        (beside / "README.md").write_text(card or f"# {folder.name}\n", encoding="utf-8")
        beside.chmod(0o755)
        if folder.exists():
            old = beside.with_name(beside.name + "-old")
            os.replace(folder, old)
            os.replace(beside, folder)
            shutil.rmtree(old)
        else:
            os.replace(beside, folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return folder


def read_config(folder: str | Path) -> ModelConfig:
    """Read and check config.json.

    Raises BadValue for a folder without one, and for fields that are missing, unknown or of the wrong kind.
    """
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise BadValue(f"{folder}", "a folder with config.json and model.safetensors", "save one with zoo.save")
    try:
        return ModelConfig.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise BadValue(f"{file}: {wrong}", ", ".join(ModelConfig.model_fields), f"correct {file}") from None


def read_weights(folder: str | Path, network: nn.Module) -> None:
    """Load model.safetensors into the network, in the network's own dtype.

    Raises BadValue where the file is missing or its tensors are not those of the network.
    """
    file = Path(folder) / "model.safetensors"
    if not file.is_file():
        raise BadValue(f"{folder} without model.safetensors", "a complete model folder", "save it again with zoo.save")
    try:
        network.load_state_dict(load_file(file))
    except RuntimeError as error:
        allowed = f"the tensors of {type(network).__name__} as config.json builds it"
        raise BadValue(f"{file}: {error}", allowed, "correct 'network' in config.json") from None
