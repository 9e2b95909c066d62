"""The autoencoder of a pipeline as a codec."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from retrograde.codec import Codec, Scale


def codec_of(
    pipe: Any,
    latent: tuple[int, ...],
    shape: tuple[int, ...],
    *,
    scale: Scale | None = None,
    shift: Scale = 0.0,
    pack: Callable[[Tensor], Tensor] | None = None,
    unpack: Callable[[Tensor], Tensor] | None = None,
) -> Codec | None:
    """Return the codec of a pipeline's autoencoder; None where it has none.

    Data are in [-1, 1]. The autoencoder is looked up at every call and runs on its device and in its type, tiled or sliced
    where `pipe.vae.enable_tiling()` says so; one that overflows in float16 is run in float32, as pipelines do.

    Args:
        scale: that of the latents; None for the `scaling_factor` of the autoencoder's config.
    """
    part = next((name for name in ("vae", "vqvae") if getattr(pipe, name, None) is not None), None)
    if part is None:
        return None
    if scale is None:
        scale = float(getattr(getattr(pipe, part).config, "scaling_factor", 1.0))

    def encode(x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        with _sound(getattr(pipe, part)) as vae:
            made = vae.encode(x.to(_device(pipe, vae), vae.dtype))
            law = getattr(made, "latent_dist", None)
            found = (made.latents,) if law is None else (law.mode(), law.std)
        moments = tuple(one.to(x.device, x.dtype) for one in found)
        return moments if len(moments) == 2 else moments[0]

    def decode(z: Tensor) -> Tensor:
        with _sound(getattr(pipe, part)) as vae:
            return vae.decode(z.to(_device(pipe, vae), vae.dtype)).sample.to(z.device, z.dtype)

    return Codec(encode, decode, shape, latent, scale, shift, pack=pack, unpack=unpack)


def moments_of(vae: Any, axes: int) -> tuple[Scale, Scale]:
    """Return scale and shift of latents whose mean and spread the autoencoder's config lists by channel.

    The pipeline decodes z std/f + mean, with f its `scaling_factor` (1 where it has none).

    Args:
        axes: axes of a latent image behind the channels.
    """
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    factor = getattr(vae.config, "scaling_factor", None)
    factor = 1.0 if factor is None else float(factor)
    if mean is None or std is None:
        return factor, 0.0
    tail = (1,) * axes
    return factor / torch.tensor(std).reshape(-1, *tail), torch.tensor(mean).reshape(-1, *tail)


def _device(pipe: Any, vae: Any) -> torch.device:
    """Where the autoencoder runs: with hooks that offload it, where the pipeline runs."""
    return pipe._execution_device if getattr(vae, "_hf_hook", None) is not None else vae.device


@contextlib.contextmanager
def _sound(vae: Any) -> Iterator[Any]:
    """Lend the autoencoder in a type in which it does not overflow."""
    if vae.dtype != torch.float16 or not getattr(vae.config, "force_upcast", False):
        yield vae
        return
    vae.to(dtype=torch.float32)
    try:
        yield vae
    finally:
        vae.to(dtype=torch.float16)


__all__ = ["codec_of", "moments_of"]
