"""Other people's samplers as plans."""

from retrograde.interop import schedulers

__all__ = ["schedulers"]
