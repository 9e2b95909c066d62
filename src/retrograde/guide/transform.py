"""The base class of transforms, where guides look for it."""

from retrograde.denoisers.transform import Transform

__all__ = ["Transform"]
