import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import retrograde as rg


def test_samples_are_those_of_the_library(call):
    ran = call("sample", "toys:blobs", "--nfe", 6, "--solver", "heun", "-n", 5, "--seed", 3, "-o", "x.npz")
    assert ran.code == 0
    den = rg.load("toys:blobs")
    expected = rg.sample(den, rg.plan("heun", den, nfe=6), n=5, seed=3)
    with np.load("x.npz") as file:
        assert torch.equal(torch.from_numpy(file["samples"]), expected)
        assert file["items"].tolist() == [0, 1, 2, 3, 4]
        assert json.loads(str(file["retrograde"]))["seed"] == 3


def test_batches_and_formats_do_not_change_samples(call):
    call("sample", "toys:blobs", "-n", 5, "-o", "one.npz")
    call("sample", "toys:blobs", "-n", 5, "-o", "two.safetensors", "--batch-size", 2)
    assert torch.equal(torch.from_numpy(np.load("one.npz")["samples"]), load_file("two.safetensors")["samples"])


def test_the_picture_shows_the_samples(call):
    assert call("sample", "toys:blobs", "-n", 4, "--condition", "0-2", "-o", "x.png").code == 0
    image = np.asarray(Image.open("x.png"))
    den = rg.load("toys:blobs")
    samples = rg.sample(den, rg.plan("dpmpp_2m", den, nfe=10), n=4, condition=[0, 1, 2, 0])
    # four items in two columns, seven times enlarged, two pixels apart
    assert image.shape == (2 * 56 + 2, 2 * 56 + 2)
    shown = image[0::7, 58::7][:8, :8].astype(float) / 127.5 - 1
    assert np.abs(shown - samples[1, 0].clamp(-1, 1).numpy()).max() < 0.01
    assert json.loads(Image.open("x.png").text["retrograde"])["model"] == "toys:blobs"


def test_json_counts_evaluations_and_branches(call):
    ran = call("sample", "toys:blobs", "-n", 3, "--nfe", 4, "--guidance", 2.0, "--condition", 1, "-o", "x.npz", "--json")
    assert ran.json["evaluations"] == 8
    assert ran.json["nfe"] == 4
    assert ran.json["seconds"] > 0


def test_a_plan_file_is_run(call):
    den = rg.load("toys:blobs")
    plan = rg.plan("deis_tab2", den, nfe=5, grid="log_snr")
    plan.save("plan.json")
    assert call("sample", "toys:blobs", "--plan", "plan.json", "-n", 2, "-o", "x.npz").code == 0
    assert torch.equal(torch.from_numpy(np.load("x.npz")["samples"]), rg.sample(den, plan, n=2))


def test_a_plan_of_another_path_is_refused_with_the_way_to_convert(call):
    rg.plan("ddim", rg.paths.EDM(sigma_max=20.0, sigma_min=0.1), nfe=4).save("plan.json")
    refused = call("sample", "toys:points", "--plan", "plan.json")
    assert refused.code == 2
    assert "--convert" in refused.err
    assert call("sample", "toys:points", "--plan", "plan.json", "--convert").code == 0


