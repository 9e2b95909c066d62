"""Pipelines around a U-Net: unconditional ones, Stable Diffusion 1, 2 and XL, and their inpainting networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.errors import BadType
from retrograde.interop.asked_part import BY_HAND, UNKNOWN, Opening, Size, default_of, unread
from retrograde.interop.autoencoders import codec_of, moments_of


def unconditional(pipe: Any, size: Size) -> Opening:
    """Open a pipeline of a UNet2DModel, in pixels (DDPM, DDIM) or latents (with a "vqvae" or "vae").

    A network with classes takes the condition "label", whose null value is the last class, as many train it.
    """
    config = pipe.unet.config
    sample = config.sample_size or 32
    height, width = (sample, sample) if isinstance(sample, int) else sample
    coded = next((part for part in ("vqvae", "vae") if getattr(pipe, part, None) is not None), None)
    factor = 1 if coded is None else 2 ** (len(getattr(pipe, coded).config.block_out_channels) - 1)
    down = 2 ** (len(config.block_out_channels) - 1)
    high, wide = size.sides((height * factor, width * factor), factor if size == Size() else factor * down)
    shape = (config.in_channels, high // factor, wide // factor)
    conditions = {} if config.num_class_embeds is None else {"label": config.num_class_embeds - 1}

    def ask(unet: Any, x: Tensor, told: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        return unet(x, told, class_labels=held.get("label")).sample

    codec = None if coded is None else codec_of(pipe, shape, (3, high, wide))
    return Opening("unet", shape, ask, conditions, codec=codec)


def text_to_image(pipe: Any, size: Size) -> Opening:
    """Open a pipeline of a UNet2DConditionModel: Stable Diffusion 1, 2 and XL.

    Conditions are "prompt", embeddings [tokens, d] or a text; for XL also "pooled" [d], which the text tells too, and "size"
    [6], what the image is said to be cut from; for an inpainting network also "mask" [1, h, w], 1 where the image is to be
    made, and "masked" [c, h, w], the latents of the image with that part at zero; for a network distilled from a guided one
    "embedded_guidance", the weight it is told. All but the first two are the same in every branch.
    """
    unet, latents = pipe.unet.config, pipe.vae.config.latent_channels
    large = unet.addition_embed_type == "text_time"
    painting = unet.in_channels == 2 * latents + 1
    reasons = {
        f"class_embed_type={unet.class_embed_type!r}": unet.class_embed_type is not None,
        f"addition_embed_type={unet.addition_embed_type!r}": unet.addition_embed_type is not None and not large,
        f"in_channels={unet.in_channels}": unet.in_channels != latents and not painting,
        f"encoder_hid_dim_type={unet.encoder_hid_dim_type!r}": unet.encoder_hid_dim_type is not None,
        "requires_aesthetics_score=True": bool(pipe.config.get("requires_aesthetics_score")),
    }
    _refuse(pipe, [reason for reason, holds in reasons.items() if holds])
    factor = pipe.vae_scale_factor
    sample = unet.sample_size or 64
    sides = tuple(factor * side for side in ((sample, sample) if isinstance(sample, int) else sample))
    height, width = size.sides((sides[0], sides[1]), factor)
    h, w = height // factor, width // factor
    silent = unread(pipe, "text_encoder", "text_encoder_2")
    conditions: dict[str, Any] = {}
    if silent:
        conditions["prompt"] = torch.full((1, unet.cross_attention_dim), UNKNOWN)
        if large:
            pooled = unet.projection_class_embeddings_input_dim - 6 * unet.addition_time_embed_dim
            conditions["pooled"] = torch.full((pooled,), UNKNOWN)
    else:
        conditions |= _no_text(pipe, large)
    if large:
        conditions["size"] = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
    if painting:
        conditions |= {"mask": torch.ones(1, h, w), "masked": torch.zeros(latents, h, w)}
    if unet.time_cond_proj_dim is not None:
        conditions["embedded_guidance"] = torch.tensor(default_of(pipe, "guidance_scale", 7.5))

    def ask(module: Any, x: Tensor, told: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        added = {"text_embeds": held["pooled"], "time_ids": held["size"]} if large else None
        weight = None
        if "embedded_guidance" in held:
            weight = pipe.get_guidance_scale_embedding(
                held["embedded_guidance"].float().cpu() - 1.0, embedding_dim=module.config.time_cond_proj_dim
            ).to(x)
        x = torch.cat([x, held["mask"], held["masked"]], 1) if painting else x
        prompt = held["prompt"]
        return module(x, told, encoder_hidden_states=prompt, timestep_cond=weight, added_cond_kwargs=added).sample

    def read(texts: Sequence[str]) -> dict[str, Tensor]:
        return _embedded(pipe, texts, large)

    scale, shift = moments_of(pipe.vae, 2) if large else (None, 0.0)
    codec = codec_of(pipe, (latents, h, w), (pipe.vae.config.out_channels, height, width), scale=scale, shift=shift)
    shared = frozenset(conditions) - {"prompt", "pooled"}
    return Opening("unet", (latents, h, w), ask, conditions, {} if silent else {"prompt": read}, shared, codec)


def _refuse(pipe: Any, reasons: Sequence[str]) -> None:
    if reasons:
        raise BadType(
            f"a {type(pipe).__name__} whose network has {', '.join(reasons)}",
            "networks told the state, the time and texts (Stable Diffusion 1, 2, XL and their inpainting networks)",
            BY_HAND,
        )


@torch.no_grad()
def _embedded(pipe: Any, texts: Sequence[str], large: bool) -> dict[str, Tensor]:
    found = pipe.encode_prompt(
        prompt=list(texts), device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {"prompt": found[0]} | ({"pooled": found[2]} if large else {})


@torch.no_grad()
def _no_text(pipe: Any, large: bool) -> dict[str, Tensor]:
    """What the pipeline takes for no text: the empty one, or zeros where its config says so."""
    found = pipe.encode_prompt(
        prompt="", device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=True
    )
    return {"prompt": found[1][0]} | ({"pooled": found[3][0]} if large else {})
