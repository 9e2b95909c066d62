import json
import re

import pytest
import torch

import retrograde as rg
from retrograde.cli import judge, store
from retrograde.cli.candidates import Candidate
from retrograde.cli.question import digest

SMALL = ["--solver", "ddim,dpmpp_2m,ddpm", "--grid", "karras,align_your_steps", "-n", 6, "--quality-n", 20]
SMALL += ["--reference-nfe", 40, "--no-tune", "-o", "out"]


@pytest.fixture
def compared(call):
    """A small comparison, with its results."""
    rg.plan("heun", rg.load("toys:blobs"), nfe=3).save("mine.json")
    ran = call("compare", "toys:blobs", "--nfe", "3,4", *SMALL, "--plan", "mine.json", "--json")
    assert ran.code == 0, ran.err
    return ran.json


def test_errors_are_those_to_the_reference_from_the_same_noise(compared):
    den = rg.load("toys:blobs")
    truth = rg.sample(den, rg.plan("dpmpp_3m", den, nfe=40, grid="karras"), n=6)
    entry = next(e for e in compared["errors"] if (e["label"], e["grid"], e["nfe"]) == ("ddim", "karras", 4))
    own = rg.sample(den, rg.plan("ddim", den, nfe=4, grid="karras"), n=6)
    assert entry["rms"] == pytest.approx(float((own - truth).double().square().mean().sqrt()), rel=1e-6)
    assert {e["label"] for e in compared["errors"]} == {"ddim", "dpmpp_2m", "mine.json"}
    assert compared["reference"]["rms_apart"] < min(e["rms"] for e in compared["errors"])


def test_stochastic_recipes_are_compared_by_quality_only(compared):
    drawn = [e for e in compared["quality"] if e["stochastic"]]
    assert {e["label"] for e in drawn} == {"ddpm"}
    assert {e["grid"] for e in drawn} == {"karras"}
    assert all(e["figures"]["energy"]["n"] == 20 for e in compared["quality"])


def test_everything_is_written_and_the_page_stands_alone(compared, tmp_path):
    out = tmp_path / "out"
    assert {"report.html", "results.json", "results.jsonl", "plot.png", "plot.svg", "pictures.png"} <= {
        file.name for file in out.iterdir()
    }
    assert json.loads((out / "results.json").read_text()) == compared
    page = (out / "report.html").read_text()
    outside = re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*|url\((?!#)[^)]*|@import", page)
    assert outside == []
    assert "What to pick" in page
    assert all(line.split(":")[0].split("(")[0] in page for line in compared["verdict"])
    assert page.count("data:image/png") >= 3
    assert not re.search(r"\$[a-z{]", page)


def test_a_second_call_measures_nothing_anew(compared, call, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr("retrograde.cli.yardstick.error", refuse)
    monkeypatch.setattr(judge.Judge, "figures", refuse)
    again = call("compare", "toys:blobs", "--nfe", "3,4", *SMALL, "--plan", "mine.json", "--json")
    assert again.code == 0
    assert again.json["errors"] == compared["errors"]
    assert again.json["quality"] == compared["quality"]


def test_another_seed_is_another_question(compared, call):
    other = call("compare", "toys:blobs", "--nfe", "3,4", *SMALL, "--plan", "mine.json", "--seed", 5, "--json").json
    assert other["errors"][0]["rms"] != compared["errors"][0]["rms"]


def test_a_sampler_that_fails_is_listed_and_stops_nothing(call, monkeypatch):
    from retrograde.cli import yardstick
    from retrograde.errors import BadValue

    measure = yardstick.error

    def fail_ddim(question, plan, *truth):
        if plan.recipe.startswith("ddim"):
            raise BadValue("ddim broke", "none", "none")
        return measure(question, plan, *truth)

    monkeypatch.setattr(yardstick, "error", fail_ddim)
    ran = call("compare", "toys:blobs", "--nfe", "3", *SMALL, "--quality", "none", "--json")
    assert ran.code == 0
    assert {f["what"] for f in ran.json["failures"]} == {"ddim on karras at 3", "ddim on align_your_steps at 3"}
    assert {e["label"] for e in ran.json["errors"]} == {"dpmpp_2m"}


def test_items_that_are_no_pictures_and_a_grid_that_does_not_fit(call, tmp_path):
    ran = call("compare", "toys:points", "--nfe", "3", *SMALL, "--no-plot")
    assert ran.code == 0, ran.err
    assert "error to the reference" in ran.out
    assert not (tmp_path / "out" / "pictures.png").exists()
    assert not (tmp_path / "out" / "plot.png").exists()


def test_missing_matplotlib_is_said_before_any_work(call, monkeypatch, tmp_path):
    monkeypatch.setattr("retrograde.cli.comparison.find_spec", lambda name: None)
    ran = call("compare", "toys:blobs", "--nfe", "3", *SMALL)
    assert ran.code == 1
    assert "retrograde[plot]" in ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nfe", "3-"], "--nfe 3-6,8,10"),
        (["--nfe", "6-3"], "--nfe 3-6,8,10"),
        (["--solver", "dimm"], "'ddim'"),
        (["--grid", "karas"], "'karras'"),
        (["--data", "nodata:nothing", "--solver", "ddim", "-n", "2", "--no-tune", "--nfe", "2"], "--data digits"),
    ],
)
def test_mistakes_are_mended(call, arguments, words):
    ran = call("compare", "toys:blobs", *arguments)
    assert ran.code == 2
    assert words in ran.err


def test_a_line_cut_by_a_crash_costs_only_itself(tmp_path):
    file = tmp_path / "results.jsonl"
    held = store.Store(file, "f")
    held.put("error", "a", {"rms": 1.0})
    held.put("error", "b", {"rms": float("nan")})
    with file.open("ab") as stream:
        stream.write(b'{"of": "f", "kind": "error", "key": "c", "val')
    again = store.Store(file, "f")
    assert again.get("error", "a") == {"rms": 1.0}
    assert again.get("error", "b") == {"rms": None}
    assert again.get("error", "c") is None
    again.put("error", "d", {"rms": 4.0})
    assert store.Store(file, "f").get("error", "d") == {"rms": 4.0}
    assert store.Store(file, "other").get("error", "a") is None


def test_equal_tables_have_one_digest():
    path = rg.paths.EDM()
    one, other = rg.plan("ddim", path, nfe=4), rg.plan("ddim", path, nfe=4, eta=0.0)
    assert digest(one) == digest(other)
    assert digest(one) != digest(rg.plan("ddim", path, nfe=5))
    assert not Candidate("ddim", "karras", 4, one).stochastic


def test_fresh_sets_have_the_wanted_labels_and_share_no_item():
    labels, order = [0, 1, 0, 1, 0, 1, 0], list(range(7))
    first = judge._take(order, labels, [0, 1, 0], 3)
    second = judge._take(order, labels, [0, 1, 0], 3)
    assert [labels[i] for i in first] == [labels[i] for i in second] == [0, 1, 0]
    assert not set(first) & set(second)
    assert judge._take(order, labels, [0, 1, 0], 3) == []


def test_pictures_of_the_gallery_are_of_the_same_noise(compared, tmp_path):
    from PIL import Image

    assert Image.open(tmp_path / "out" / "pictures.png").width > 6 * 56
    assert torch.is_tensor(rg.load("toys:blobs").means)
