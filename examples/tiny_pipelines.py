"""Small pipelines of diffusers with random weights, built without a network: to try things on, in seconds.

python examples/tiny_pipelines.py FOLDER writes one folder of each kind, as `save_pretrained` does.
"""

import functools
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch

LATENT = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
WIDTH = 12
"""Width of the embeddings that text encoders make."""


def ddpm(*, texts: bool = False, class_name: str = "DDPMPipeline") -> Any:
    """An unconditional pipeline of 8x8 pixels."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, attention_head_dim=8, **blocks
    ).eval()
    scheduler = getattr(diffusers, class_name.replace("Pipeline", "Scheduler"))(clip_sample=False)
    return getattr(diffusers, class_name)(unet, scheduler)


def autoencoder() -> Any:
    """From [3, 16, 16] to [4, 8, 8]."""
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        shift_factor=0.1,
    ).eval()


def dit(*, texts: bool = False) -> Any:
    """A transformer of classes, with a learned variance."""
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
    scheduler = diffusers.DDIMScheduler(clip_sample=False, **LATENT)
    return diffusers.DiTPipeline(transformer, autoencoder(), scheduler)


def unet(**options: Any) -> Any:
    """A U-Net of latents [4, 8, 8] and texts."""
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **({"cross_attention_dim": WIDTH} | options),
    ).eval()


def stable(class_name: str = "StableDiffusionPipeline", *, texts: bool = False, **options: Any) -> Any:
    """Stable Diffusion in miniature; without texts, calls hand over embeddings [batch, 5, 12]."""
    scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False, **LATENT)
    parts = {"safety_checker": None, "feature_extractor": None, "text_encoder": None, "tokenizer": None}
    if texts:
        parts |= {"text_encoder": clip(), "tokenizer": clip_tokenizer()}
    made = getattr(diffusers, class_name)
    return made(unet=unet(**options), vae=autoencoder(), scheduler=scheduler, requires_safety_checker=False, **parts)


def stable_xl(*, texts: bool = True) -> Any:
    """Stable Diffusion XL in miniature, with two text encoders."""
    one, two = clip(), clip(projected=True)
    network = unet(
        cross_attention_dim=2 * WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + WIDTH,
    )
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1, **LATENT)
    parts = {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer(), "text_encoder": one, "text_encoder_2": two}
    vae = autoencoder()
    vae.register_to_config(latents_mean=[0.1, -0.2, 0.0, 0.3], latents_std=[0.9, 1.1, 1.0, 1.2])
    return diffusers.StableDiffusionXLPipeline(vae=vae, unet=network, scheduler=scheduler, **parts)


def stable_3(class_name: str = "StableDiffusion3Pipeline", *, texts: bool = False) -> Any:
    """Stable Diffusion 3 in miniature; without texts, calls hand over embeddings [batch, 5, 12] and pooled [batch, 16]."""
    torch.manual_seed(0)
    width = 3 * WIDTH if texts else WIDTH
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=width,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH if texts else 16,
        out_channels=4,
    ).eval()
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.3)
    parts: dict[str, Any] = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")}
    if texts:
        parts |= {"text_encoder": clip(projected=True), "text_encoder_2": clip(projected=True), "text_encoder_3": t5(width)}
        parts |= {"tokenizer": clip_tokenizer(), "tokenizer_2": clip_tokenizer(), "tokenizer_3": t5_tokenizer()}
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return getattr(diffusers, class_name)(transformer=transformer, vae=autoencoder(), scheduler=scheduler, **parts)


def flux(*, texts: bool = False, guided: bool = False) -> Any:
    """Flux in miniature, whose levels depend on the size; without texts, calls hand over [batch, 5, 12] and [batch, 16].

    Args:
        guided: the network is told a guidance weight.
    """
    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH if texts else 16,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guided,
    ).eval()
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.3)
    parts: dict[str, Any] = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2")}
    if texts:
        parts = {"text_encoder": clip(), "text_encoder_2": t5(WIDTH), "tokenizer": clip_tokenizer()}
        parts["tokenizer_2"] = t5_tokenizer()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return diffusers.FluxPipeline(transformer=transformer, vae=autoencoder(), scheduler=scheduler, **parts)


def wan(*, texts: bool = True, boundary: float | None = None) -> Any:
    """Wan in miniature: videos of 5 frames are latents [4, 2, h/8, w/8].

    Args:
        boundary: part of the trained steps below which a second network is asked.
    """

    def network(seed: int) -> Any:
        torch.manual_seed(seed)
        return diffusers.WanTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=24,
            num_layers=1,
            rope_max_seq_len=32,
        ).eval()

    first = network(0)
    torch.manual_seed(1)
    vae = diffusers.AutoencoderKLWan(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.1, 0.9, 1.5, 2.0],
    ).eval()
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
    )
    second = {} if boundary is None else {"transformer_2": network(2), "boundary_ratio": boundary}
    return diffusers.WanPipeline(
        tokenizer=t5_tokenizer(), text_encoder=t5(WIDTH), vae=vae, scheduler=scheduler, transformer=first, **second
    )


def clip(*, projected: bool = False) -> Any:
    """A text encoder of CLIP's kind."""
    import transformers

    torch.manual_seed(3)
    config = transformers.CLIPTextConfig(
        vocab_size=54,
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=WIDTH,
        bos_token_id=52,
        eos_token_id=53,
    )
    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return kind(config).eval()


def clip_tokenizer() -> Any:
    """A tokenizer of letters."""
    import transformers

    letters = string.ascii_lowercase
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return transformers.CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=[], model_max_length=16)


def t5(width: int) -> Any:
    """A text encoder of T5's kind, which is also that of UMT5."""
    import transformers

    torch.manual_seed(4)
    config = transformers.T5Config(vocab_size=32, d_model=width, d_kv=6, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5EncoderModel(config).eval()


def t5_tokenizer() -> Any:
    """A tokenizer of letters."""
    import transformers

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((s, -3.0) for s in string.ascii_lowercase)]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=16)


MAKERS: dict[str, Callable[..., Any]] = {
    "ddpm": ddpm,
    "ddim": functools.partial(ddpm, class_name="DDIMPipeline"),
    "dit": dit,
    "stable": stable,
    "stable_img2img": functools.partial(stable, "StableDiffusionImg2ImgPipeline"),
    "stable_inpaint": functools.partial(stable, "StableDiffusionInpaintPipeline"),
    "stable_xl": stable_xl,
    "sd3": stable_3,
    "sd3_img2img": functools.partial(stable_3, "StableDiffusion3Img2ImgPipeline"),
    "flux": flux,
    "wan": wan,
}
"""The pipelines by name; texts=True gives them text encoders."""


def main(folder: str) -> None:
    """Write one folder of each kind."""
    for name, make in MAKERS.items():
        make(texts=True).save_pretrained(Path(folder) / name)
        print(Path(folder) / name)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "pipelines")
