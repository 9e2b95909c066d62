"""Embedded data: small enough to ship, real enough to measure on."""

from retrograde.data.digits import SPLITS, digits, digits8

__all__ = ["SPLITS", "digits", "digits8"]
