"""Small pipelines of diffusers with random weights, built without a network."""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch

collect_ignore = [] if find_spec("transformers") else ["test_text_pipelines.py"]  # the extra "dev" brings it

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def peer(name: str, **options: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**options)


def _ddpm() -> Any:
    import diffusers

    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8, **blocks
    ).eval()
    return diffusers.DDPMPipeline(unet, peer("DDPMScheduler", clip_sample=False))


def _autoencoder() -> Any:
    import diffusers

    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=0.1,
    ).eval()


def _dit() -> Any:
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=1000,
    ).eval()
    with torch.no_grad():  # as made, its last layers answer almost nothing
        transformer.proj_out_2.weight.normal_(std=0.3)
    scheduler = peer("DDIMScheduler", clip_sample=False, **LATENT)
    return diffusers.DiTPipeline(transformer, _autoencoder(), scheduler)


def _unet() -> Any:
    import diffusers

    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=12,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()


def _stable(class_name: str = "StableDiffusionPipeline") -> Any:
    """A latent text-to-image pipeline without text encoder: calls hand over embeddings [batch, 5, 12]."""
    import diffusers

    parts = {"text_encoder": None, "tokenizer": None, "safety_checker": None, "feature_extractor": None}
    scheduler = peer("DDIMScheduler", clip_sample=False, steps_offset=1, set_alpha_to_one=False, **LATENT)
    made = getattr(diffusers, class_name)
    return made(unet=_unet(), vae=_autoencoder(), scheduler=scheduler, requires_safety_checker=False, **parts)


def _sd3(class_name: str = "StableDiffusion3Pipeline") -> Any:
    """A flow pipeline without text encoders: calls hand over embeddings [batch, 5, 12] and pooled ones [batch, 16]."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=16,
        out_channels=4,
    ).eval()
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.3)
    parts = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")}
    scheduler = peer("FlowMatchEulerDiscreteScheduler", shift=3.0)
    return getattr(diffusers, class_name)(transformer=transformer, vae=_autoencoder(), scheduler=scheduler, **parts)


def _flux() -> Any:
    """A flow pipeline with shifts by size, without text encoders: calls hand over [batch, 5, 12] and [batch, 16]."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=16,
        axes_dims_rope=(2, 2, 4),
    ).eval()
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.3)
    parts = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2")}
    scheduler = peer("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True)
    return diffusers.FluxPipeline(transformer=transformer, vae=_autoencoder(), scheduler=scheduler, **parts)


MAKERS: dict[str, Callable[[], Any]] = {
    "ddpm": _ddpm,
    "dit": _dit,
    "stable": _stable,
    "stable_img2img": lambda: _stable("StableDiffusionImg2ImgPipeline"),
    "stable_inpaint": lambda: _stable("StableDiffusionInpaintPipeline"),
    "sd3": _sd3,
    "sd3_img2img": lambda: _sd3("StableDiffusion3Img2ImgPipeline"),
    "flux": _flux,
}


@pytest.fixture(scope="session")
def tiny_pipeline() -> Callable[[str], Any]:
    """Make a pipeline by name, silent."""

    def make(name: str) -> Any:
        pipe = MAKERS[name]()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make


@pytest.fixture(scope="session")
def states_of() -> Callable[..., list[torch.Tensor]]:
    """Call a pipeline under a seed and return the state before its first step and the one after each."""

    def states(pipe: Any, seed: int = 3, **call: Any) -> list[torch.Tensor]:
        kept: list[torch.Tensor] = []
        step = pipe.scheduler.step

        @functools.wraps(step)
        def watched(output: Any, timestep: Any, sample: torch.Tensor, *rest: Any, **options: Any) -> Any:
            made = step(output, timestep, sample, *rest, **options)
            kept.extend([sample] if not kept else [])
            kept.append(made[0] if isinstance(made, tuple) else made.prev_sample)
            return made

        pipe.scheduler.step = watched
        try:
            pipe(generator=torch.Generator().manual_seed(seed), output_type="pt", **call)
        finally:
            del pipe.scheduler.step
        return kept

    return states


def largest(ones: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Largest deviation of one trajectory from another, in units of the largest value of the state."""
    pairs = zip(ones, others, strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)


@pytest.fixture(scope="session")
def deviation() -> Callable[..., float]:
    """Measure how far one trajectory is from another."""
    return largest


@pytest.fixture(scope="session")
def scheduler_called() -> Callable[..., Any]:
    """Make a scheduler of diffusers by the name of its class."""
    return peer
