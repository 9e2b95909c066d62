"""Pipelines around a transformer of images: DiT, Stable Diffusion 3, Flux."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.errors import BadType
from retrograde.interop.asked_part import BY_HAND, UNKNOWN, Opening, Size, default_of, unread
from retrograde.interop.autoencoders import codec_of


def by_class(pipe: Any, size: Size) -> Opening:
    """Open a DiT pipeline: the condition "label", whose null value is the number of classes."""
    config = pipe.transformer.config
    channels, side = config.in_channels, config.sample_size
    factor = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    height, width = size.sides(side * factor, factor * config.patch_size)

    def ask(module: Any, x: Tensor, told: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        return module(x, timestep=told, class_labels=held["label"]).sample

    shape = (channels, height // factor, width // factor)
    codec = codec_of(pipe, shape, (pipe.vae.config.out_channels, height, width))
    return Opening("transformer", shape, ask, {"label": config.num_embeds_ada_norm}, codec=codec)


def stable_diffusion_3(pipe: Any, size: Size) -> Opening:
    """Open a Stable Diffusion 3 pipeline: "prompt" [tokens, d], or a text, which tells also "pooled" [d]."""
    config = pipe.transformer.config
    _plain(pipe, config.in_channels)
    factor = pipe.vae_scale_factor
    height, width = size.sides(config.sample_size * factor, factor * config.patch_size)
    names = ("text_encoder", "text_encoder_2", "text_encoder_3")
    silent = unread(pipe, *names)

    def ask(module: Any, x: Tensor, told: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        texts = {"encoder_hidden_states": held["prompt"], "pooled_projections": held["pooled"]}
        return module(hidden_states=x, timestep=told, return_dict=False, **texts)[0]

    @torch.no_grad()
    def read(texts: Sequence[str]) -> dict[str, Tensor]:
        given = list(texts)
        found = pipe.encode_prompt(
            given, given, given, device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"prompt": found[0], "pooled": found[2]}

    shape = (config.in_channels, height // factor, width // factor)
    null = _unknown(config) if silent else {name: value[0] for name, value in read([""]).items()}
    codec = codec_of(pipe, shape, (pipe.vae.config.out_channels, height, width), shift=_shift(pipe))
    return Opening("transformer", shape, ask, null, {} if silent else {"prompt": read}, codec=codec)


def flux(pipe: Any, size: Size) -> Opening:
    """Open a Flux pipeline; its states are sequences of patches [h w/4, 4 c], as its scheduler sees them.

    Conditions are "prompt" [tokens, d], or a text, which tells also "pooled" [d]; and "embedded_guidance", the weight that a
    network distilled from a guided one is told. It is not the weight of `guide.cfg`, which asks for two branches.
    """
    config = pipe.transformer.config
    _plain(pipe, config.in_channels // 4)
    factor, channels = pipe.vae_scale_factor, config.in_channels // 4
    height, width = size.sides(pipe.default_sample_size * factor, 2 * factor)
    rows, columns = height // factor // 2, width // factor // 2
    silent = unread(pipe, "text_encoder", "text_encoder_2")
    places = torch.zeros(rows * columns, 3)
    places[:, 1] = torch.arange(rows).repeat_interleave(columns)
    places[:, 2] = torch.arange(columns).repeat(rows)

    def ask(module: Any, x: Tensor, told: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        return module(
            hidden_states=x,
            timestep=told / 1000,
            guidance=held["embedded_guidance"].float() if "embedded_guidance" in held else None,
            pooled_projections=held["pooled"],
            encoder_hidden_states=held["prompt"],
            txt_ids=torch.zeros(held["prompt"].shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=places.to(x),
            return_dict=False,
        )[0]

    @torch.no_grad()
    def read(texts: Sequence[str]) -> dict[str, Tensor]:
        prompt, pooled, _ = pipe.encode_prompt(list(texts), None, device=pipe._execution_device)
        return {"prompt": prompt, "pooled": pooled}

    def pack(z: Tensor) -> Tensor:
        n = len(z)
        patches = z.reshape(n, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(n, rows * columns, 4 * channels)

    def unpack(z: Tensor) -> Tensor:
        n = len(z)
        patches = z.reshape(n, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(n, channels, 2 * rows, 2 * columns)

    conditions: dict[str, Any] = _unknown(config) if silent else {k: v[0] for k, v in read([""]).items()}
    if config.guidance_embeds:
        conditions["embedded_guidance"] = torch.tensor(default_of(pipe, "guidance_scale", 3.5))
    shape = (rows * columns, 4 * channels)
    pixels = (pipe.vae.config.out_channels, height, width)
    codec = codec_of(pipe, shape, pixels, shift=_shift(pipe), pack=pack, unpack=unpack)
    shared = frozenset({"embedded_guidance"} & conditions.keys())
    return Opening("transformer", shape, ask, conditions, {} if silent else {"prompt": read}, shared, codec)


def _unknown(config: Any) -> dict[str, Any]:
    return {
        "prompt": torch.full((1, config.joint_attention_dim), UNKNOWN),
        "pooled": torch.full((config.pooled_projection_dim,), UNKNOWN),
    }


def _shift(pipe: Any) -> float:
    return float(getattr(pipe.vae.config, "shift_factor", None) or 0.0)


def _plain(pipe: Any, channels: int) -> None:
    """Refuse a network that sees more than the state, such as one for control images."""
    if channels != pipe.vae.config.latent_channels:
        raise BadType(
            f"a {type(pipe).__name__} whose network takes {channels} channels, not {pipe.vae.config.latent_channels}",
            "networks that see the state alone",
            BY_HAND,
        )
