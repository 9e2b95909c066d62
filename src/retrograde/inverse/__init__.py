"""Inverse problems: samples of x given a measurement y = A(x) + noise, with a diffusion model as prior."""

from retrograde.inverse.consistent import sitcom
from retrograde.inverse.ensemble import ensemble
from retrograde.inverse.extrapolated import Extrapolated, extrapolate
from retrograde.inverse.filtering import fps_smc, mcgdiff
from retrograde.inverse.fitted import Levels, energy_score, fit
from retrograde.inverse.gibbs import daps, pnpdm, repaint
from retrograde.inverse.guided import Likelihood, Residual, dps, mmps, pigdm, sda, tmpd
from retrograde.inverse.method import Method, Posed, Solution, Task, get, method, names, solve
from retrograde.inverse.proximal import Proximal, diffpir
from retrograde.inverse.second_order import stsl
from retrograde.inverse.separate import Together, added
from retrograde.inverse.spectral import ddnm, ddnm_plan, ddrm, ddrm_plan
from retrograde.inverse.steered import steer, steered
from retrograde.inverse.twisted import tds
from retrograde.inverse.untrained import Untrained, untrained
from retrograde.inverse.variational import reddiff
from retrograde.inverse.volume import Slices, mbir

__all__ = [
    "solve",
    "Solution",
    "names",
    "get",
    "Method",
    "method",
    "Posed",
    "Task",
    "Likelihood",
    "Residual",
    "Proximal",
    "dps",
    "pigdm",
    "mmps",
    "tmpd",
    "sda",
    "diffpir",
    "ddrm",
    "ddrm_plan",
    "ddnm",
    "ddnm_plan",
    "tds",
    "mcgdiff",
    "Together",
    "added",
    "reddiff",
    "ensemble",
    "daps",
    "pnpdm",
    "repaint",
    "fps_smc",
    "Levels",
    "fit",
    "energy_score",
    "Extrapolated",
    "extrapolate",
    "sitcom",
    "Untrained",
    "untrained",
    "Slices",
    "mbir",
    "stsl",
    "steer",
    "steered",
]
