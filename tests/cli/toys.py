"""Denoisers for the command's tests: exact ones, and networks that misbehave."""

import torch

import retrograde as rg


def blobs():
    """Six blobs on 8x8 images, with labels."""
    means = torch.full((6, 1, 8, 8), -1.0)
    for i in range(6):
        means[i, 0, i : i + 3, i : i + 3] = 1.0
    return rg.oracles.GaussianMixture(rg.paths.EDM(), means, 0.01, labels=[0, 1, 2, 0, 1, 2])


def points():
    """Points in the plane, on another path."""
    return rg.oracles.GaussianMixture(rg.paths.VP(), torch.tensor([[1.0, 0.0], [-1.0, 0.5]]), 0.05)


def sometimes_nan():
    """A network that fails where the first pixel is positive: for some items."""

    def network(x_t, t):
        return torch.where(x_t[:, :1, :1, :1] > 0, float("nan"), 0.0) * x_t

    return rg.Denoiser(network, rg.paths.EDM(), predicts="data", shape=(1, 8, 8))


def labelled_network():
    """An untrained network of three classes."""
    network = rg.nets.UNet(shape=[1, 8, 8], classes=3, channels=[8, 8])
    return rg.Denoiser(network, rg.paths.EDM(), predicts="edm", shape=(1, 8, 8), conditions={"label": 3})


def nothing():
    """Not a denoiser."""
    return 3
