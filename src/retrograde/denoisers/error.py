"""The error of a denoiser as a function of the noise level: for the exact one, what the data allow at best."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from retrograde.denoisers.denoiser import AbstractDenoiser, prepare_condition
from retrograde.errors import ShapeError

_STREAM = 177


def mmse(
    denoiser: AbstractDenoiser, data: Tensor, seed: int = 0, draws: int = 1, condition: object = None
) -> Callable[[float], float]:
    """Return r -> E|x_0 - D(a x_0 + s eps)|^2 with a/s = r, summed over elements, averaged over `data` and fixed draws.

    Levels outside the range of the denoiser's path are asked at its ends. The same draws serve every level, so that the
    curve is smooth.

    Args:
        data: items [n, *shape].
        draws: noise draws for each item.
        condition: as in `prepare_condition`.

    Raises:
        ShapeError: data of another shape than the denoiser's.
    """
    if tuple(data.shape[1:]) != denoiser.shape:
        raise ShapeError(f"data of shape {list(data.shape)}", f"[n, {', '.join(map(str, denoiser.shape))}]", "reshape it")
    items = data.repeat(draws, *(1,) * len(denoiser.shape))
    # a stream of its own: data drawn with the same seed must not be correlated with it
    drawn = np.random.default_rng([seed, _STREAM]).standard_normal(tuple(items.shape))
    eps = torch.from_numpy(drawn).to(items)
    prepared = prepare_condition(denoiser, condition, len(items), items.device)
    path = denoiser.path

    @torch.no_grad()
    def error(ratio: float) -> float:
        sigma = min(max(1.0 / ratio, path.sigma(path.t_min)), path.sigma(path.t_max))
        t = path.time_of_sigma(sigma)
        guess = denoiser.predict(path.a(t) * items + path.s(t) * eps, t, prepared).data
        return float((guess - items).double().square().flatten(1).sum(1).mean())

    return error
