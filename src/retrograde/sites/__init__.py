"""Places inside a network that can be read, replaced and reused, and the books of what that spared."""

from retrograde.sites.cost import Cost, cost
from retrograde.sites.doors import ROOT, Call, Tap, opened
from retrograde.sites.find import find
from retrograde.sites.kept import Entry, Kept, Like, filled, outline
from retrograde.sites.ledger import Book, counted, timed
from retrograde.sites.operators import Operators, Profile, Step, kind_of, profile
from retrograde.sites.places import Block, Ladder, Places, chain, matching
from retrograde.sites.within import REUSE, Policy, Visit, Within, network_of, places_of, within

__all__ = [
    "REUSE",
    "ROOT",
    "Block",
    "Book",
    "Call",
    "Cost",
    "Entry",
    "Kept",
    "Ladder",
    "Like",
    "Operators",
    "Places",
    "Policy",
    "Profile",
    "Step",
    "Tap",
    "Visit",
    "Within",
    "chain",
    "cost",
    "counted",
    "filled",
    "find",
    "kind_of",
    "matching",
    "network_of",
    "opened",
    "outline",
    "places_of",
    "profile",
    "timed",
    "within",
]
