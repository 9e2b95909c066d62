"""Controllers: they decide while a run goes on, and the run returns the table that came of it."""

from retrograde.controllers.denoising_mcmc import LangevinGibbs, Levels, denoising_mcmc
from retrograde.controllers.embedded import Adaptive, Stalled, adaptive
from retrograde.controllers.evodiff import EVODiff, evodiff
from retrograde.controllers.pairs import Pair, get, names
from retrograde.controllers.replacement import Replacement, replacement
from retrograde.controllers.replicas import Replicas, Tempered, parallel_tempering
from retrograde.controllers.step_size import DPM_SOLVER, StepSize

__all__ = [
    "Adaptive",
    "DPM_SOLVER",
    "EVODiff",
    "LangevinGibbs",
    "Levels",
    "Pair",
    "Replacement",
    "Replicas",
    "Stalled",
    "StepSize",
    "Tempered",
    "adaptive",
    "denoising_mcmc",
    "evodiff",
    "get",
    "names",
    "parallel_tempering",
    "replacement",
]
