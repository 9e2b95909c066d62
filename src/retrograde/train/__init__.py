"""Training denoisers: the objective for every parameterization, and a loop that can be resumed."""

from retrograde.train.average import PowerAverage, power_gamma
from retrograde.train.compact import compact_path, compact_prior_loss, mean_steps
from retrograde.train.config import TrainConfig
from retrograde.train.controlled import Controlled, controlled
from retrograde.train.exits import fit_exits
from retrograde.train.experts import fit_experts
from retrograde.train.feedback import fit_feedback
from retrograde.train.fit import Trained, fit
from retrograde.train.gate import fit_gate
from retrograde.train.guided_rank import GuidedRank, one_step_loss
from retrograde.train.held_out import held_out_loss
from retrograde.train.levels import (
    LAWS,
    CosMap,
    LevelLaw,
    LogitNormal,
    LogNormalSigma,
    Mode,
    Shifted,
    Uniform,
    level_law,
    standard_law,
)
from retrograde.train.low_rank import LowRank, low_rank
from retrograde.train.noise_classifier import fit_noise_classifier, noise_posterior
from retrograde.train.objective import loss, question
from retrograde.train.observed import Observed, observed, observed_loss, signals
from retrograde.train.pairs import degraded
from retrograde.train.regenerate import regeneration_loss
from retrograde.train.run import export, run
from retrograde.train.scale import easier_target_loss
from retrograde.train.select import Selected, mixed_loss, select_objective
from retrograde.train.standardize import standardized
from retrograde.train.structure import structure, structured_noise
from retrograde.train.wavelets import from_quaternion_wavelets, quaternion_wavelets

__all__ = [
    "LAWS",
    "Controlled",
    "CosMap",
    "GuidedRank",
    "LevelLaw",
    "LogNormalSigma",
    "LogitNormal",
    "LowRank",
    "Mode",
    "Observed",
    "Selected",
    "Shifted",
    "PowerAverage",
    "TrainConfig",
    "Trained",
    "Uniform",
    "compact_path",
    "compact_prior_loss",
    "controlled",
    "degraded",
    "easier_target_loss",
    "export",
    "fit",
    "fit_exits",
    "fit_experts",
    "fit_feedback",
    "fit_gate",
    "fit_noise_classifier",
    "from_quaternion_wavelets",
    "held_out_loss",
    "level_law",
    "loss",
    "low_rank",
    "mean_steps",
    "mixed_loss",
    "noise_posterior",
    "observed",
    "observed_loss",
    "one_step_loss",
    "power_gamma",
    "quaternion_wavelets",
    "question",
    "regeneration_loss",
    "run",
    "select_objective",
    "signals",
    "standard_law",
    "standardized",
    "structure",
    "structured_noise",
]
