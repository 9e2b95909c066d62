"""Published solvers: each recipe is a compiler of plans."""

from retrograde.recipes import ddim, deis, dpm_solver, dpmpp, euler, ipndm, unipc
from retrograde.recipes.recipe import Level, Recipe, get, level, names, plan, recipe

__all__ = [
    "Level",
    "Recipe",
    "ddim",
    "deis",
    "dpm_solver",
    "dpmpp",
    "euler",
    "get",
    "ipndm",
    "level",
    "names",
    "plan",
    "recipe",
    "unipc",
]
