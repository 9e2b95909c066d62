"""More compute at inference: a verifier chooses among runs, their starts and their branches."""

from retrograde.search.boundary import Boundary, boundary
from retrograde.search.budget import rollover
from retrograde.search.gradient import ascend
from retrograde.search.noises import random, zero_order
from retrograde.search.policy import Policy, learn
from retrograde.search.renoised import over_paths
from retrograde.search.trials import Found, Trials, Verifier, best, standing

__all__ = [
    "Boundary",
    "Found",
    "Policy",
    "Trials",
    "Verifier",
    "ascend",
    "best",
    "boundary",
    "learn",
    "over_paths",
    "random",
    "rollover",
    "standing",
    "zero_order",
]
