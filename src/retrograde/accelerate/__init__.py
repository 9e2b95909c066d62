"""Policies that reuse what a network computed before: transforms of the denoiser and columns of a plan."""

from retrograde.accelerate.deepcache import DeepCache, deepcache
from retrograde.accelerate.schedule import centred, every, reuse

__all__ = ["DeepCache", "centred", "deepcache", "every", "reuse"]
