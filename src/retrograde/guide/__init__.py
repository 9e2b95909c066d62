"""Transforms that steer: from denoiser to denoiser."""

from retrograde.guide.cfg import ClassifierFree, cfg
from retrograde.guide.first import FirstNetwork, first_network
from retrograde.guide.threshold import Thresholded, threshold
from retrograde.guide.time_shift import TimeShifted, shift_time
from retrograde.guide.transform import Transform

__all__ = [
    "ClassifierFree",
    "FirstNetwork",
    "Thresholded",
    "TimeShifted",
    "Transform",
    "cfg",
    "first_network",
    "shift_time",
    "threshold",
]
