"""High-frequency guidance: what is restored keeps the edges of its source."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from retrograde import systems
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, ShapeError
from retrograde.guide.descend import Descended, descend

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (ITU-R BT.601)."""


def edges(images: Tensor) -> Tensor:
    """Return the length of Sobel's gradient over its largest value in each item: [n, channels, h, w] to [n, h, w].

    Images are in [-1, 1], with black beyond their border. What is flat has no edges, and stays 0.
    """
    grey = _grey(images)[:, None]
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(grey)
    found = functional.conv2d(grey, torch.stack([across, across.T])[:, None], padding=1)
    return _relative((found.square().sum(1) + 1e-8).sqrt())


def high_frequencies(images: Tensor, cutoff: float) -> Tensor:
    """Return the size of what is left of grey above a radius in bins of the Fourier transform, over its largest value.

    Shapes: [n, channels, h, w] in [-1, 1] to [n, h, w].
    """
    grey = _grey(images)
    rows, columns = (torch.fft.fftfreq(n, 1 / n, device=grey.device) for n in grey.shape[-2:])
    outside = (rows[:, None].square() + columns.square()).sqrt() > cutoff
    return _relative(torch.fft.ifft2(torch.fft.fft2(grey) * outside).abs())


def high_frequency(
    denoiser: AbstractDenoiser,
    source: Tensor,
    *,
    steps: int = 5,
    rate: float = 1.0,
    decay: float = 1.0,
    cutoff: float | None = None,
) -> Descended:
    """Return the denoiser held to the high frequencies of a source: `descend` on

        L = e^(-decay t/t_max) 1/2 mean[(F(D) - F(source))^2 + (S(D) - S(source))^2],   F `high_frequencies`, S `edges`

    Both maps are relative to their largest value, so what counts is where edges are and not how strong. L is a mean over
    pixels, as published, so a rate does the less the more there are: on digits of 8 by 8, restored from blurred ones in 10
    steps, rate = 1 takes 0.42 of what is missed of both maps and moves what is coarse by 0.02, rate = 10 0.89 and 0.04; at
    300 it overshoots. Latents are decoded by the denoiser's codec, and the gradient goes through it.

    Args:
        source: the pictures to hold to, [n, channels, h, w] in [-1, 1], or one for all [channels, h, w].
        steps, rate: of the descent, in every evaluation.
        decay: how much less the loss counts at the noise end, e^-decay; 1 is the published 0.001 for each of 1000 times.
        cutoff: radius in bins; None is 30 for pictures of 512, the published one, in proportion.

    Raises:
        BadValue: settings that are not finite, or steps below 0.
        ShapeError: a source that is no picture of the denoiser's data.

    Reference: Yu et al., PromptFix: You Prompt and We Fix the Photo, 2024, arXiv 2405.16785.
    """
    codec = denoiser.codec
    shape = denoiser.shape if codec is None else codec.shape
    if len(shape) != 3 or source.shape[-3:] != shape or source.ndim not in (3, 4):
        raise ShapeError(
            f"a source of shape {list(source.shape)} for data {list(shape)}",
            "pictures [n, channels, h, w], or one [channels, h, w]",
            "source[None] adds an axis",
        )
    if not math.isfinite(decay) or (cutoff is not None and not cutoff >= 0.0):
        raise BadValue(f"decay={decay}, cutoff={cutoff}", "finite, cutoff >= 0", "decay=1.0, cutoff=None")
    radius = 30.0 / 512.0 * min(shape[1:]) if cutoff is None else float(cutoff)
    pictures = source.reshape(-1, *shape)
    wanted = torch.stack([high_frequencies(pictures, radius), edges(pictures)], 1)
    path = denoiser.path

    def missed(data: Tensor, t: float | Tensor) -> Tensor:
        seen = data if codec is None else codec.decode(data)
        seen = seen.clamp(-1.0, 1.0)
        found = torch.stack([high_frequencies(seen, radius), edges(seen)], 1)
        weight = torch.as_tensor(-decay * t / path.t_max).exp().to(found)
        return weight * (found - wanted.to(found)).square().flatten(1).mean(1)

    return descend(denoiser, missed, steps, rate)


def _grey(images: Tensor) -> Tensor:
    """Grey in [0, 1], [n, h, w]: by luma of three channels, by the mean of another number."""
    images = 0.5 * (images + 1.0)
    if images.shape[1] != len(LUMA):
        return images.mean(1)
    return torch.einsum("nchw,c->nhw", images, torch.tensor(LUMA).to(images))


def _relative(found: Tensor) -> Tensor:
    return found / found.flatten(1).amax(1).clamp(min=1e-12).reshape(-1, 1, 1)


systems.register(
    systems.System(
        title="PromptFix: You Prompt and We Fix the Photo",
        authors=("Yongsheng Yu", "Ziyun Zeng", "Hang Hua", "Jianlong Fu", "Jiebo Luo"),
        year=2024,
        arxiv="2405.16785",
        home="guidance",
        call="rg.guide.high_frequency(denoiser, source, rate=1000.0)",
        test="tests/guide/test_high_frequency.py::test_edges_of_the_source_come_back",
    )
)
