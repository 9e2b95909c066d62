"""The models that fitted plans are judged on, by name, with what they are asked for and what samples should look like.

An embedded model; "mixture64" (see baselines.py); or "digits14", which examples/train_digits14.py trains where its weights
are missing. ":labels" after the name asks for the classes 0..9 in turn, ":guided3" also guides with weight 3; without, the
model is asked for none (its unconditional branch).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import retrograde as rg
from baselines import load as plain
from retrograde import data, zoo
from retrograde.denoisers import AbstractDenoiser

ROOT = Path(__file__).parents[1]
GUIDED = "guided"


def load(model: str) -> AbstractDenoiser:
    """Return a model, guided where its name says so."""
    name, _, asked = model.partition(":")
    denoiser = digits14() if name == "digits14" else plain(name)
    return rg.guide.cfg(denoiser, weight=float(asked.removeprefix(GUIDED))) if asked.startswith(GUIDED) else denoiser


def labels(model: str, n: int) -> list[int] | None:
    """Return the classes asked for, or None."""
    return [i % 10 for i in range(n)] if ":" in model else None


def images(model: str) -> torch.Tensor:
    """Return the training data [n, *shape] of a model."""
    match model.partition(":")[0]:
        case "digits":
            return data.digits("train")[0]
        case "digits14":
            return training().images("train")[0]
        case "mixture64":
            mixture: Any = plain("mixture64")
            return mixture.sample(9000)
    return data.digits8("train")[0]


def features(model: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what Frechet distances are measured on: a classifier's features for 28x28 digits, else the pixels."""
    return zoo.classifier().features if model.partition(":")[0] == "digits" else lambda x: x.flatten(1)


def digits14() -> AbstractDenoiser:
    """Return the network that is set aside, trained first where it was not."""
    weights = ROOT / "runs" / "digits14" / "digits14.pt"
    if not weights.exists():
        training().train(weights.parent)
    return training().denoiser(weights)


def training() -> Any:
    """Return examples/train_digits14.py as a module."""
    spec = importlib.util.spec_from_file_location("train_digits14", ROOT / "examples" / "train_digits14.py")
    if spec is None or spec.loader is None:
        raise SystemExit("examples/train_digits14.py is missing")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
