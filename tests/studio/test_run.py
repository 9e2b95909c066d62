"""What a page is told when plans run: pictures of what the library computes, differences and errors that are right."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

import retrograde as rg
from retrograde.studio.shelf import REFERENCE


def of(events, kind, side=None):
    return [e for e in events if e["event"] == kind and side in (None, e.get("side"))]


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture)))).astype(int)


def as_pixels(samples):
    """The strip that samples in [-1, 1] make: items under each other."""
    return samples.add(1).mul(127.5).round().clamp(0, 255).squeeze(1).flatten(0, 1).numpy().astype(int)


def test_a_batch_forms_step_by_step_and_ends_as_the_samples(connect):
    with connect() as talk:
        events = talk.run({"recipe": "dpmpp_2m", "nfe": 5}, seed=3, reference=False)
    den = rg.load("digits8-flow")
    plan = rg.plan("dpmpp_2m", den, nfe=5)
    rows = of(events, "row", 0)
    assert [e["row"] for e in rows] == [0, 1, 2, 3, 4]
    assert [e["evaluations"] for e in rows] == [1, 2, 3, 4, 5]
    for told, state in zip(rows, rg.steps(plan, den, n=3, seed=3), strict=True):
        assert np.abs(pixels(told["mean"]) - as_pixels(state.mean)).max() <= 1
    assert (pixels(rows[-1]["state"]) == pixels(rows[-1]["mean"])).all()
    assert (pixels(rows[0]["state"]) != pixels(rows[0]["mean"])).any()


def test_two_plans_run_on_the_same_noise_and_their_difference_is_told(connect):
    with connect() as talk:
        events = talk.run({"recipe": "dpmpp_2m", "nfe": 4}, {"recipe": "ddim", "nfe": 6, "grid": "quadratic"})
    den = rg.load("digits8-flow")
    a = rg.sample(den, rg.plan("dpmpp_2m", den, nfe=4), n=3)
    b = rg.sample(den, rg.plan("ddim", den, nfe=6, grid="quadratic"), n=3)
    truth = rg.sample(den, rg.plan(REFERENCE[0], den, nfe=REFERENCE[1]), n=3)
    (apart,) = of(events, "difference")
    assert apart["rms"] == pytest.approx(float((a - b).square().mean().sqrt()), rel=1e-4)
    assert apart["items"] == pytest.approx((a - b).flatten(1).square().mean(1).sqrt().tolist(), rel=1e-4)
    assert apart["scale"] == pytest.approx(float((a - b).abs().max()), rel=1e-4)
    colours = pixels(apart["picture"])
    more = (a - b).squeeze(1).flatten(0, 1).numpy() > 0
    assert (colours[more][:, 0] > colours[more][:, 2]).all()
    assert (colours[~more][:, 0] < colours[~more][:, 2]).all()
    for side, samples in enumerate((a, b)):
        (judged,) = of(events, "judged", side)
        assert judged["rms"] == pytest.approx(float((samples - truth).square().mean().sqrt()), rel=1e-3)
        assert judged["rows"][-1] == pytest.approx(judged["rms"], rel=1e-3)
        assert judged["rows"][0] > judged["rms"]


def test_the_table_is_the_printed_one(connect):
    with connect() as talk:
        (told,) = of(talk.run({"recipe": "heun", "nfe": 4}, reference=False), "plan")
    plan = rg.plan("heun", rg.load("digits8-flow"), nfe=4)
    printed = str(plan.bind(rg.load("digits8-flow"))).splitlines()
    assert told["plan"]["columns"] == printed[1].split()
    assert [" ".join(line).split() for line in told["plan"]["rows"]] == [line.split() for line in printed[2:]]


def test_levels_move_by_sigma_and_those_that_stay_are_exact(connect):
    den = rg.load("digits8-flow")
    times = rg.plan("dpmpp_2m", den, nfe=4).times
    with connect() as talk:
        levels = [{"time": times[0]}, {"sigma": 1.5}, {"time": times[2]}, {"time": times[3]}]
        (told,) = of(talk.run({"recipe": "dpmpp_2m", "nfe": 4, "levels": levels}, reference=False), "plan")
        moved = [level["time"] for level in told["plan"]["levels"]]
        assert [moved[0], *moved[2:]] == [times[0], *times[2:]]
        assert den.path.sigma(moved[1]) == pytest.approx(1.5)
        # beyond the noise end is the noise end, which on this path has no finite level
        (told,) = of(talk.run({"nfe": None, "levels": [{"sigma": 1e9}, {"sigma": 1.0}]}, reference=False), "plan")
        assert told["plan"]["nfe"] == 2
        assert told["plan"]["levels"][0] == {"time": den.path.t_max, "sigma": None}


def test_levels_snap_to_what_a_discrete_network_was_trained_at(connect):
    with connect() as talk:
        events = talk.run({"nfe": None, "levels": [{"sigma": 20.0}, {"sigma": 1.0}]}, model="digits8-noise", reference=False)
    (told,) = of(events, "plan")
    den = rg.load("digits8-noise")
    for level in told["plan"]["levels"]:
        assert den.snap(level["time"]) == level["time"]


def test_a_side_whose_plan_did_not_change_is_not_sampled_again(connect):
    with connect() as talk:
        talk.run({"nfe": 3}, {"recipe": "ddim", "nfe": 3})
        events = talk.run({"nfe": 4}, {"recipe": "ddim", "nfe": 3})
        assert len(of(events, "row", 0)) == 4
        assert not of(events, "row", 1)
        assert [e["again"] for e in of(events, "plan")] == [False, True]
        assert len(of(events, "judged")) == 2
        assert not of(events, "progress")  # the reference is held
        assert of(talk.run({"nfe": 4}, {"recipe": "ddim", "nfe": 3}, seed=1, reference=False), "row", 1)


def test_a_stochastic_plan_has_no_error_to_one_reference(connect):
    with connect() as talk:
        events = talk.run({"recipe": "ddpm", "nfe": 3}, {"nfe": 3})
    assert [e["side"] for e in of(events, "judged")] == [1]
    assert of(events, "plan", 0)[0]["plan"]["stochastic"]


def test_conditions_and_guidance_reach_the_model(connect):
    with connect() as talk:
        plain = of(talk.run({"nfe": 3}, condition="3", reference=False), "row")[-1]
        guided = of(talk.run({"nfe": 3}, condition="3", guidance=3.0, reference=False), "row")[-1]
    den = rg.load("digits8-flow")
    samples = rg.sample(rg.guide.cfg(den, 3.0), rg.plan("dpmpp_2m", den, nfe=3), n=3, condition=3)
    assert np.abs(pixels(guided["mean"]) - as_pixels(samples)).max() <= 1
    assert (pixels(plain["mean"]) != pixels(guided["mean"])).any()
    assert guided["evaluations"] == 2 * plain["evaluations"]


@pytest.mark.parametrize(
    ("sampler", "batch", "says"),
    [
        ({"recipe": "dpmpp_2n"}, {}, "did you mean 'dpmpp_2s' or 'dpmpp_2m'"),
        ({"nfe": 0}, {}, "samplers.0.nfe=0"),
        ({"grid": "karas"}, {}, "karras"),
        ({"options": {"eta": 1.0}}, {}, "remove ['eta']"),
        ({"options": {"nfe": 3}}, {}, "field of its own"),
        ({"plan": "file:nothing.json"}, {}, "unknown plan 'file:nothing.json'"),
        ({"levels": [{"sigma": 1.0}, {"sigma": 2.0}], "nfe": None}, {}, "falling path times"),
        ({"levels": [{"sigma": 1.0, "time": 0.5}]}, {}, "either its time or its sigma"),
        ({}, {"n": 1000}, "batch.n=1000"),
        ({}, {"condition": "11"}, "condition 11: class 11"),
        ({}, {"condition": "three"}, "condition 'three'"),
        ({}, {"model": "os:system"}, "unknown model 'os:system'"),
    ],
)
def test_bad_input_is_answered_with_what_mends_it(connect, sampler, batch, says):
    with connect() as talk:
        talk.send(do="run", batch={"model": "digits8-flow", "n": 2} | batch, samplers=[sampler])
        told = talk.next("failed")
        assert says in f"{told['given']} {told['allowed']} {told['mend']}"
        assert told["mend"]
        assert "--condition" not in str(told)
        talk.send(do="run", batch={"model": "digits8-flow", "n": 2}, samplers=[{"nfe": 2}], reference=False)
        assert talk.next("sampled", "busy")["event"] == "sampled"  # and the page goes on


def test_a_message_that_is_no_request_is_refused(connect):
    with connect() as talk:
        talk.socket.send_text("hello")
        assert talk.next()["event"] == "failed"
        talk.send(do="dance")
        assert "dance" in talk.next()["given"]


def test_points_of_the_plane_and_vectors_have_pictures_too(client, tmp_path, monkeypatch):
    from retrograde.studio import strip

    for shape in [(2,), (5,), (4, 6, 6), (3, 4, 6, 6), (1, 600, 300)]:
        width, height = strip.size(shape)
        samples = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        assert pixels(strip.mean(samples)).shape[:2] == (3 * height, width)
        assert pixels(strip.difference(samples, samples + 1)[0]).shape == (3 * height, width, 4)
    assert max(strip.size((1, 600, 300))) == 256


def test_a_model_on_an_anchored_path_is_refused_with_the_line_that_runs_it(tmp_path, monkeypatch):
    from retrograde.errors import BadType
    from retrograde.studio.shelf import Shelf

    (tmp_path / "restores.py").write_text(
        "import torch, retrograde as rg\n"
        "def made():\n"
        "    return rg.oracles.Gaussian(rg.paths.get('mean_reverting')(), torch.zeros(2), torch.eye(2))\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    shelf = Shelf("restores:made")
    with pytest.raises(BadType, match="anchor=y"):
        shelf.model("restores:made")
