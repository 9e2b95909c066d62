"""What predicts: predictions, the network adapter, oracles in closed form."""

from retrograde.denoisers.by_level import ByLevel
from retrograde.denoisers.convert import OnPath, on_path
from retrograde.denoisers.coupled import Coupled, TwoHeads
from retrograde.denoisers.denoiser import (
    AbstractDenoiser,
    Denoiser,
    checked_denoiser,
    predict_branches,
    prepare_condition,
)
from retrograde.denoisers.error import mmse
from retrograde.denoisers.own_times import AtOwnTimes
from retrograde.denoisers.prediction import KINDS, Prediction
from retrograde.denoisers.transform import Transform
from retrograde.denoisers.two_networks import TwoNetworks

__all__ = [
    "KINDS",
    "AbstractDenoiser",
    "AtOwnTimes",
    "ByLevel",
    "Coupled",
    "Denoiser",
    "OnPath",
    "Prediction",
    "Transform",
    "TwoHeads",
    "TwoNetworks",
    "checked_denoiser",
    "mmse",
    "on_path",
    "predict_branches",
    "prepare_condition",
]
