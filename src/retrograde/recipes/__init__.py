"""Published solvers: each recipe is a compiler of plans."""

from retrograde.recipes import (
    ancestral,
    consistency,
    ddim,
    deis,
    dpm_solver,
    dpmpp,
    dpmpp_sde,
    er_sde,
    euler,
    ipndm,
    momentum,
    pndm,
    sa_solver,
    unipc,
)
from retrograde.recipes.recipe import Level, Recipe, get, level, names, plan, recipe

__all__ = [
    "Level",
    "Recipe",
    "ancestral",
    "consistency",
    "ddim",
    "deis",
    "dpm_solver",
    "dpmpp",
    "dpmpp_sde",
    "er_sde",
    "euler",
    "get",
    "ipndm",
    "level",
    "momentum",
    "names",
    "plan",
    "pndm",
    "recipe",
    "sa_solver",
    "unipc",
]
