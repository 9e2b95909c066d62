"""Small networks that the embedded models are made of."""

from retrograde.nets.beside import Beside
from retrograde.nets.classifier import Classifier
from retrograde.nets.mlp import MLPDenoiser
from retrograde.nets.unet import UNet

__all__ = ["Beside", "Classifier", "MLPDenoiser", "UNet"]
