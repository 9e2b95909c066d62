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


class Told(torch.nn.Module):
    """A transformer of diffusers, told the path time and a label.

    Times 0..10: at 0..1000, with weights that nobody trained, features would not be smooth in time.
    """

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, x_t: torch.Tensor, network_time: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return self.transformer(x_t, timestep=10 * network_time, class_labels=label).sample


@pytest.fixture(scope="session")
def dit() -> rg.Denoiser:
    """A denoiser of three classes with a transformer of five blocks."""
    diffusers = pytest.importorskip("diffusers")
    size = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 5, "num_embeds_ada_norm": 3}
    more = {"in_channels": 1, "out_channels": 1, "sample_size": 8, "patch_size": 2, "norm_num_groups": 1}
    network = noisy(Told(diffusers.DiTTransformer2DModel(**size, **more)))
    return rg.Denoiser(network, rg.paths.Flow(), "velocity", (1, 8, 8), {"label": 3})