def test_nan_is_told_and_finished_items_are_written(call):
    ran = call("sample", "toys:sometimes_nan", "-n", 8, "-o", "x.npz")
    assert ran.code == 1
    assert "row 0 at time 80.0" in ran.err
    with np.load("x.npz") as file:
        items, samples = file["items"].tolist(), file["samples"]
    assert f"{len(items)} of 8 items" in ran.err
    positive = rg.sampling.Noise.first(8).prior((1, 8, 8))[:, 0, 0, 0] > 0
    assert items == [i for i in range(8) if not positive[i]]
    assert np.isfinite(samples).all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["toys:blobs", "--plan", "p.json", "--nfe", 3], "leave out --nfe or --plan"),
        (["toys:blobs", "--plan", "p.json"], "no file p.json"),
        (["toys:blobs", "--plan", "toys.py"], "a plan file of version"),
        (["toys:blobs", "--solver", "dpmpp_2n"], "'dpmpp_2m'"),
        (["toys:blobs", "--grid", "carras"], "did you mean 'karras'"),
        (["digitz"], "did you mean 'digits'"),
        (["toys:nothing"], "return retrograde.Denoiser"),
        (["toys:absent"], "check both parts"),
        (["toys:points", "-o", "x.png"], "-o samples.npz"),
        (["toys:blobs", "-o", "x.jpg"], "-o x.npz"),
        (["toys:blobs", "--condition", "three"], "--condition 3"),
        (["toys:labelled_network", "--condition", "4"], "--condition 0-2"),
        (["toys:blobs", "--set", "eta"], "--set eta=0.5"),
        (["toys:blobs", "--set", "eta=1"], "eta"),
        (["toys:blobs", "--nfe", "0"], "--nfe"),
        (["toys:points", "--condition", "3"], "it takes none"),
    ],
)
def test_a_mistake_is_answered_in_a_line_that_mends_it(call, tmp_path, arguments, words):
    before = set(tmp_path.iterdir())
    ran = call("sample", *arguments)
    assert ran.code == 2
    assert words in ran.err
    assert "Traceback" not in ran.err
    assert {f for f in tmp_path.iterdir() if f.name != "__pycache__"} == {f for f in before if f.name != "__pycache__"}


def test_json_tells_the_error_too(call):
    error = call("sample", "toys:blobs", "--solver", "dimm", "--json").json["error"]
    assert error["kind"] == "UnknownName"
    assert set(error) == {"kind", "given", "allowed", "mend"}


def test_traceback_is_shown_when_asked(capsys):
    from retrograde.cli import main
    from retrograde.errors import UnknownName

    with pytest.raises(UnknownName):
        main(["sample", "digitz", "--traceback"])


def test_a_threshold_keeps_the_predictions_in_range(call):
    asked = ("sample", "toys:blobs", "-n", 3, "--guidance", 6.0, "--condition", 1, "--seed", 2)
    assert call(*asked, "--threshold", 0.9, "-o", "x.npz").code == 0
    guided = rg.guide.cfg(rg.load("toys:blobs"), 6.0)
    plan = rg.plan("dpmpp_2m", guided, nfe=10)
    expected = rg.sample(rg.guide.threshold(guided, 0.9), plan, n=3, seed=2, condition=[1, 1, 1])
    assert torch.equal(torch.from_numpy(np.load("x.npz")["samples"]), expected)
    assert not torch.equal(expected, rg.sample(guided, plan, n=3, seed=2, condition=[1, 1, 1]))
    refused = call(*asked, "--threshold", 2.0)
    assert (refused.code, "quantile=2.0" in refused.err) == (2, True)


def test_steps_choose_themselves(call):
    asked = ("sample", "toys:blobs", "-n", 3, "--seed", 2)
    ran = call(*asked, "--adaptive", "dpm_23", "--set", "rtol=0.02", "-o", "x.npz", "--json")
    den = rg.load("toys:blobs")
    it = rg.controllers.adaptive(den, "dpm_23", rtol=0.02)
    rec = rg.record(den, it.plan, n=3, seed=2, controllers=[it])
    assert torch.equal(torch.from_numpy(np.load("x.npz")["samples"]), rec.samples)
    assert (ran.json["evaluations"], ran.json["recipe"]) == (rec.ledger.nfe, "adaptive_dpm_23@1")
    assert call(*asked, "--adaptive", "sde_12", "-o", "y.npz").code == 0
    for wrong, named in (
        ("--nfe=4", "--nfe"),
        ("--solver=heun", "--solver"),
        ("--set=eta=1", "rtol"),
        ("--plan=x", "--plan"),
    ):
        refused = call(*asked, "--adaptive", "dpm_23", wrong)
        assert (refused.code, named in refused.err) == (2, True), refused.err
