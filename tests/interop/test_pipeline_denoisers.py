"""What a pipeline's denoiser is told and takes over: conventions, texts, sizes, types, adapters."""

import dataclasses
import json

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.interop.schedulers import from_diffusers, path_of

pytestmark = [pytest.mark.diffusers, pytest.mark.filterwarnings("ignore")]
DRAWS = torch.Generator().manual_seed(0)
PROMPT, OTHER = torch.randn(2, 2, 5, 12, generator=DRAWS)
X = torch.randn(2, 4, 8, 8, generator=DRAWS)
TOLERANCE = 1e-4


def denoiser(pipe, **size):
    return rg.interop.diffusers.denoiser(pipe, **size)


def gap(ones, others):
    return float((ones - others).abs().max() / others.abs().max())


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("rescaled", [False, True])
def test_every_prediction_type_and_terminal_snr_of_zero(kind, rescaled, tiny_pipeline, scheduler_called):
    if rescaled and kind == "epsilon":
        pytest.skip("a network that predicts the noise says nothing where there is no signal")
    pipe = tiny_pipeline("stable")
    options = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}
    pipe.scheduler = scheduler_called(
        "DDIMScheduler", prediction_type=kind, rescale_betas_zero_snr=rescaled, clip_sample=False, **options
    )
    den, plan = denoiser(pipe), from_diffusers(pipe.scheduler, 6)
    assert (den.path.a(1.0) < 1e-9) == rescaled
    assert den.predicts == {"epsilon": "noise", "sample": "data", "v_prediction": "v"}[kind]
    call = {"prompt_embeds": PROMPT, "negative_prompt_embeds": OTHER, "guidance_rescale": 0.7, "guidance_scale": 3.0}
    theirs = pipe(**call, latents=X, num_inference_steps=6, output_type="latent", height=16, width=16).images
    steered = rg.guide.rescale(rg.guide.cfg(den, 3.0, negative={"prompt": OTHER}), 0.7)
    ours = rg.sample(steered, plan, x=X, condition={"prompt": PROMPT})
    # the pipeline divides spreads with n - 1 where the paper and `rescale` divide with n: the same ratio
    assert gap(ours, theirs) < TOLERANCE


def test_clipped_samples_are_a_transform(tiny_pipeline, scheduler_called, drawn):
    pipe = tiny_pipeline("ddpm")
    pipe.scheduler = scheduler_called("DDPMScheduler", clip_sample=True)
    plan = from_diffusers(pipe.scheduler, 6, clip_sample=False)
    theirs = pipe(batch_size=2, num_inference_steps=6, generator=torch.Generator().manual_seed(3), output_type="np").images
    theirs = 2 * torch.from_numpy(theirs).permute(0, 3, 1, 2) - 1
    den, made = denoiser(pipe), []
    for d in (rg.guide.threshold(den, None), den):
        draws = torch.Generator().manual_seed(3)
        x = torch.randn(2, 3, 8, 8, generator=draws)
        made.append(rg.sample(d, plan, x=x, noise=lambda seed, items, draws=draws: drawn(draws)).clamp(-1, 1))
    ours, free = made
    assert gap(ours, theirs) < TOLERANCE < gap(free, theirs)


def test_an_inpainting_network_is_told_mask_and_image_in_both_branches(tiny_pipelines, tiny_pipeline):
    pipe = tiny_pipelines.stable("StableDiffusionInpaintPipeline", texts=True, in_channels=9)
    pipe.set_progress_bar_config(disable=True)
    image = torch.rand(2, 3, 16, 16, generator=DRAWS)
    mask = (torch.arange(16) < 8).float().expand(2, 1, 16, 16)
    masked = torch.randn(2, 4, 8, 8, generator=DRAWS)
    call = {"prompt": ["a", "b"], "guidance_scale": 3.0, "latents": X}
    call |= {"image": image, "mask_image": mask, "masked_image_latents": masked, "height": 16, "width": 16}
    theirs = pipe(**call, num_inference_steps=6, output_type="latent").images
    den = denoiser(pipe)
    assert den.shared == {"mask", "masked"}
    guided = rg.guide.cfg(den, 3.0)
    condition = {"prompt": ["a", "b"], "mask": mask[:, :, ::2, ::2], "masked": masked}
    assert gap(rg.sample(guided, from_diffusers(pipe.scheduler, 6), x=X, condition=condition), theirs) < TOLERANCE
    alone = rg.guide.compose(den, [{}], [3.0])  # its other branch has the mask too
    other = {**condition, "mask": 1 - condition["mask"]}
    one, two = (alone.predict(X, 0.5, rg.denoisers.prepare_condition(den, c, 2)) for c in (condition, other))
    assert not torch.allclose(one.parts["unconditional"].value, two.parts["unconditional"].value)


