"""Small networks with random weights, in which every layer matters."""

import pytest
import torch

import retrograde as rg


def noisy(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value that matters: layers that start at zero would hide what happens before them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 0.5 / max(1, parameter[0].numel()) ** 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1) * 0.5)
    return module.eval()


@pytest.fixture(scope="session")
def den() -> rg.Denoiser:
    """A denoiser of three classes with our UNet."""
    unet = rg.nets.UNet((1, 8, 8), channels=(16, 32), attention=(1,), patch=1, width=32, classes=3)
    return rg.Denoiser(noisy(unet), rg.paths.VP(), "noise", (1, 8, 8), {"label": 3})


@pytest.fixture(scope="session")
def digits() -> rg.Denoiser:
    """The embedded model."""
    return rg.load("digits")
