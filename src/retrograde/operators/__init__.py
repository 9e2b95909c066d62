"""Measurements y = A(x) + noise: operators with their adjoints and inverses, and the noise."""

from retrograde.operators.convolve import Kernel, kernel_blur, motion_blur
from retrograde.operators.fourier import Fourier, fourier
from retrograde.operators.function import from_deepinv, function
from retrograde.operators.joined import compose, stack, then
from retrograde.operators.mask import Mask, mask
from retrograde.operators.matrices import Matrix, Sparse, compressed, radon, sensors
from retrograde.operators.measurement import Measurement, measure, stack_measurements
from retrograde.operators.noise import GaussianNoise, ImpulseNoise, NoiseModel, PoissonNoise, noise_of
from retrograde.operators.nonlinear import curved_blur, hdr, jpeg, phase
from retrograde.operators.operator import Linear, Operator, Spectrum, conjugate_gradients, spectrum_of
from retrograde.operators.registry import Entry, get, make, names
from retrograde.operators.separable import Separable, blur, down, grey
from retrograde.operators.slices import Slicewise, slices

__all__ = [
    "Operator",
    "Linear",
    "Spectrum",
    "Measurement",
    "measure",
    "stack_measurements",
    "NoiseModel",
    "GaussianNoise",
    "PoissonNoise",
    "ImpulseNoise",
    "noise_of",
    "make",
    "names",
    "get",
    "Entry",
    "Mask",
    "Kernel",
    "Matrix",
    "Sparse",
    "Separable",
    "Fourier",
    "mask",
    "blur",
    "motion_blur",
    "kernel_blur",
    "down",
    "grey",
    "radon",
    "fourier",
    "compressed",
    "sensors",
    "phase",
    "hdr",
    "jpeg",
    "curved_blur",
    "stack",
    "compose",
    "then",
    "Slicewise",
    "slices",
    "function",
    "from_deepinv",
    "spectrum_of",
    "conjugate_gradients",
]
