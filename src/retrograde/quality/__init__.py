"""How good are samples: distances between laws, errors between pairs, and the counts each figure rests on.

Every figure is computed in float64, takes any feature function (items [n, ...] to features [n, ...]; None measures the
items themselves), and comes as a `Figure` that carries its sample counts.
"""

from __future__ import annotations

from retrograde.quality.figure import Figure
from retrograde.quality.frechet import frechet_distance, frechet_from_moments
from retrograde.quality.kernel import TwoSampleTest, kernel_distance, mmd_test
from retrograde.quality.manifold import density_coverage, precision_recall
from retrograde.quality.paired import PairedError, bootstrap, paired_error
from retrograde.quality.spectrum import PowerSpectrum, power_spectrum, spectrum_distance, variance_ratio
from retrograde.quality.summary import report
from retrograde.quality.transport import energy_distance, sliced_wasserstein

__all__ = [
    "Figure",
    "report",
    "frechet_distance",
    "frechet_from_moments",
    "kernel_distance",
    "mmd_test",
    "TwoSampleTest",
    "sliced_wasserstein",
    "energy_distance",
    "precision_recall",
    "density_coverage",
    "paired_error",
    "PairedError",
    "bootstrap",
    "variance_ratio",
    "power_spectrum",
    "PowerSpectrum",
    "spectrum_distance",
]
