"""The noise schedules other people's networks were trained with, as paths.

Everything is computed in the number format the peers use (float32 for the betas and their products), so that a path made
here equals `retrograde.paths.from_alphas_cumprod(scheduler.alphas_cumprod)` to the last digit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrograde.errors import BadValue
from retrograde.paths import VPDiscrete, from_alphas_cumprod

LEAST = 1e-20
"""What stands for an alphas_cumprod of zero: its square root leaves no digit of the data in a double."""


def betas(config: Mapping[str, Any]) -> Tensor:
    """Return the betas of a scheduler's options `beta_schedule`, `beta_start`, `beta_end`, `trained_betas` [steps].

    Raises:
        BadValue: a beta_schedule that is not known.
    """
    n, start, end = int(config["num_train_timesteps"]), float(config["beta_start"]), float(config["beta_end"])
    if config.get("trained_betas") is not None:
        if np.shape(config["trained_betas"]) != (n,):
            given = f"trained_betas of shape {list(np.shape(config['trained_betas']))} with num_train_timesteps={n}"
            raise BadValue(given, "one for each trained step", "num_train_timesteps=len(trained_betas)")
        return torch.as_tensor(np.asarray(config["trained_betas"]), dtype=torch.float32)
    match config["beta_schedule"]:
        case "linear":
            return torch.linspace(start, end, n, dtype=torch.float32)
        case "scaled_linear":
            return torch.linspace(start**0.5, end**0.5, n, dtype=torch.float32) ** 2
        case "squaredcos_cap_v2":
            alpha_bar = [math.cos((i / n + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(n + 1)]
            return torch.tensor([min(1 - y / x, 0.999) for x, y in zip(alpha_bar, alpha_bar[1:], strict=False)])
        case "sigmoid":
            return torch.sigmoid(torch.linspace(-6, 6, n)) * (end - start) + start
    raise BadValue(
        f"beta_schedule={config['beta_schedule']!r}",
        "'linear', 'scaled_linear', 'squaredcos_cap_v2', 'sigmoid', or trained_betas",
        "pass trained_betas=[...], one for each training step",
    )


def without_terminal_signal(trained: Tensor) -> Tensor:
    """Return betas shifted and scaled so that the last level holds no signal (Lin et al., 2023, arXiv 2305.08891)."""
    root = (1.0 - trained).cumprod(0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    product = root**2
    return 1 - torch.cat([product[:1], product[1:] / product[:-1]])


def alphas_cumprod(config: Mapping[str, Any], floor: float | None = None) -> Tensor:
    """Return the products of 1 - beta [steps], float32.

    Args:
        floor: what the schedulers that step in s/a put in place of a last product of zero.
    """
    if "snr_shift_scale" in config:
        return _shifted_products(config)
    rescaled = bool(config.get("rescale_betas_zero_snr"))
    trained = without_terminal_signal(betas(config)) if rescaled else betas(config)
    product = torch.cumprod(1.0 - trained, dim=0)
    if rescaled and floor is not None:
        product[-1] = floor
    return product


def _shifted_products(config: Mapping[str, Any]) -> Tensor:
    """The products of CogVideoX: the signal-to-noise ratio divided by `snr_shift_scale`, and the last one taken to zero."""
    product = torch.cumprod(1.0 - betas(config), dim=0)
    if config["beta_schedule"] == "scaled_linear" and config.get("trained_betas") is None:
        start, end = float(config["beta_start"]) ** 0.5, float(config["beta_end"]) ** 0.5
        exact = torch.linspace(start, end, int(config["num_train_timesteps"]), dtype=torch.float64) ** 2
        product = torch.cumprod(1.0 - exact, dim=0)
    scale = float(config["snr_shift_scale"])
    product = product / (scale + (1 - scale) * product)
    if not config.get("rescale_betas_zero_snr"):
        return product
    root = product.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * (first / (first - last))) ** 2


def path_of(product: Tensor) -> VPDiscrete:
    """Return the path of these products; one whose last level holds no signal starts there."""
    values = product.double().tolist()
    return from_alphas_cumprod(product) if values[-1] > 0.0 else VPDiscrete((*values[:-1], LEAST), t_max=1.0)
