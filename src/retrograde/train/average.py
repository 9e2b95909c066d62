"""The running average of a network's parameters."""

import copy
from typing import final

import torch
from torch import nn

from retrograde.errors import BadValue


def power_gamma(relative_std: float) -> float:
    """Exponent gamma of the power profile whose width is `relative_std` of the training so far.

    The weights of past parameters are proportional to tau^gamma; their standard deviation relative to the present time
    is sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3))), solved here for gamma.

    Raises BadValue outside (0, 0.28).

    Reference: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models",
    arXiv:2312.02696.
    """
    if not 0.0 < relative_std < 0.28:
        raise BadValue(f"relative_std={relative_std}", "0 < relative_std < 0.28", "use relative_std=0.05")
    low, high = 0.0, 1.0 / relative_std
    for _ in range(200):
        gamma = 0.5 * (low + high)
        wide = (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) > relative_std**2
        low, high = (gamma, high) if wide else (low, gamma)
    return 0.5 * (low + high)


@final
class PowerAverage:
    """Average of parameters whose horizon grows with the training: mean_n = beta_n mean + (1 - beta_n) theta_n.

    beta_n = (1 - 1/n)^(gamma + 1) at update n = 1, 2, ..., so the first update copies, and the average may be taken
    at any time without knowing how long the training will be.

    Reference: Karras et al. 2024, arXiv:2312.02696.
    """

    def __init__(self, network: nn.Module, relative_std: float = 0.05) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.gamma = power_gamma(relative_std)
        self.updates = 0

    def update(self, network: nn.Module) -> None:
        """Take in the present parameters and buffers."""
        self.updates += 1
        weight = 1.0 - (1.0 - 1.0 / self.updates) ** (self.gamma + 1.0)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), weight)
            for mean, now in zip(self.network.buffers(), network.buffers(), strict=True):
                mean.copy_(now)
