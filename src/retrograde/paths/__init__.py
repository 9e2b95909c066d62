"""How data becomes noise: the forward processes."""

from retrograde.paths.anchored import OrnsteinUhlenbeck, ResidualDenoising, ResidualShift
from retrograde.paths.diffusion import EDM, VE, VP, PFGMpp, SubVP, VPCosine, VPDiscrete, from_alphas_cumprod
from retrograde.paths.fractional import Fractional, MarkovFractional
from retrograde.paths.interpolant import Flow, Trigonometric
from retrograde.paths.kinetic import kinetic_energy, kinetic_optimal
from retrograde.paths.over import MeanReverting, Offset, ResidualNoise, mean_reverting_cosine, residual_noise_linear
from retrograde.paths.path import Path, checked, from_config, get, names
from retrograde.paths.quantiles import resolution_shift
from retrograde.paths.tabulated import Tabulated
from retrograde.paths.two_sided import Interpolant

__all__ = [
    "EDM",
    "VE",
    "VP",
    "Flow",
    "Interpolant",
    "Fractional",
    "MarkovFractional",
    "MeanReverting",
    "Offset",
    "OrnsteinUhlenbeck",
    "PFGMpp",
    "Path",
    "ResidualDenoising",
    "ResidualNoise",
    "ResidualShift",
    "SubVP",
    "Tabulated",
    "Trigonometric",
    "VPCosine",
    "VPDiscrete",
    "checked",
    "from_alphas_cumprod",
    "from_config",
    "get",
    "kinetic_energy",
    "kinetic_optimal",
    "mean_reverting_cosine",
    "names",
    "residual_noise_linear",
    "resolution_shift",
]
