"""Fitting plans to one denoiser and one budget."""

from retrograde.tune.blend import blend
from retrograde.tune.contest import Entry, Reference, plans, race
from retrograde.tune.effort import EFFORTS, Effort
from retrograde.tune.few_steps import FEW_STEPS, Settings, few_steps, search_few_steps
from retrograde.tune.polish import Features, Sliced, distance, polish
from retrograde.tune.stochastic import stochastic
from retrograde.tune.study import published, study
from retrograde.tune.teacher import Teacher, teach
from retrograde.tune.tuner import tune
from retrograde.tune.universal import Universal, universal

__all__ = [
    "EFFORTS",
    "FEW_STEPS",
    "Effort",
    "Entry",
    "Features",
    "Reference",
    "Settings",
    "Sliced",
    "Teacher",
    "Universal",
    "blend",
    "distance",
    "few_steps",
    "plans",
    "polish",
    "published",
    "race",
    "search_few_steps",
    "stochastic",
    "study",
    "teach",
    "tune",
    "universal",
]
