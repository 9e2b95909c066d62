"""Transforms that steer: from denoiser to denoiser."""

from retrograde.guide.cfg import ClassifierFree, cfg
from retrograde.guide.threshold import Thresholded, threshold
from retrograde.guide.transform import Transform

__all__ = ["ClassifierFree", "Thresholded", "Transform", "cfg", "threshold"]
