"""The denoising loss on held-out data, by noise level, with fixed noise."""

from collections.abc import Sequence

import torch

from retrograde.denoisers import AbstractDenoiser
from retrograde.denoisers.anchor import ANCHOR
from retrograde.noise import heavy_tailed

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0)


@torch.no_grad()
def held_out_loss(
    denoiser: AbstractDenoiser,
    images: torch.Tensor,
    labels: torch.Tensor | None = None,
    sigmas: Sequence[float] = SIGMAS,
    seed: int = 0,
    anchors: torch.Tensor | None = None,
) -> dict[float, float]:
    """Return mean |D(x_t) - x_0|^2 per pixel at each noise-to-signal ratio sigma, in squared data units.

    It does not depend on the parameterization, so models on different paths compare. The noise is the same at every
    call with the same seed.

    Shapes: images [n, *shape], labels int64 [n] (None: the null condition), anchors as images, on an anchored path.
    """
    conditions = {} if labels is None or "label" not in denoiser.conditions else {"label": labels}
    told = conditions if anchors is None else {**conditions, ANCHOR: anchors}
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(images.shape, generator=generator, dtype=images.dtype)
    eps = heavy_tailed(eps, denoiser.path.degrees, generator)
    found = {}
    for sigma in sigmas:
        t = denoiser.path.time_of_sigma(float(sigma))
        t = min(max(t, denoiser.path.t_min), denoiser.path.t_max)
        x_t = denoiser.path.a(t) * images + denoiser.path.s(t) * eps
        if anchors is not None:
            x_t = x_t + denoiser.path.b(t) * anchors
        found[float(sigma)] = float((denoiser(x_t, t, **told).data - images).square().mean())
    return found
