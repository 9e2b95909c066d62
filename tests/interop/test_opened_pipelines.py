"""Pipelines opened as denoisers: the library's loop makes what the pipeline makes, for every kind (transformers needed)."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.interop.inpainting import PutBack
from retrograde.interop.schedulers import from_diffusers

pytestmark = [pytest.mark.diffusers, pytest.mark.filterwarnings("ignore")]
TOLERANCE, STEPS = 1e-4, 8
PAGE = Path(__file__).parents[2] / "docs" / "pipelines.md"
TEXTS, NEGATIVE = ["a red cat", "the moon"], "blurry"
SIZE = {"height": 16, "width": 16}
DRAWS = torch.Generator().manual_seed(7)
IMAGE = torch.rand(2, 3, 16, 16, generator=DRAWS)
MASK = (torch.arange(16) < 8).float().expand(2, 1, 16, 16)
LATENT = {"stable", "stable_xl", "sd3", "flux", "wan"}
CLASS_NAMES = {
    "ddpm": "DDPMPipeline",
    "ddim": "DDIMPipeline",
    "dit": "DiTPipeline",
    "stable": "StableDiffusionPipeline",
    "stable_img2img": "StableDiffusionImg2ImgPipeline",
    "stable_inpaint": "StableDiffusionInpaintPipeline",
    "stable_xl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
    "wan": "WanPipeline",
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory, tiny_pipeline):
    """The folder of a pipeline with text encoders, as diffusers saves it."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("pipelines") / name
            tiny_pipeline(name, texts=True).save_pretrained(made[name])
        return made[name]

    return folder


def read(folder):
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plan_of(pipe, n=STEPS):
    """The plan of the pipeline's scheduler, on the levels that the pipeline asks of it."""
    if not pipe.scheduler.config.get("use_dynamic_shifting"):
        return from_diffusers(pipe.scheduler, n)
    shift = 0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256)  # by the number of patches, 16
    return from_diffusers(pipe.scheduler, sigmas=np.linspace(1.0, 1.0 / n, n), mu=shift)


def call_of(name, x, n=STEPS):
    """What the pipeline is called with: guidance and a negative prompt wherever it knows them."""
    seeded = {"num_inference_steps": n, "generator": torch.Generator().manual_seed(3)}
    if name in ("ddpm", "ddim"):
        return seeded | {"batch_size": 2, "output_type": "np"}
    if name == "dit":
        return seeded | {"class_labels": [3, 7], "guidance_scale": 4.0, "output_type": "pt"}
    call = seeded | {"prompt": TEXTS, "negative_prompt": [NEGATIVE] * 2, "guidance_scale": 4.0, "output_type": "pt"}
    if name == "flux":
        call |= {"true_cfg_scale": call.pop("guidance_scale")}
    if name in ("stable_img2img", "stable_inpaint"):
        call |= {"image": IMAGE, "strength": 0.6}
    if name == "stable_inpaint":
        call |= {"mask_image": MASK}
    if name in LATENT:
        call |= {"latents": x}
    return call | (SIZE if name != "stable_img2img" else {}) | ({"num_frames": 5} if name == "wan" else {})


def opened(name, folder):
    if name in ("flux", "wan"):
        return rg.load(folder, **SIZE, **({"frames": 5} if name == "wan" else {}))
    return rg.load(folder)


def guided(name, den):
    if name in ("ddpm", "ddim"):
        return den
    return rg.guide.cfg(den, 4.0) if name == "dit" else rg.guide.cfg(den, 4.0, negative=NEGATIVE)


def images(den, states):
    """Pixels in [0, 1], channels first."""
    data = states if den.codec is None else den.codec.decode(states)
    return (data / 2 + 0.5).clamp(0, 1)


def frames(made):
    """What a pipeline made, channels first."""
    found = made.images if hasattr(made, "images") else made.frames
    if isinstance(found, np.ndarray):
        return torch.from_numpy(found).permute(0, 3, 1, 2)
    return found.transpose(1, 2) if found.ndim == 5 else found


