"""Transforms that steer: from denoiser to denoiser."""

from retrograde.guide.adaptive import Adaptive, adaptive
from retrograde.guide.aggregate import Aggregated, aggregate
from retrograde.guide.aggregator import Aggregator
from retrograde.guide.apg import Projected, apg
from retrograde.guide.autoguide import Autoguided, autoguide
from retrograde.guide.bands import Banded, bands
from retrograde.guide.branches import TwoBranches
from retrograde.guide.cfg import ClassifierFree, cfg
from retrograde.guide.cfgpp import cfgpp
from retrograde.guide.compose import Composed, compose
from retrograde.guide.descend import Descended, descend
from retrograde.guide.experts import experts
from retrograde.guide.first import FirstNetwork, first_network
from retrograde.guide.high_frequency import high_frequency
from retrograde.guide.interval import Within, interval
from retrograde.guide.linear import LinearlyGuided, fit_linear, linear, policy
from retrograde.guide.model_based import ModelBased, model_based
from retrograde.guide.pag import Perturbed, pag
from retrograde.guide.powers import Powers, anneal, product
from retrograde.guide.regions import Regional, discs, regions
from retrograde.guide.rescale import Rescaled, rescale
from retrograde.guide.residual import Residual, residual
from retrograde.guide.superpose import EqualDensity, Superposed, log_densities, superpose
from retrograde.guide.threshold import Thresholded, threshold
from retrograde.guide.tilt import Tilted, classifier, loss
from retrograde.guide.time_shift import TimeShifted, shift_time
from retrograde.guide.transform import Transform
from retrograde.guide.weight import Weight
from retrograde.guide.windows import Windowed, interpolated, windows

__all__ = [
    "Adaptive",
    "Aggregated",
    "Aggregator",
    "Autoguided",
    "Banded",
    "ClassifierFree",
    "Composed",
    "Descended",
    "EqualDensity",
    "FirstNetwork",
    "LinearlyGuided",
    "ModelBased",
    "Perturbed",
    "Powers",
    "Projected",
    "Regional",
    "Rescaled",
    "Residual",
    "Superposed",
    "Thresholded",
    "Tilted",
    "TimeShifted",
    "Transform",
    "TwoBranches",
    "Weight",
    "Windowed",
    "Within",
    "adaptive",
    "aggregate",
    "anneal",
    "apg",
    "autoguide",
    "bands",
    "cfg",
    "cfgpp",
    "classifier",
    "compose",
    "descend",
    "discs",
    "experts",
    "first_network",
    "fit_linear",
    "high_frequency",
    "interpolated",
    "interval",
    "linear",
    "log_densities",
    "loss",
    "model_based",
    "pag",
    "policy",
    "product",
    "regions",
    "rescale",
    "residual",
    "shift_time",
    "superpose",
    "threshold",
    "windows",
]