def test_a_network_distilled_from_a_guided_one_is_told_the_weight(tiny_pipelines):
    pipe = tiny_pipelines.stable(time_cond_proj_dim=8)
    pipe.set_progress_bar_config(disable=True)
    # a distilled network is asked once; the pipeline still asks twice, and weight 1 leaves the conditional branch alone
    call = {"prompt_embeds": PROMPT, "guidance_scale": 1.0, "latents": X, "height": 16, "width": 16}
    theirs = pipe(**call, num_inference_steps=4, output_type="latent").images
    den, plan = denoiser(pipe), from_diffusers(pipe.scheduler, 4)
    assert float(den.conditions["embedded_guidance"]) == 7.5
    ours, other = (
        rg.sample(den, plan, x=X, condition={"prompt": PROMPT, "embedded_guidance": weight}) for weight in (1.0, 5.0)
    )
    assert gap(ours, theirs) < TOLERANCE < gap(other, theirs)


def test_flux_is_told_its_guidance(tiny_pipelines):
    pipe = tiny_pipelines.flux(guided=True)
    pipe.set_progress_bar_config(disable=True)
    pooled = torch.randn(2, 16, generator=DRAWS)
    den = denoiser(pipe, height=16, width=16)
    x = torch.randn(2, *den.shape, generator=DRAWS)
    call = {"prompt_embeds": PROMPT, "pooled_prompt_embeds": pooled, "guidance_scale": 6.0, "latents": x}
    theirs = pipe(**call, num_inference_steps=1, output_type="latent", height=16, width=16).images
    plan = from_diffusers(pipe.scheduler, sigmas=[1.0], mu=0.5)
    condition = {"prompt": PROMPT, "pooled": pooled}
    ours = rg.sample(den, plan, x=x, condition=condition | {"embedded_guidance": 6.0})
    assert gap(ours, theirs) < TOLERANCE
    assert float(den.conditions["embedded_guidance"]) == 3.5
    assert gap(rg.sample(den, plan, x=x, condition=condition), theirs) > TOLERANCE


def test_of_two_networks_the_second_is_asked_below_the_boundary(tiny_pipelines):
    pipe = tiny_pipelines.wan(boundary=0.7)
    pipe.set_progress_bar_config(disable=True)
    den, size = denoiser(pipe, height=16, width=16, frames=5), {"height": 16, "width": 16, "num_frames": 5}
    x = torch.randn(1, *den.shape, generator=DRAWS)
    theirs = pipe("a cat", latents=x, num_inference_steps=6, guidance_scale=1.0, output_type="latent", **size).frames
    plan = from_diffusers(pipe.scheduler, 6)
    assert gap(rg.sample(den, plan, x=x, condition="a cat"), theirs) < TOLERANCE
    alone = denoiser(tiny_pipelines.wan(), height=16, width=16, frames=5)
    assert gap(rg.sample(alone, plan, x=x, condition="a cat"), theirs) > TOLERANCE


def test_the_size_of_an_xl_image_is_a_condition(tiny_pipeline):
    pipe = tiny_pipeline("stable_xl", texts=True)
    den, plan = denoiser(pipe), from_diffusers(pipe.scheduler, 3)
    size = {"original_size": (64, 32), "crops_coords_top_left": (4, 2), "target_size": (16, 8)}
    call = {"prompt": ["a", "b"], "latents": X, "guidance_scale": 3.0, "height": 16, "width": 16}
    theirs = pipe(**call, **size, num_inference_steps=3, output_type="latent").images
    told = torch.tensor([64.0, 32, 4, 2, 16, 8])
    x = X * plan.provenance["start_noise"] * den.path.s(plan.start)
    ours = rg.sample(rg.guide.cfg(den, 3.0), plan, x=x, condition={"prompt": ["a", "b"], "size": told})
    assert gap(ours, theirs) < TOLERANCE
    assert den.conditions["size"].tolist() == [16, 16, 0, 0, 16, 16]


