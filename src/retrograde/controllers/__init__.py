"""Controllers: they decide while a run goes on, and the run returns the table that came of it."""

from retrograde.controllers.embedded import Adaptive, Stalled, adaptive
from retrograde.controllers.evodiff import EVODiff, evodiff
from retrograde.controllers.pairs import Pair, get, names
from retrograde.controllers.step_size import DPM_SOLVER, StepSize

__all__ = ["DPM_SOLVER", "Adaptive", "EVODiff", "Pair", "Stalled", "StepSize", "adaptive", "evodiff", "get", "names"]
