"""A plan as the scheduler of text-to-image, image-to-image, inpainting and flow pipelines (transformers needed)."""

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.interop.schedulers import from_diffusers

pytestmark = [pytest.mark.diffusers, pytest.mark.filterwarnings("ignore")]
TOLERANCE = 1e-4
DRAWS = torch.Generator().manual_seed(0)
PROMPT, NEGATIVE = torch.randn(2, 2, 5, 12, generator=DRAWS)
POOLED, NEGATIVE_POOLED = torch.randn(2, 2, 16, generator=DRAWS)
IMAGE = torch.rand(2, 3, 16, 16, generator=DRAWS)
MASK = (torch.arange(16) < 8).float().expand(2, 1, 16, 16)
SIZE = {"height": 16, "width": 16}
TEXT = {"prompt_embeds": PROMPT, "negative_prompt_embeds": NEGATIVE, "guidance_scale": 3.0}
POOLED_TEXT = TEXT | {"pooled_prompt_embeds": POOLED, "negative_pooled_prompt_embeds": NEGATIVE_POOLED}
CALLS = {
    "stable": TEXT | SIZE,
    "stable_img2img": TEXT | {"image": IMAGE, "strength": 0.6},
    "stable_inpaint": TEXT | SIZE | {"image": IMAGE, "mask_image": MASK, "strength": 0.6},
    "sd3": POOLED_TEXT | SIZE,
    "sd3_img2img": POOLED_TEXT | SIZE | {"image": IMAGE, "strength": 0.6},
    "flux": {"prompt_embeds": PROMPT, "pooled_prompt_embeds": POOLED} | SIZE,
}


def plan_of(pipe, name, n):
    """The plan of a pipeline's scheduler, on the levels that the pipeline asks of it."""
    if name != "flux":
        return from_diffusers(pipe.scheduler, n)
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    pixels = (SIZE["height"] // (2 * pipe.vae_scale_factor)) * (SIZE["width"] // (2 * pipe.vae_scale_factor))
    config = pipe.scheduler.config
    mu = calculate_shift(pixels, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift)
    return from_diffusers(pipe.scheduler, sigmas=np.linspace(1.0, 1.0 / n, n), mu=mu)


@pytest.mark.parametrize("name", list(CALLS))
def test_the_imported_plan_makes_what_the_pipelines_scheduler_makes(name, tiny_pipeline, states_of, deviation):
    from retrograde.interop.diffusers import PlanScheduler

    pipe = tiny_pipeline(name)
    theirs = states_of(pipe, num_inference_steps=8, **CALLS[name])
    pipe.scheduler = PlanScheduler.instead_of(pipe.scheduler, plan_of(pipe, name, 8))
    ours = states_of(pipe, num_inference_steps=8, **CALLS[name])
    assert len(ours) == {"stable_img2img": 5, "stable_inpaint": 5, "sd3_img2img": 6}.get(name, 9)
    assert deviation(ours, theirs) < TOLERANCE


LATER = [(name, peer) for name in ("stable_img2img", "stable_inpaint") for peer in ("DPMSolverMultistep", "DDPM")]
"""A plan of UniPC that begins later weighs its first corrector otherwise than the peer does (see `Plan.from_noise`)."""


@pytest.mark.parametrize(
    ("name", "peer"),
    [*(("stable", peer) for peer in ("DPMSolverMultistep", "UniPCMultistep", "DDPM", "EulerDiscrete")), *LATER],
)
def test_multistep_and_stochastic_plans_in_latent_pipelines(
    name, peer, tiny_pipeline, states_of, scheduler_called, deviation
):
    from retrograde.interop.diffusers import PlanScheduler

    pipe = tiny_pipeline(name)
    pipe.scheduler = type(scheduler_called(f"{peer}Scheduler")).from_config(pipe.scheduler.config)
    theirs = states_of(pipe, num_inference_steps=8, **CALLS[name])
    pipe.scheduler = PlanScheduler.instead_of(pipe.scheduler, from_diffusers(pipe.scheduler, 8))
    ours = states_of(pipe, num_inference_steps=8, **CALLS[name])
    assert deviation(ours[-1:], theirs[-1:]) < TOLERANCE  # the peer's Euler holds x_t/a until the end


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_plan_of_the_library_in_a_flow_pipeline(name, tiny_pipeline, states_of, tmp_path):
    """A second-order plan, saved with the pipeline and read back."""
    from retrograde.interop.diffusers import PlanScheduler

    pipe = tiny_pipeline(name)
    plan = rg.plan("dpmpp_2m", rg.paths.Flow(), nfe=5)
    pipe.scheduler = PlanScheduler.instead_of(pipe.scheduler, plan)
    assert pipe.scheduler.sigmas.tolist() == pytest.approx([*plan.times, 0.0])
    made = states_of(pipe, num_inference_steps=5, **CALLS[name])
    pipe.scheduler.save_pretrained(tmp_path)
    pipe.scheduler = PlanScheduler.from_pretrained(tmp_path)
    again = states_of(pipe, num_inference_steps=5, **CALLS[name])
    assert all(map(torch.equal, made, again))