def test_texts_are_read_wherever_conditions_are_given(tiny_pipeline):
    den = denoiser(tiny_pipeline("stable", texts=True))
    embedded = den.reads["prompt"](["a cat", "dogs"])["prompt"]
    plan = rg.plan("ddim", den.path, nfe=3)
    alone = rg.sample(den, plan, n=1, seed=4, condition="dogs")
    for condition in (["dogs"], {"prompt": "dogs"}, {"prompt": embedded[1]}, {"prompt": embedded[1:]}):
        assert torch.equal(rg.sample(den, plan, n=1, seed=4, condition=condition), alone)
    pair = rg.sample(den, plan, n=2, seed=4, condition=["dogs", "a cat"])
    torch.testing.assert_close(pair[:1], alone, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(den(X, 0.5, prompt="dogs").value, den(X, 0.5, prompt=embedded[1]).value)
    guided = [rg.guide.cfg(den, 3.0, negative=n) for n in ("a cat", {"prompt": embedded[0]}, None)]
    one, two, other = (rg.sample(d, plan, n=1, seed=4, condition="dogs") for d in guided)
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)
    assert rg.guide.interval(guided[0], 0.1, 5.0).codec is den.codec
    composed = rg.guide.compose(den, [{"prompt": "dogs"}], [3.0])
    torch.testing.assert_close(
        rg.sample(composed, plan, n=1, seed=4), rg.sample(guided[2], plan, n=1, seed=4, condition="dogs")
    )
    with pytest.raises(BadType, match=r"reads no text[\s\S]*condition="):
        rg.sample(rg.load("digits"), rg.plan("ddim", rg.load("digits").path, nfe=2), condition="three")
    with pytest.raises(BadType, match="texts for prompt"):
        rg.sample(den, plan, condition={"prompts": "dogs"})


def test_without_text_encoders_embeddings_have_to_be_given(tiny_pipeline):
    den = denoiser(tiny_pipeline("stable"))
    assert den.reads == {}
    plan = rg.plan("ddim", den.path, nfe=2)
    with pytest.raises(BadValue, match=r"no 'prompt'[\s\S]*embeddings"):
        rg.sample(den, plan)
    with pytest.raises(BadValue, match="negative branch"):
        rg.sample(rg.guide.cfg(den, 2.0), plan, n=2, condition={"prompt": PROMPT})
    assert (
        rg.sample(rg.guide.cfg(den, 2.0, negative={"prompt": OTHER}), plan, n=2, condition={"prompt": PROMPT})
        .isfinite()
        .all()
    )


def test_the_network_is_the_pipelines_own_at_every_call(tiny_pipeline):
    pipe = tiny_pipeline("stable", texts=True)
    den = denoiser(pipe)
    before = den(X, 0.5, prompt="a").value
    pipe.unet.conv_out.bias.data += 1.0
    torch.testing.assert_close(den(X, 0.5, prompt="a").value, before + 1.0)
    pipe.unet = torch.nn.Module.to(pipe.unet, torch.bfloat16)
    half = den(X, 0.5, prompt="a").value
    assert half.dtype == torch.float32
    assert 1e-5 < gap(half, before + 1.0) < 0.05
    assert pipe.unet.dtype == torch.bfloat16


def test_adapters_stay_active(tiny_pipeline):
    peft = pytest.importorskip("peft")
    pipe = tiny_pipeline("stable", texts=True)
    den = denoiser(pipe)
    before = den(X, 0.5, prompt="a").value
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.unet.add_adapter(config)
    with_it = den(X, 0.5, prompt="a").value
    with torch.no_grad():
        t = torch.full((2,), den.network_time(0.5))
        theirs = pipe.unet(X, t, encoder_hidden_states=den.reads["prompt"](["a", "a"])["prompt"]).sample
    torch.testing.assert_close(with_it, theirs)
    assert not torch.allclose(with_it, before)
    pipe.unet.disable_adapters()
    torch.testing.assert_close(den(X, 0.5, prompt="a").value, before)


