"""Training a classifier: it separates what is separable, and shifts keep the picture."""

import torch

from retrograde.nets import Classifier
from retrograde.train.classify import accuracy, fit_classifier, shift


def test_it_learns_bars() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.full((128, 1, 12, 12), -1.0)
    labels = torch.arange(128) % 2
    images[labels == 0, :, 5:7] = 1.0
    images[labels == 1, :, :, 5:7] = 1.0
    images += 0.1 * torch.randn(images.shape, generator=generator)
    torch.manual_seed(0)
    network = Classifier(classes=2)
    fit_classifier(network, images, labels, epochs=8, batch=16)
    assert accuracy(network, images, labels) > 0.95


def test_shift_moves_and_fills_with_background() -> None:
    images = torch.full((1, 1, 9, 9), -1.0)
    images[0, 0, 4, 4] = 1.0
    places = set()
    for seed in range(60):
        moved = shift(images, torch.Generator().manual_seed(seed))
        assert moved.shape == images.shape
        assert float(moved.sum()) == float(images.sum())
        places.add(int(moved.flatten().argmax()))
    assert places <= {row * 9 + column for row in range(2, 7) for column in range(2, 7)}
    assert len(places) > 15
