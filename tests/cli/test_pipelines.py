"""The command on folders that diffusers saved: decoded pictures, prompts, plans that drop in, mistakes."""

import importlib.util
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import retrograde as rg
from retrograde.tune import EFFORTS, Effort

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers"),
]
TINY = Effort(24, 8, 8, 12, 12, 4, 1, 4, 24, ("ddim", "dpmpp_2m"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of small random pipelines, by name."""
    file = Path(__file__).parents[2] / "examples" / "tiny_pipelines.py"
    spec = importlib.util.spec_from_file_location("tiny_pipelines", file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    home = tmp_path_factory.mktemp("pipelines")
    for name in ("ddpm", "dit", "stable", "wan"):
        made.MAKERS[name](texts=True).save_pretrained(home / name)
    made.stable().save_pretrained(home / "silent")
    return home


def test_pictures_of_a_text_pipeline_are_decoded(call, folders, tmp_path):
    texts = ("--prompt", "a cat", "--prompt", "dogs", "--negative-prompt", "blurry", "--guidance", 3.0)
    asked = ("sample", folders / "stable", *texts, "--nfe", 3, "-n", 3, "--seed", 5)
    ran = call(*asked, "-o", "pictures", "--json")
    assert ran.code == 0
    assert ran.json["files"] == [f"pictures/00{i}.png" for i in range(3)]
    assert (ran.json["evaluations"], ran.json["prompts"]) == (6, ["a cat", "dogs"])
    den = rg.load(folders / "stable")
    guided = rg.guide.cfg(den, 3.0, negative="blurry")
    z = rg.sample(guided, rg.plan("dpmpp_2m", den, nfe=3), n=3, seed=5, condition=["a cat", "dogs", "a cat"])
    expected = den.codec.decode(z)
    for i in range(3):
        image = Image.open(f"pictures/00{i}.png")
        shown = np.asarray(image)[::4, ::4].astype(float) / 127.5 - 1  # sixteen pixels, four times enlarged
        assert np.abs(shown - expected[i].clamp(-1, 1).permute(1, 2, 0).numpy()).max() < 0.01
        assert json.loads(image.text["retrograde"])["item"] == i
    assert call(*asked, "-o", "all.npz").code == 0
    with np.load("all.npz") as file:
        torch.testing.assert_close(torch.from_numpy(file["latents"]), z)
        torch.testing.assert_close(torch.from_numpy(file["samples"]), expected)


def test_a_video_is_a_row_of_frames(call, folders):
    size = ("--height", 16, "--width", 16, "--frames", 5)
    assert call("sample", folders / "wan", "--prompt", "a cat", *size, "--nfe", 2, "-n", 2, "-o", "x.png").code == 0
    assert Image.open("x.png").size == (5 * 64 + 4 * 2, 2 * 64 + 2)


def test_a_plan_fitted_by_the_command_runs_in_the_pipeline(call, folders, monkeypatch):
    from diffusers import DiffusionPipeline

    from retrograde.interop.diffusers import PlanScheduler

    monkeypatch.setitem(EFFORTS, "seconds", TINY)
    Path("texts.txt").write_text("a cat\n\nthe moon\ndogs\n")
    ran = call("tune", folders / "stable", "--nfe", 2, "--prompts", "texts.txt", "--guidance", 3.0, "-o", "two.json")
    assert ran.code == 0
    assert "num_inference_steps=2, guidance_scale=3" in ran.out
    assert "PlanScheduler.instead_of" in ran.out
    plan = rg.Plan.load("two.json")
    assert plan.report["pixels"]["error"] > 0
    assert plan.report["error"] <= plan.report["best_recipe"]["error"] * 1.5
    pipe = DiffusionPipeline.from_pretrained(str(folders / "stable"), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = PlanScheduler.instead_of(pipe.scheduler, plan)
    den = rg.load(folders / "stable")
    x = torch.randn(1, *den.shape, generator=torch.Generator().manual_seed(0))
    call_of = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": 16, "width": 16, "output_type": "latent"}
    theirs = pipe("the moon", latents=x, **call_of).images
    ours = rg.sample(rg.guide.cfg(den, 3.0), plan, x=x * den.path.s(plan.start), condition="the moon")
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-4


def test_a_comparison_measures_latents_and_pixels(call, folders, tmp_path):
    asked = ("compare", folders / "stable", "--prompt", "a cat", "--nfe", "2,3", "--solver", "ddim,dpmpp_2m", "-n", 4)
    asked += ("--grid", "log_snr", "--no-tune", "--no-plot", "--reference-nfe", 20, "--quality-n", 12, "-o", "page")
    ran = call(*asked, "--json")
    assert ran.code == 0
    assert all(entry["pixels"]["rms"] > 0 for entry in ran.json["errors"])
    assert {"energy", "energy_pixels"} <= set(ran.json["quality"][0]["figures"])
    assert ran.json["settings"]["prompts"] == ["a cat"]
    page = (tmp_path / "page" / "report.html").read_text()
    assert "rms, decoded" in page
    assert "told" in page
    assert (tmp_path / "page" / "pictures.png").is_file()
    one = next(e for e in ran.json["errors"] if (e["label"], e["nfe"]) == ("ddim", 3))
    den = rg.load(folders / "stable")
    ends = [
        den.codec.decode(rg.sample(den, rg.plan(r, den, nfe=k, grid=g), n=4, condition="a cat"))
        for r, k, g in (("ddim", 3, "log_snr"), ("dpmpp_3m", 20, "karras"))
    ]
    assert one["pixels"]["rms"] == pytest.approx(float((ends[0] - ends[1]).pow(2).mean().sqrt()), rel=1e-3)
    other = call(*(a if a != "a cat" else "dogs" for a in asked), "--json")  # the same folder: nothing may be mixed up
    assert other.json["errors"][0]["rms"] != ran.json["errors"][0]["rms"]


def test_the_references_of_a_discrete_network_ask_no_step_twice(folders, tmp_path):
    from retrograde.cli.candidates import reference_plans
    from retrograde.cli.question import Question

    question = Question("stable", rg.load(folders / "stable"), (4,), tmp_path, prompts=("a cat",))
    assert [plan.nfe for plan in reference_plans(question)] == [200, 200]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ddpm", "--prompt", "a cat"], "leave out --prompt"),
        (["ddpm", "--negative-prompt", "a", "--guidance", "2"], "leave out --negative-prompt"),
        (["dit", "--prompt", "a cat"], "--condition, with values for label"),
        (["dit", "--condition", "1001"], "--condition 0-999"),
        (["stable"], '--prompt "a red cat"'),
        (["stable", "--condition", "3"], '--prompt "a red cat"'),
        (["stable", "--prompt", "a", "--condition", "3"], "leave out --condition"),
        (["stable", "--prompt", "a", "--negative-prompt", "b"], "--guidance 7.5"),
        (["stable", "--prompts", "nowhere.txt"], "a prompt a line"),
        (["stable", "--prompts", "empty.txt"], "nothing is written"),
        (["stable", "--prompt", "a", "--height", "17"], "height=16"),
        (["stable", "--prompt", "a", "--frames", "0"], "--frames"),
        (["silent", "--prompt", "a"], "embeddings"),
    ],
)
@pytest.mark.parametrize("command", ["sample", "tune", "compare"])
def test_a_mistake_is_answered_in_a_line_that_mends_it(call, folders, command, arguments, words):
    Path("empty.txt").write_text("\n \n")
    ran = call(command, folders / arguments[0], *arguments[1:])
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err


def test_no_text_is_not_known_without_text_encoders(call, folders):
    ran = call("sample", folders / "silent")
    assert (ran.code, "embeddings" in ran.err) == (2, True)


@pytest.mark.parametrize(("package", "name"), [("diffusers", "ddpm"), ("transformers", "stable")])
def test_without_what_the_extra_brings_it_is_named(call, folders, monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    ran = call("sample", folders / name, "--prompt", "a cat")
    assert ran.code == 1
    assert f"{package} is needed" in ran.err
    assert "pip install 'retrograde[diffusers]'" in ran.err


def test_a_pipeline_computes_in_half_precision(call, folders):
    asked = ("sample", folders / "stable", "--prompt", "a cat", "--nfe", 2, "-n", 1, "-o", "x.npz", "--dtype")
    made = {}
    for dtype in ("float32", "bfloat16"):
        assert call(*asked, dtype).code == 0
        with np.load("x.npz") as file:
            made[dtype] = torch.from_numpy(file["latents"])
    den = rg.load(folders / "stable", "bfloat16")
    assert den.network.pipe.unet.dtype == den.network.pipe.vae.dtype == torch.bfloat16
    z = rg.sample(den, rg.plan("dpmpp_2m", den, nfe=2), n=1, condition="a cat")
    assert torch.equal(made["bfloat16"], z)
    assert 1e-6 < (made["bfloat16"] - made["float32"]).abs().max() < 0.1 * made["float32"].abs().max()
