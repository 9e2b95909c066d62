"""Particles: a batch that is weighed and resampled between the rows of a run."""

from retrograde.particles.increments import factors, target
from retrograde.particles.potential import Potential
from retrograde.particles.resampling import SCHEMES, branched
from retrograde.particles.split import ask_first
from retrograde.particles.start import start_of
from retrograde.particles.weighted import Weighted, log_evidence, log_weights
from retrograde.particles.weights import effective_size, log_mean, normalized, tempered

__all__ = [
    "SCHEMES",
    "Potential",
    "Weighted",
    "ask_first",
    "branched",
    "effective_size",
    "factors",
    "log_evidence",
    "log_mean",
    "log_weights",
    "normalized",
    "start_of",
    "target",
    "tempered",
]
