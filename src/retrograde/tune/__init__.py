"""Fitting plans to one denoiser and one budget."""

from retrograde.tune.contest import Entry, Reference, plans, race
from retrograde.tune.teacher import Teacher, teach
from retrograde.tune.tuner import EFFORTS, Effort, tune

__all__ = ["EFFORTS", "Effort", "Entry", "Reference", "Teacher", "plans", "race", "teach", "tune"]
