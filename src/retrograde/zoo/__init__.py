"""Trained models that ship with the library, and folders of your own."""

from retrograde.zoo.catalogue import build_network, classifier, load, models, save
from retrograde.zoo.features import ClassifierConfig, load_classifier, save_classifier

__all__ = [
    "ClassifierConfig",
    "build_network",
    "classifier",
    "load",
    "load_classifier",
    "models",
    "save",
    "save_classifier",
]
