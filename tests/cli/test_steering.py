"""`retrograde sample --guide`: what is typed is what the library does, and mistakes list what exists."""

import json

import numpy as np
import pytest
import torch

import retrograde as rg

ASKED = ("sample", "toys:blobs", "-n", 3, "--condition", 1, "--nfe", 4, "-o", "x.npz")


def drawn(denoiser, plan):
    return rg.sample(denoiser, plan, n=3, condition=[1, 1, 1])


def test_guides_nest_in_the_order_they_are_typed(call):
    ran = call(*ASKED, "--guide", "apg:scale=7,momentum=-0.5", "--guide", "interval:0.2,0.8", "--json")
    assert ran.code == 0
    den = rg.load("toys:blobs")
    within = rg.guide.interval(rg.guide.apg(den, 7.0, momentum=-0.5), 0.2, 0.8)
    with np.load("x.npz") as file:
        assert torch.equal(torch.from_numpy(file["samples"]), drawn(within, rg.plan("dpmpp_2m", den, nfe=4)))
        assert json.loads(str(file["retrograde"]))["guide"] == ["apg:scale=7,momentum=-0.5", "interval:0.2,0.8"]
    assert 4 <= ran.json["evaluations"] < 8


@pytest.mark.parametrize(
    ("typed", "make"),
    [
        (["cfg:3"], lambda den: rg.guide.cfg(den, 3.0)),
        (["cfg:strength=2,negative=0"], lambda den: rg.guide.cfg(den, strength=2.0, negative={"label": 0})),
        (["apg:4,eta=0.5,norm=inf"], lambda den: rg.guide.apg(den, 4.0, parallel=0.5)),
        (["cfg:3", "rescale:0.5"], lambda den: rg.guide.rescale(rg.guide.cfg(den, 3.0), 0.5)),
        (["cfg:3", "threshold:none,2"], lambda den: rg.guide.threshold(rg.guide.cfg(den, 3.0), None, 2)),
        (["autoguide:toys:blobs,1.5"], lambda den: rg.guide.autoguide(den, den, 1.5)),
        (["anneal:1.5"], lambda den: rg.guide.anneal(den, 1.5)),
        (["product:toys:blobs"], lambda den: rg.guide.product([den, den])),
        (["residual:2,delta=0.5"], lambda den: rg.guide.residual(den, 2.0, delta=0.5)),
    ],
)
def test_what_is_typed_is_what_the_library_does(typed, make, call):
    assert call(*ASKED, *(word for text in typed for word in ("--guide", text))).code == 0
    den = rg.load("toys:blobs")
    with np.load("x.npz") as file:
        assert torch.equal(torch.from_numpy(file["samples"]), drawn(make(den), rg.plan("dpmpp_2m", den, nfe=4)))


def test_perturbed_attention_and_superposed_models_are_typed(call):
    asked = ("sample", "toys:labelled_network", "-n", 2, "--nfe", 3, "--solver", "reverse_diffusion", "-o", "x.npz")
    den = rg.load("toys:labelled_network")
    plan = rg.plan("reverse_diffusion", den, nfe=3)
    for typed, made in (
        ("pag:scale=2,sites=middle.attention", rg.guide.pag(den, 3.0, sites=["middle.attention"])),
        ("superpose:toys:labelled_network,temperature=0", rg.guide.superpose([den, den], temperature=0.0)),
    ):
        assert call(*asked, "--guide", typed).code == 0
        with np.load("x.npz") as file:
            assert torch.equal(torch.from_numpy(file["samples"]), rg.sample(made, plan, n=2))


def test_a_guide_of_the_plan_changes_its_rows(call):
    assert call(*ASKED, "--solver", "ddim", "--guide", "cfgpp:0.6").code == 0
    den = rg.load("toys:blobs")
    expected = drawn(rg.guide.cfg(den, 1.0), rg.guide.cfgpp(rg.plan("ddim", den, nfe=4), 0.6))
    with np.load("x.npz") as file:
        assert torch.equal(torch.from_numpy(file["samples"]), expected)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (
            "agp:7",
            [
                "anneal, apg, autoguide, cfg, cfgpp, first_network, interval, pag, product, rescale, residual",
                "'apg' or 'cfgpp'",
            ],
        ),
        ("apg:7,momentun=1", ["eta, momentum, negative, norm, parallel, radius", "did you mean 'momentum'"]),
        ("apg:scal=7", ["did you mean 'scale'"]),
        ("apg:7,momentum=none", ["momentum='none'", "a number, or inf"]),
        ("apg:scale=seven", ["scale='seven'", "mend: scale=1.5"]),
        ("Cfg=3", ["NAME:SETTINGS", "--guide cfg:3"]),
        ("compose:3", ["rg.guide.compose", "from Python"]),
        ("help", ["`retrograde guides`"]),
        ("pag:3", ["torch module"]),
        ("first_network:toys:blobs", ["holds signal at its end"]),
        ("pag", ["without weight", "strength=None, sites=None"]),
        ("superpose:temperature=1", ["without other", "other, temperature=1.0"]),
        ("superpose:toys:blobs", ["draws no noise", "--solver reverse_diffusion"]),
        ("apg", ["--guide apg without weight", "momentum=-0.5"]),
        ("cfg", ["without weight"]),
        ("cfg:much", ["a number"]),
        ("interval:0.2,0.8,3", ["one too many"]),
        ("apg:7,weight=3", ["one too many"]),
        ("interval:0.2,0.8", ["not guided", "--guide cfg:3 --guide interval:0.2,0.8"]),
        ("cfgpp:0.6", ["dpmpp_2m", "one evaluation", "--solver ddim"]),
    ],
)
def test_mistakes_list_what_exists(typed, words, call):
    refused = call(*ASKED, "--guide", typed)
    assert refused.code == 2
    told = " ".join(refused.err.split())
    for word in words:
        assert word in told


def test_guides_are_listed_with_their_settings(call):
    found = {one["name"]: one["usage"] for one in call("guides", "--json").json}
    assert found["apg"] == "weight, momentum=-0.5, radius=inf, parallel=0.0, negative=None"
    assert found["product"] == "other"
    assert "shift_time" in call("guides").out


def test_guidance_twice_and_guidance_to_nowhere_are_told(call):
    twice = call(*ASKED, "--guidance", 3, "--guide", "apg:7")
    assert twice.code == 2
    assert "around a guide by the condition" in twice.err
    plain = ("sample", "toys:blobs", "-n", 2, "--nfe", 2, "-o", "x.npz", "--guide")
    assert "from the model to itself" in call(*plain, "cfg:3").err
    assert call(*plain, "cfg:3,negative=0").err == ""
    assert call(*plain, "cfg:3", "--condition", 1).err == ""
