"""Where a training stands, written so that it is never half written."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from retrograde.errors import BadValue
from retrograde.train.average import PowerAverage


@dataclass(frozen=True)
class Checkpoint:
    """Steps done, seconds spent, smoothed loss."""

    step: int
    seconds: float
    loss: float


def checkpoint_file(out: str | Path, resume: bool) -> Path:
    """Return the file of the checkpoint in a folder.

    Raises BadValue where it exists and the training is not to be resumed, so that no training is lost by accident.
    """
    file = Path(out) / "checkpoint.pt"
    if file.exists() and not resume:
        raise BadValue(f"{file} exists", "an empty folder, or resume", "pass resume=True, or another out folder")
    return file


def write_checkpoint(
    file: Path, at: Checkpoint, network: nn.Module, optimizer: torch.optim.Optimizer, average: PowerAverage
) -> None:
    """Write everything needed to go on: first beside the file, then in its place in one move."""
    state = {
        "at": asdict(at),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.network.state_dict(),
        "updates": average.updates,
    }
    beside = file.with_name(file.name + ".part")
    torch.save(state, beside)
    os.replace(beside, file)


def read_checkpoint(file: Path, network: nn.Module, optimizer: torch.optim.Optimizer, average: PowerAverage) -> Checkpoint:
    """Put a checkpoint's state into the network, the optimizer and the average, and return where it stood.

    Raises BadValue where the checkpoint is of another network.
    """
    state = torch.load(file, weights_only=True)
    try:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        average.network.load_state_dict(state["average"])
    except (RuntimeError, ValueError) as error:
        raise BadValue(
            f"{file}: {error}", "the checkpoint of the same network", "resume with the configuration in train.json"
        ) from None
    average.updates = state["updates"]
    return Checkpoint(**state["at"])


def read_average(file: Path, network: nn.Module) -> Checkpoint:
    """Put a checkpoint's averaged parameters into the network, and return where the training stood."""
    state = torch.load(file, weights_only=True)
    network.load_state_dict(state["average"])
    return Checkpoint(**state["at"])
