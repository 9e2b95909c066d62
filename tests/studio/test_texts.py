"""Models that read texts: the page's fields reach the network, the Python lines do the same, mistakes are answered."""

import importlib.util
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from starlette.testclient import TestClient

import retrograde as rg
from retrograde.studio import create, strip

pytestmark = [
    pytest.mark.diffusers,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("transformers") is None, reason="needs transformers"),
]
SAMPLER = {"recipe": "ddim", "nfe": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random pipeline of texts, as diffusers saves it."""
    file = Path(__file__).parents[2] / "examples" / "tiny_pipelines.py"
    spec = importlib.util.spec_from_file_location("tiny_pipelines", file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    home = tmp_path_factory.mktemp("texts") / "stable"
    made.stable(texts=True).save_pretrained(home)
    return home


@pytest.fixture(scope="module")
def client(folder):
    """The studio around that model."""
    with TestClient(create(str(folder), folder=folder.parent), base_url="http://127.0.0.1:8787") as made:
        yield made


@pytest.fixture
def told(connect, folder):
    """What a page is told when it runs: its data means, or the refusal."""

    def run(reference=False, **batch):
        with connect() as talk:
            return talk.run(SAMPLER, reference=reference, **({"model": str(folder), "seed": 1} | batch))

    return run


def picture(events):
    return [event["mean"] for event in events if event["event"] == "row"][-1]


def test_only_models_that_read_texts_say_so(client, folder):
    facts = client.get("/api/model", params={"name": str(folder)}).json()
    assert (facts["reads"], facts["typed"]) == (["prompt"], [])
    facts = client.get("/api/model", params={"name": "digits8-flow"}).json()
    assert (facts["reads"], facts["typed"]) == ([], ["label"])


def test_texts_are_dealt_to_the_items_and_the_lines_do_the_same(client, told, folder):
    asks = {"prompt": "a cat\n\n dogs \n", "negative": "blurry", "guidance": 3.0}
    events = told(reference=True, **asks)
    shown = {"batch": {"model": str(folder), "n": 3, "seed": 1} | asks, "samplers": [SAMPLER]}
    text = client.post("/api/export/lines", json=shown).json()["text"]
    assert 'den = rg.guide.cfg(den, 3.0, negative="blurry")' in text
    assert "condition = ['a cat', 'dogs', 'a cat']" in text
    names = {}
    exec(compile(text, "studio.py", "exec"), names)
    den = rg.load(folder)
    guided = rg.guide.cfg(den, 3.0, negative="blurry")
    expected = rg.sample(guided, rg.plan("ddim", den, nfe=2), n=3, seed=1, condition=["a cat", "dogs", "a cat"])
    assert torch.equal(names["a"], expected)
    assert picture(events) == strip.mean(expected)
    (judged,) = [event for event in events if event["event"] == "judged"]  # a reference on steps the network has
    assert judged["rms"] == pytest.approx(float((expected - names["fine"]).square().mean().sqrt()), rel=1e-4)
    for other in ({"prompt": "a cat"}, {"negative": "dogs"}, {"prompt": ""}):
        assert picture(told(**(asks | other))) != picture(events)


def test_one_text_is_one_condition_and_no_text_the_empty_one(client, folder):
    for prompt, line in (("a cat", 'condition = "a cat"'), ("", 'condition = ""')):
        shown = {"batch": {"model": str(folder), "n": 2, "prompt": prompt}, "samplers": [SAMPLER]}
        assert line in client.post("/api/export/lines", json=shown).json()["text"]


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"model": "digits8-flow", "prompt": "a cat"}, "leave out prompt"),
        ({"model": "digits8-flow", "negative": "a cat", "guidance": 2.0}, "leave it empty"),
        ({"prompt": "a cat", "negative": "dogs"}, "guidance 7.5"),
        ({"prompt": "a cat", "condition": "3"}, "leave out condition"),
    ],
)
def test_a_mistake_is_answered_with_what_mends_it(told, batch, words):
    (failed,) = [event for event in told(**batch) if event["event"] == "failed"]
    assert words in failed["mend"]
    assert "--" not in failed["given"] + failed["mend"]
