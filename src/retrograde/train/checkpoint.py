"""Where a training stands, written so that it is never half written."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from retrograde.train.average import PowerAverage


@dataclass(frozen=True)
class Checkpoint:
    """Steps done, seconds spent, smoothed loss."""

    step: int
    seconds: float
    loss: float


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
    """Put a checkpoint's state into the network, the optimizer and the average, and return where it stood."""
    state = torch.load(file, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    average.network.load_state_dict(state["average"])
    average.updates = state["updates"]
    return Checkpoint(**state["at"])


def read_average(file: Path, network: nn.Module) -> Checkpoint:
    """Put a checkpoint's averaged parameters into the network, and return where the training stood."""
    state = torch.load(file, weights_only=True)
    network.load_state_dict(state["average"])
    return Checkpoint(**state["at"])