def run_of(name, den, plan, drawn):
    """The states at the end of the same run on the library's loop."""
    condition = {"ddpm": None, "ddim": None, "dit": [3, 7]}.get(name, TEXTS)
    draws = torch.Generator().manual_seed(3)
    if name not in ("stable_img2img", "stable_inpaint"):
        x = torch.randn(2, *den.shape, generator=draws)
        start = plan.provenance["start_noise"] * den.path.s(plan.start) * x
        noise = {"noise": lambda seed, items: drawn(draws)} if plan.stochastic else {}
        return rg.sample(guided(name, den), plan, x=start, condition=condition, **noise)
    late = plan.from_noise(den.path.sigma(plan.times[STEPS - int(STEPS * 0.6)]))
    known, eps = (torch.randn(2, *den.shape, generator=draws) for _ in range(2))
    known = den.codec.encode(2 * IMAGE - 1, eps=known)
    x = den.path.a(late.start) * known + den.path.s(late.start) * eps
    put = [PutBack(den.path, known, MASK[:, :, ::2, ::2], eps)] if name == "stable_inpaint" else []
    return rg.sample(guided(name, den), late, x=x, condition=condition, controllers=put)


def gap(ones, others):
    return float((ones - others).abs().max() / others.abs().max())


def start_of(den):
    return torch.randn(2, *den.shape, generator=torch.Generator().manual_seed(3))


def stated():
    """The table of the page: the two deviations of each kind of pipeline."""
    rows = re.findall(
        r"^\| `(\w+Pipeline)`[^|]*\|[^|]*\| ([\d.e-]+) \| ([\d.e-]+) \|$", PAGE.read_text(encoding="utf-8"), re.M
    )
    return {name: (float(loop), float(scheduler)) for name, loop, scheduler in rows}


def test_the_page_has_a_row_for_each_kind():
    assert set(stated()) == set(CLASS_NAMES.values())
    assert max(max(pair) for pair in stated().values()) < TOLERANCE


@pytest.mark.parametrize("name", list(CLASS_NAMES))
def test_the_librarys_loop_makes_what_the_pipeline_makes(name, folder_of, drawn):
    pipe, den = read(folder_of(name)), opened(name, folder_of(name))
    assert type(pipe).__name__ == CLASS_NAMES[name]
    theirs = frames(pipe(**call_of(name, start_of(den))))
    deviation = gap(images(den, run_of(name, den, plan_of(pipe), drawn)), theirs)
    assert deviation < TOLERANCE
    assert deviation <= 4 * stated()[CLASS_NAMES[name]][0]  # the last digits are the machine's


@pytest.mark.parametrize("name", list(CLASS_NAMES))
def test_a_plan_in_the_pipeline_saved_and_read_makes_what_the_scheduler_makes(name, folder_of, tmp_path):
    from retrograde.interop.diffusers import PlanScheduler

    pipe = read(folder_of(name))
    x = start_of(opened(name, folder_of(name)))
    theirs = frames(pipe(**call_of(name, x)))
    pipe.scheduler = PlanScheduler.instead_of(pipe.scheduler, plan_of(pipe))
    ours = frames(pipe(**call_of(name, x)))
    pipe.save_pretrained(tmp_path)
    again = read(tmp_path)
    if name == "ddim":  # that pipeline makes every scheduler its own kind; the folder holds the plan all the same
        again.scheduler = PlanScheduler.from_pretrained(str(tmp_path), subfolder="scheduler")
    assert again.scheduler.plan == pipe.scheduler.plan
    deviation = gap(ours, theirs)
    assert deviation < TOLERANCE
    assert deviation <= 4 * stated()[CLASS_NAMES[name]][1]
    assert gap(frames(again(**call_of(name, x))), ours) < 1e-5  # the same numbers, in memory aligned otherwise
