"""Other people's samplers as plans, and plans as other people's schedulers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from retrograde.interop import schedulers

if TYPE_CHECKING:
    from retrograde.interop import diffusers

__all__ = ["diffusers", "schedulers"]


def __getattr__(name: str) -> object:
    if name == "diffusers":  # loads the package of that name, which takes seconds
        return import_module("retrograde.interop.diffusers")
    raise AttributeError(f"module 'retrograde.interop' has no attribute {name!r}; it has {', '.join(__all__)}")