def test_a_cache_inside_the_network_is_refused(tiny_pipeline):
    """Its memory would outlive the run, and serve one branch with the other's past."""
    from diffusers import FirstBlockCacheConfig

    pipe = tiny_pipeline("flux")
    den = denoiser(pipe, height=16, width=16)
    condition = {"prompt": PROMPT[:1], "pooled": torch.zeros(1, 16)}
    pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    with pytest.raises(BadType, match="disable_cache"):
        den(torch.zeros(1, *den.shape), 0.5, **condition)
    pipe.transformer.disable_cache()
    assert den(torch.zeros(1, *den.shape), 0.5, **condition).value.isfinite().all()


def test_a_batch_of_two_equals_two_singles_and_knobs_reach_the_guidance(tiny_pipeline):
    den = rg.guide.cfg(denoiser(tiny_pipeline("stable", texts=True)), 5.0)
    plan = rg.plan("dpmpp_2m", den.path, nfe=4)
    rows = [dataclasses.replace(row, knobs={"guidance": w}) for row, w in zip(plan.rows, (1.0, 3.0, 3.0, 1.0), strict=True)]
    plan = dataclasses.replace(plan, rows=tuple(rows))
    both = rg.record(den, plan, n=2, seed=1, condition=["a", "b"])
    assert both.ledger.evaluations == {"unet:conditional": 4, "unet:unconditional": 2}
    alone = torch.cat([rg.sample(den, plan, seed=1, items=[i], condition="ab"[i]) for i in range(2)])
    torch.testing.assert_close(both.samples, alone, rtol=1e-4, atol=1e-5)


def test_a_pipeline_that_holds_a_plan_opens_too(tiny_pipeline, tmp_path):
    pipe = tiny_pipeline("ddpm")
    bare = denoiser(pipe)
    plan = rg.plan("dpmpp_2m", bare.path, nfe=3)
    pipe.scheduler = rg.interop.diffusers.PlanScheduler.instead_of(pipe.scheduler, plan)
    pipe.save_pretrained(tmp_path)
    den = rg.load(tmp_path)
    assert (den.path, den.predicts) == (bare.path, bare.predicts)
    torch.testing.assert_close(rg.sample(den, plan, seed=2), rg.sample(bare, plan, seed=2), rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in den.network.pipe.unet.parameters())


def test_classes_of_an_unconditional_network(tiny_pipelines):
    import diffusers

    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "norm_num_groups": 4}
    unet = diffusers.UNet2DModel(sample_size=8, block_out_channels=(8,), layers_per_block=1, num_class_embeds=4, **blocks)
    pipe = diffusers.DDPMPipeline(unet.eval(), diffusers.DDPMScheduler(clip_sample=False))
    den = denoiser(pipe)
    assert den.conditions == {"label": 3}
    x = torch.randn(1, 3, 8, 8, generator=DRAWS)
    with torch.no_grad():
        theirs = unet(x, 499, class_labels=torch.tensor([1])).sample
    torch.testing.assert_close(den(x, 0.5, label=1).value, theirs)


def test_sizes_that_cannot_be_made_are_refused(tiny_pipeline):
    pipe = tiny_pipeline("stable", texts=True)
    assert denoiser(pipe, height=32, width=24).shape == (4, 16, 12)
    assert denoiser(pipe, height=32, width=24).codec.shape == (3, 32, 24)
    with pytest.raises(BadValue, match="height=16, width=16"):
        denoiser(pipe, height=17, width=16)
    with pytest.raises(BadValue, match="frames=5"):
        denoiser(tiny_pipeline("wan", texts=True), height=16, width=16, frames=6)
    with pytest.raises(BadValue, match="this model has its own"):
        rg.load("digits", height=64)


def test_other_pipelines_and_folders_are_refused_with_the_line_that_serves(tiny_pipelines, tiny_pipeline, tmp_path):
    with pytest.raises(BadType, match=r"UNet2DModel[\s\S]*rg\.Denoiser"):
        denoiser(object())
    with pytest.raises(BadType, match="class_embed_type"):
        denoiser(tiny_pipelines.stable(class_embed_type="timestep"))
    pipe = tiny_pipeline("stable", texts=True)
    pipe.save_pretrained(tmp_path / "whole")
    with pytest.raises(UnknownName, match="height"):
        rg.load(tmp_path / "whole", hight=8)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    with pytest.raises(BadValue, match="save_pretrained"):
        rg.load(tmp_path / "broken")
    assert path_of(pipe.scheduler) == rg.load(tmp_path / "whole").path
