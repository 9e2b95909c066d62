"""Laws of flow times on (0, 1), given by their quantile functions: of use to training (draws) and to grids (even shares).

Each maps a probability u to the time t below which a share u of the law lies, 0 at u = 0 and 1 at u = 1, rising.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
from torch import Tensor

from retrograde.errors import BadValue
from retrograde.paths.path import Time, library

MOST_MODE = 2.0 / (math.pi - 2.0)
"""Largest scale at which `mode` still rises."""


def logit_normal(u: Time, mean: float = 0.0, std: float = 1.0) -> Time:
    """Times whose logit is normal: t = 1/(1 + exp(-(mean + std z))), z the normal quantile of u.

    Raises:
        BadValue: std not positive.

    Reference: Esser et al., Scaling Rectified Flow Transformers, 2024, arXiv 2403.03206.
    """
    if not std > 0.0:
        raise BadValue(f"std={std}", "std > 0", "std=1.0")
    if isinstance(u, Tensor):
        return torch.sigmoid(mean + std * torch.special.ndtri(u))
    if not 0.0 < u < 1.0:
        return 0.0 * u if u <= 0.0 else u / u
    return 1.0 / (1.0 + math.exp(-(mean + std * NormalDist().inv_cdf(u))))


def mode(u: Time, scale: float = 1.29) -> Time:
    """Times with a heavy middle (scale > 0) or heavy ends (scale < 0): t = u - scale (sin^2(pi u/2) - u).

    With 1 - u in place of u this is the published 1 - u - scale (cos^2(pi u/2) - 1 + u), the same law.

    Raises:
        BadValue: scale outside -1..2/(pi - 2), where t would fall.

    Reference: Esser et al., 2024, arXiv 2403.03206.
    """
    if not -1.0 <= scale <= MOST_MODE:
        raise BadValue(f"scale={scale}", f"-1 <= scale <= {MOST_MODE:.4g}", "scale=1.29")
    return u - scale * (library(u).sin(0.5 * math.pi * u) ** 2 - u)


def cosmap(u: Time) -> Time:
    """Times at which the flow path has the noise levels of the cosine schedule: t/(1 - t) = tan(pi u/2).

    Their density is 2/(pi - 2 pi t + 2 pi t^2). Reference: Esser et al., 2024, arXiv 2403.03206.
    """
    m = library(u)
    sine, cosine = m.sin(0.5 * math.pi * u), m.sin(0.5 * math.pi * (1.0 - u))
    return sine / (sine + cosine)


def resolution_shift(pixels: int, reference: int) -> float:
    """Shift at which an image of `pixels` hides as much as one of `reference` pixels did unshifted: sqrt(pixels/reference).

    The mean of n pixels is known up to sigma/sqrt(n): at an equal sigma a larger image is less noisy.

    Raises:
        BadValue: counts that are not positive.
    """
    if pixels <= 0 or reference <= 0:
        raise BadValue(f"pixels={pixels}, reference={reference}", "positive counts", "resolution_shift(1024**2, 512**2)")
    return math.sqrt(pixels / reference)
