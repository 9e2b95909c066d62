"""Pipelines around a transformer of videos: Wan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from retrograde.errors import BadType, BadValue
from retrograde.interop.asked_part import BY_HAND, UNKNOWN, Opening, Size, default_of, unread
from retrograde.interop.autoencoders import codec_of, moments_of

TOKENS = 512
"""Length to which the pipeline pads its texts."""


def wan(pipe: Any, size: Size) -> Opening:
    """Open a Wan pipeline: states [c, frames, h, w], the condition "prompt" [tokens, d] or a text.

    Of a pipeline with two networks the first is asked from `boundary_ratio` of the trained steps upwards, the second below.
    """
    first = pipe.transformer if pipe.transformer is not None else pipe.transformer_2
    config, boundary = first.config, pipe.config.boundary_ratio
    latents = pipe.vae.config.z_dim
    if config.in_channels != latents or pipe.config.expand_timesteps:
        told = "a time for every token" if pipe.config.expand_timesteps else f"{config.in_channels} channels"
        raise BadType(
            f"a {type(pipe).__name__} whose network takes {told}",
            "text-to-video networks, which see the state alone at one time",
            BY_HAND,
        )
    factor, slow = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    usual = tuple(int(default_of(pipe, side, other)) for side, other in (("height", 480), ("width", 832)))
    height, width = size.sides((usual[0], usual[1]), factor * config.patch_size[1])
    frames = int(default_of(pipe, "num_frames", 81)) if size.frames is None else size.frames
    if frames < 1 or frames % slow != 1 % slow:
        raise BadValue(
            f"frames={frames}", f"1 more than a multiple of {slow}", f"frames={max(0, frames - 1) // slow * slow + 1}"
        )
    shape = (latents, (frames - 1) // slow + 1, height // factor, width // factor)
    silent = unread(pipe, "text_encoder")
    switch = None if boundary is None else boundary * pipe.scheduler.config.get("num_train_timesteps", 1000)

    def ask(module: Any, x: Tensor, told: Tensor, held: Mapping[str, Tensor]) -> Tensor:
        if switch is not None and float(told[0]) < switch:
            module = pipe.transformer_2
        text = held["prompt"].to(module.dtype)
        made = module(hidden_states=x, timestep=told, encoder_hidden_states=text, return_dict=False)[0]
        return made

    @torch.no_grad()
    def read(texts: Sequence[str]) -> dict[str, Tensor]:
        given = list(texts)
        found = pipe.encode_prompt(prompt=given, do_classifier_free_guidance=False, max_sequence_length=TOKENS)
        return {"prompt": found[0]}

    null = torch.full((1, config.text_dim), UNKNOWN) if silent else read([""])["prompt"][0]
    scale, shift = moments_of(pipe.vae, 3)
    codec = codec_of(pipe, shape, (3, frames, height, width), scale=scale, shift=shift)
    part = "transformer" if pipe.transformer is not None else "transformer_2"
    return Opening(part, shape, ask, {"prompt": null}, {} if silent else {"prompt": read}, codec=codec)
