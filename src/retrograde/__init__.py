"""Retrograde runs generative models backwards in time: from noise to data.

A *path* says how data becomes noise, a *denoiser* predicts the data, a *plan* is a table that says, row by row, where
to look and how to step, and one loop executes it. The names below load what they need when they are first used, so
that `import retrograde` costs milliseconds and never imports torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from retrograde._version import __version__

if TYPE_CHECKING:
    from retrograde import (
        accelerate,
        baselines,
        controllers,
        data,
        denoisers,
        grids,
        guide,
        interop,
        inverse,
        nets,
        operators,
        particles,
        paths,
        quality,
        recipes,
        search,
        sites,
        systems,
        train,
        zoo,
    )
    from retrograde.denoisers import Denoiser, oracles
    from retrograde.plan import Plan, Row
    from retrograde.recipes import plan
    from retrograde.run import run
    from retrograde.sampling import record, sample, steps
    from retrograde.systems import cite
    from retrograde.tune import tune
    from retrograde.zoo import load, models

__all__ = [
    "paths",
    "grids",
    "recipes",
    "denoisers",
    "Denoiser",
    "oracles",
    "guide",
    "controllers",
    "operators",
    "inverse",
    "particles",
    "search",
    "Plan",
    "Row",
    "plan",
    "sample",
    "steps",
    "record",
    "run",
    "tune",
    "sites",
    "accelerate",
    "baselines",
    "load",
    "models",
    "systems",
    "cite",
    "quality",
    "zoo",
    "train",
    "nets",
    "data",
    "interop",
    "__version__",
]

# Where each name lives: "module" for a module, "module:attribute" for what it holds.
_HOMES = {
    "Denoiser": "retrograde.denoisers:Denoiser",
    "oracles": "retrograde.denoisers.oracles",
    "Plan": "retrograde.plan:Plan",
    "Row": "retrograde.plan:Row",
    "plan": "retrograde.recipes:plan",
    "sample": "retrograde.sampling:sample",
    "steps": "retrograde.sampling:steps",
    "record": "retrograde.sampling:record",
    "run": "retrograde.run:run",
    "tune": "retrograde.tune:tune",
    "load": "retrograde.zoo:load",
    "models": "retrograde.zoo:models",
    "cite": "retrograde.systems:cite",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES and name not in __all__:
        raise AttributeError(f"module 'retrograde' has no attribute {name!r}; it has {', '.join(__all__)}")
    module, _, attribute = _HOMES.get(name, f"retrograde.{name}").partition(":")
    value = import_module(module)
    if attribute:
        value = getattr(value, attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Root(ModuleType):
    # Importing a submodule binds it on its package, so `import retrograde.plan` anywhere would replace the function
    # `retrograde.plan` by the module of the same name. Where both exist, the root keeps the function; the module is
    # reached by `from retrograde.plan import ...`.
    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOMES and isinstance(value, ModuleType) and _HOMES[name] != value.__name__:
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root
