"""Small networks with random weights, ours and those of diffusers."""

import pytest
import torch

import retrograde as rg

SMALL = {"channels": (16, 32), "blocks": 1, "attention": (1,), "patch": 1, "width": 32, "classes": 3}


def noisy(module: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter a value that matters: layers that start at zero would hide what happens before them."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return module.eval()


@pytest.fixture(scope="session")
def unet() -> torch.nn.Module:
    return noisy(rg.nets.UNet((1, 8, 8), **SMALL))


@pytest.fixture(scope="session")
def den(unet) -> rg.Denoiser:
    return rg.Denoiser(unet, rg.paths.VP(), "noise", (1, 8, 8), {"label": 3})
