"""Other people's tuners, so that a comparison is one run."""

from retrograde.baselines.amed import amed
from retrograde.baselines.auto_diffusion import auto_diffusion
from retrograde.baselines.dc_solver import dc_solver
from retrograde.baselines.dmn import dmn
from retrograde.baselines.evolution import Evolution, evolve
from retrograde.baselines.gits import gits
from retrograde.baselines.ld3 import ld3
from retrograde.baselines.olss import olss
from retrograde.baselines.pas import Directions, pas
from retrograde.baselines.s3 import Rounds, s3
from retrograde.baselines.s4s import bns, s4s

__all__ = [
    "Directions",
    "Evolution",
    "Rounds",
    "amed",
    "auto_diffusion",
    "bns",
    "dc_solver",
    "dmn",
    "evolve",
    "gits",
    "ld3",
    "olss",
    "pas",
    "s3",
    "s4s",
]
