"""Transforms that steer: from denoiser to denoiser."""

from retrograde.guide.branches import TwoBranches
from retrograde.guide.cfg import ClassifierFree, cfg
from retrograde.guide.first import FirstNetwork, first_network
from retrograde.guide.interval import Within, interval
from retrograde.guide.rescale import Rescaled, rescale
from retrograde.guide.threshold import Thresholded, threshold
from retrograde.guide.time_shift import TimeShifted, shift_time
from retrograde.guide.transform import Transform
from retrograde.guide.weight import Weight

__all__ = [
    "ClassifierFree",
    "FirstNetwork",
    "Rescaled",
    "Thresholded",
    "TimeShifted",
    "Transform",
    "TwoBranches",
    "Weight",
    "Within",
    "cfg",
    "first_network",
    "interval",
    "rescale",
    "shift_time",
    "threshold",
]
