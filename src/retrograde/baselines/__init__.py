"""Other people's tuners, so that a comparison is one run."""

from retrograde.baselines.olss import olss

__all__ = ["olss"]
