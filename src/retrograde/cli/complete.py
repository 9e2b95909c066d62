"""Names for shell completion, read without importing what they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from retrograde.cli.steering import GUIDES

_NAMES = Path(__file__).with_name("names.json")
_MODELS = Path(__file__).parents[1] / "zoo" / "models"


def listed(kind: str) -> list[str]:
    """Return the names of a kind ("recipes", "grids") as shipped in names.json; a test holds it to the registries."""
    return list(json.loads(_NAMES.read_text(encoding="utf-8"))[kind])


def write() -> None:
    """Write names.json from the registries: `python -c "from retrograde.cli import complete; complete.write()"`."""
    from retrograde import grids, inverse, operators, recipes

    registries = {"recipes": recipes, "grids": grids, "operators": operators, "methods": inverse}
    content: dict[str, Any] = {kind: list(registry.names()) for kind, registry in registries.items()}
    _NAMES.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def configurations() -> dict[str, dict[str, Any]]:
    """Return the configuration of every embedded denoiser by name (classifiers have no "predicts")."""
    found = {}
    for file in sorted(_MODELS.glob("*/config.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if "predicts" in content and (file.parent / "model.safetensors").is_file():
            found[file.parent.name] = content
    return found


def models(incomplete: str) -> list[str]:
    """Complete a model: embedded names, and folders."""
    near = [name for name in configurations() if name.startswith(incomplete)]
    return near + [f"{folder}/" for folder in sorted(Path().glob(f"{incomplete}*")) if folder.is_dir()]


def recipes(incomplete: str) -> list[str]:
    """Complete the last of some recipes, separated by commas."""
    return _last(incomplete, listed("recipes"))


def grids(incomplete: str) -> list[str]:
    """Complete the last of some grids, separated by commas."""
    return _last(incomplete, listed("grids"))


def operators(incomplete: str) -> list[str]:
    """Complete an operator's name; its settings follow a colon."""
    return [name for name in listed("operators") if name.startswith(incomplete)]


def methods(incomplete: str) -> list[str]:
    """Complete a method for inverse problems."""
    return [name for name in listed("methods") if name.startswith(incomplete)]


def guides(incomplete: str) -> list[str]:
    """Complete a guide's name; its settings follow a colon."""
    return [name for name in GUIDES if name.startswith(incomplete)]


def _last(incomplete: str, names: list[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in names if name.startswith(last)]
