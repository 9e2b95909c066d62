"""Transforms that steer: from denoiser to denoiser."""

from retrograde.guide.cfg import ClassifierFree, cfg

__all__ = ["ClassifierFree", "cfg"]
