"""A pipeline's types, offloading, adapters and slicing hold where its denoiser runs (transformers needed)."""

import pytest
import torch

import retrograde as rg
from retrograde.interop.schedulers import from_diffusers

pytestmark = [pytest.mark.diffusers, pytest.mark.filterwarnings("ignore")]
TEXTS, STEPS = ["a red cat", "the moon"], 6
SIZE = {"height": 16, "width": 16}
TOLERANCE = 1e-4


def gap(ones, others):
    return float((ones - others).abs().max() / others.abs().max())


def start_of(den):
    return torch.randn(2, *den.shape, generator=torch.Generator().manual_seed(3))


def theirs(pipe, x, output="latent"):
    """What the pipeline makes of this noise."""
    call = {"num_inference_steps": STEPS, "guidance_scale": 3.0, "output_type": output}
    return pipe(TEXTS, latents=x.to(pipe.dtype), **call, **SIZE).images.float()


def ours(pipe, den, x):
    """What the library's loop makes of it."""
    plan = from_diffusers(pipe.scheduler, STEPS)
    return rg.sample(rg.guide.cfg(den, 3.0), plan, x=x, condition=TEXTS)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["stable", "sd3"])
def test_a_folder_opened_in_half_precision_loses_no_more_than_the_pipeline(name, dtype, tiny_pipeline, tmp_path):
    from diffusers import DiffusionPipeline

    whole = tiny_pipeline(name, texts=True)
    whole.save_pretrained(tmp_path)
    den = rg.load(tmp_path, dtype)
    pipe = DiffusionPipeline.from_pretrained(str(tmp_path), local_files_only=True, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    x = start_of(den)
    exact = theirs(whole, x)
    made = ours(pipe, den, x)
    assert {p.dtype for p in den.network.pipe.components[den.name].parameters()} == {dtype}
    assert (made.dtype, den.codec.decode(made).dtype) == (torch.float32, torch.float32)
    assert 0 < gap(made, exact) < 1.5 * gap(theirs(pipe, x), exact) < 0.2
    assert gap(den.codec.decode(made), rg.load(tmp_path).codec.decode(made)) < 0.05


def test_offloaded_parts_are_called_back_when_they_are_asked(tiny_pipeline, monkeypatch):
    """On a machine without an accelerator they come back to the CPU, by the same hooks."""
    pipe = tiny_pipeline("stable", texts=True)
    den = rg.interop.diffusers.denoiser(pipe)
    x = start_of(den)
    before = den.codec.decode(ours(pipe, den, x))
    pipe.enable_model_cpu_offload(device="cpu")
    called = []
    for part in ("text_encoder", "unet", "vae"):
        hook = getattr(pipe, part)._hf_hook
        told = hook.pre_forward
        monkeypatch.setattr(
            hook, "pre_forward", lambda *a, part=part, told=told, **k: (called.append(part), told(*a, **k))[1]
        )
    z = ours(pipe, den, x)
    assert list(dict.fromkeys(called)) == ["text_encoder", "unet"]
    assert called.count("unet") == STEPS
    torch.testing.assert_close(den.codec.decode(z), before)
    assert called[-1] == "vae"


def test_saved_adapters_that_the_pipeline_loads_stay_active(tiny_pipeline, tmp_path):
    peft = pytest.importorskip("peft")
    source = tiny_pipeline("stable", texts=True)
    torch.manual_seed(1)
    source.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    weights = peft.get_peft_model_state_dict(source.unet)
    type(source).save_lora_weights(tmp_path, unet_lora_layers=weights)
    pipe = tiny_pipeline("stable", texts=True)
    den = rg.interop.diffusers.denoiser(pipe)
    x = start_of(den)
    bare = ours(pipe, den, x)
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors", adapter_name="style")
    made = [ours(pipe, den, x)]
    assert gap(made[0], theirs(pipe, x)) < TOLERANCE < gap(made[0], bare)
    pipe.set_adapters(["style"], [0.3])
    made.append(ours(pipe, den, x))
    assert gap(made[1], theirs(pipe, x)) < TOLERANCE < gap(made[1], made[0])
    pipe.fuse_lora(adapter_names=["style"])
    pipe.unload_lora_weights()
    assert gap(ours(pipe, den, x), theirs(pipe, x)) < TOLERANCE
    assert gap(ours(pipe, den, x), bare) > TOLERANCE


def test_a_plan_is_sampled_as_it_was_before_an_adapter_in_the_pipelines_own_scheduler(tiny_pipeline):
    """PlanScheduler touches no weights: the adapter is active under it, too."""
    peft = pytest.importorskip("peft")
    pipe = tiny_pipeline("stable", texts=True)
    den = rg.interop.diffusers.denoiser(pipe)
    plan = rg.plan("dpmpp_2m", den, nfe=STEPS)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))
    pipe.scheduler = rg.interop.diffusers.PlanScheduler.instead_of(pipe.scheduler, plan)
    x = start_of(den)
    same = rg.sample(rg.guide.cfg(den, 3.0), plan, x=x * den.path.s(plan.start), condition=TEXTS)
    assert gap(theirs(pipe, x), same) < TOLERANCE


def test_slicing_and_tiling_of_the_autoencoder_are_heeded(tiny_pipeline):
    pipe = tiny_pipeline("stable", texts=True)
    den = rg.interop.diffusers.denoiser(pipe)
    z = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    whole = den.codec.decode(z)
    pipe.vae.enable_slicing()
    sliced, decoder = [], pipe.vae.decoder
    decoder.register_forward_pre_hook(lambda module, given: sliced.append(len(given[0])))
    torch.testing.assert_close(den.codec.decode(z), whole)
    assert sliced == [1, 1, 1]
    pipe.vae.disable_slicing()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 8, 4
    pipe.vae.enable_tiling()
    config = pipe.vae.config
    with torch.no_grad():
        expected = pipe.vae.decode(z / config.scaling_factor).sample
    torch.testing.assert_close(den.codec.decode(z), expected)
    assert not torch.allclose(den.codec.decode(z), whole, atol=1e-4)
