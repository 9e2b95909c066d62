"""What a transform remembers from one evaluation to the next; the run carries it, so that no object does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

CARRIED = "carried"
"""Knob under which a run hands back what the last predictions left, by name; no row has it and no part consumes it."""

BRANCHES = "branches"
"""Knob under which is said how many branches a batch holds, one after another; no row has it and no part consumes it."""


def carried(knobs: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """Return what the last evaluations of this run left."""
    return knobs.get(CARRIED, {})


def into(knobs: Mapping[str, Any], branches: Sequence[str]) -> dict[str, Any]:
    """Return the knobs for the branches evaluated together: what each of them left, joined along the batch.

    What a branch leaves is kept under "branch/name", so that transforms inside branches remember for each its own.
    """
    held = carried(knobs)
    passed = {name: value for name, value in knobs.items() if name != CARRIED}
    first = f"{branches[0]}/"
    names = [name.removeprefix(first) for name in held if name.startswith(first)]
    joined = {name: torch.cat([held[f"{branch}/{name}"] for branch in branches]) for name in names}
    return passed | ({CARRIED: joined} if joined else {})


def out_of(left: Mapping[str, Tensor], branches: Sequence[str]) -> list[dict[str, Tensor]]:
    """Return for each branch what it left, of what they left together."""
    parts = {name: tensor.chunk(len(branches)) for name, tensor in left.items()}
    return [{f"{branch}/{name}": part[place] for name, part in parts.items()} for place, branch in enumerate(branches)]
