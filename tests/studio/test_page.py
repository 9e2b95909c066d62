"""The page's files: small, complete, at home; and what it exports and opens."""

import base64
import dataclasses
import io
import json
import re
import zipfile

import pytest
import torch

import retrograde as rg
from retrograde.studio.app import STATIC

MOST_BYTES = 500_000
BATCH = {"model": "digits8-flow", "n": 3, "seed": 1, "condition": "0-9"}


def upload(client, *files):
    listed = [{"name": name, "content": base64.b64encode(content).decode()} for name, content in files]
    return client.post("/api/plans", json={"files": listed})


def test_the_page_is_small(client):
    files = [file for file in STATIC.rglob("*") if file.is_file()]
    assert {"index.html", "studio.css", "studio.js"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) < MOST_BYTES


def test_the_page_names_no_other_host():
    for file in STATIC.rglob("*"):
        found = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w{2,}[^\s\"')]*", file.read_text(encoding="utf-8")))
        assert found <= {"http://www.w3.org/2000/svg"}


def test_every_file_the_page_names_is_there(client):
    page = client.get("/").text
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    for script in STATIC.glob("*.js"):
        named += re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8"))
    assert len(set(named)) > 7
    assert {client.get(f"/{name}").status_code for name in named} == {200}


def test_the_catalogue_offers_what_is_registered(client):
    offered = client.get("/api/catalogue").json()
    assert offered["models"] == list(rg.models())
    assert [recipe["name"] for recipe in offered["recipes"]] == list(rg.recipes.names())
    assert {grid["name"]: grid["options"] for grid in offered["grids"]}["karras"]["rho"] == 7.0


def test_a_model_is_described_and_an_unknown_one_is_answered_with_the_known(client):
    facts = client.get("/api/model", params={"name": "digits8-flow"}).json()
    assert (facts["shape"], facts["classes"], facts["path"]["name"]) == ([1, 8, 8], 10, "flow")
    answer = client.get("/api/model", params={"name": "digit"})
    assert answer.status_code == 422
    assert "'digits'" in answer.json()["mend"]


def exported(client, *samplers, **batch):
    answer = client.post("/api/export/lines", json={"batch": BATCH | batch, "samplers": list(samplers)})
    assert answer.status_code == 200, answer.text
    return answer.json()["text"]


@pytest.fixture
def ran(monkeypatch, capsys):
    """Run exported lines as a person would, in the folder of the exported plans; return what they made and printed."""

    def run(text, folder):
        monkeypatch.chdir(folder)
        names = {}
        capsys.readouterr()
        exec(compile(text, "studio.py", "exec"), names)
        return names.get("a"), names.get("b"), capsys.readouterr().out

    return run


def test_the_python_lines_do_what_the_page_did(client, connect, ran, tmp_path):
    samplers = [
        {"recipe": "ddim", "nfe": 5, "grid": "karras", "options": {"rho": 5.0, "eta": 0.0}},
        {"recipe": "dpmpp_2m", "nfe": None, "levels": [{"sigma": 1e9}, {"sigma": 2.0}, {"sigma": 0.2}]},
    ]
    asks = BATCH | {"guidance": 1.5}
    with connect() as talk:
        talk.send(do="run", batch=asks, samplers=samplers)
        events = talk.until_ended()
    told = {e["event"]: e for e in events if e["event"] in ("difference", "judged")}
    a, b, printed = ran(exported(client, *samplers, guidance=1.5), tmp_path)
    assert float((a - b).square().mean().sqrt()) == pytest.approx(told["difference"]["rms"], rel=1e-4)
    assert f"A and B apart: {told['difference']['rms']:.3g}"[:18] in printed
    assert f"error of B: {told['judged']['rms']:.3g}"[:15] in printed


def test_a_plan_with_tensors_is_exported_with_them_and_the_lines_load_it(client, connect, ran, tmp_path):
    plan = rg.plan("ddim", rg.load("digits8-flow"), nfe=2)
    rows = [dataclasses.replace(row, outputs=tuple(torch.full((1, 8, 8), c) for c in row.outputs)) for row in plan.rows]
    (tmp_path / "mine").mkdir()
    dataclasses.replace(plan, rows=tuple(rows), recipe="by hand@1").save(tmp_path / "mine" / "plan.json")
    both = [(file.name, file.read_bytes()) for file in (tmp_path / "mine").iterdir()]
    assert len(both) == 2
    key = upload(client, *both).json()["key"]
    with connect() as talk:
        talk.send(do="run", batch=BATCH, samplers=[{"plan": key}])
        (judged,) = [e for e in talk.until_ended() if e["event"] == "judged"]
    answer = client.post("/api/export/plan", json={"batch": BATCH, "samplers": [{"plan": key}]})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(tmp_path / "taken")
    _, _, printed = ran(exported(client, {"plan": key}), tmp_path / "taken")
    assert f"error of A: {judged['rms']:.3g}"[:15] in printed
    # and back: the .zip opens as the same plan
    again = upload(client, ("plan.zip", answer.content)).json()["key"]
    shown = {"batch": BATCH, "samplers": [{"plan": again}]}
    assert client.post("/api/export/plan", json=shown).content == answer.content


def test_a_recipe_is_exported_as_json(client, tmp_path):
    shown = {"batch": BATCH, "samplers": [{"nfe": 3}, {"recipe": "ddim", "nfe": 4}]}
    answer = client.post("/api/export/plan?side=1", json=shown)
    assert answer.headers["content-disposition"] == 'attachment; filename="digits8-flow-ddim-4-b.json"'
    (tmp_path / "plan.json").write_bytes(answer.content)
    assert rg.Plan.load(tmp_path / "plan.json") == rg.plan("ddim", rg.load("digits8-flow"), nfe=4)


def test_plans_of_the_folder_are_offered_and_run(client, connect, ran, tmp_path):
    plan = rg.plan("heun", rg.load("digits8-flow"), nfe=4)
    plan.save(tmp_path / "mine.json")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text('{"format": "retrograde.plan", "version": 1}')
    (listed,) = client.get("/api/plans").json()
    assert (listed["key"], listed["recipe"], listed["path"]) == ("file:mine.json", "heun@1", plan.path.fingerprint)
    with connect() as talk:
        told = next(e for e in talk.run({"plan": "file:mine.json"}, reference=False) if e["event"] == "plan")
    assert told["plan"]["nfe"] == 4
    a, _, _ = ran(exported(client, {"plan": "file:mine.json"}), tmp_path)
    condition = [0, 1, 2]
    assert torch.equal(a, rg.sample(rg.load("digits8-flow"), plan, n=3, seed=1, condition=condition))


def test_what_is_no_plan_is_refused_with_what_is(client, tmp_path):
    for files, says in [
        ([("plan.json", b"{}")], "plan.save(file)"),
        ([("plan.json", b"\xff\xfe")], "plan.save(file)"),
        ([("notes.txt", b"hello")], "choose both files"),
        ([("plan.zip", b"not a zip")], "choose another file"),
        ([("../../plan.json", b"{}")], "plan.save(file)"),
    ]:
        answer = upload(client, *files)
        assert answer.status_code == 422
        assert says in answer.json()["mend"]
        assert "/tmp" not in answer.text
    answer = client.post("/api/plans", json={"files": "all"})
    assert answer.status_code == 422
    assert answer.json()["given"].startswith("files=")


def test_a_plan_without_its_tensors_says_so(client):
    rows = [{"time": 1.0, "next_time": None, "states": [0.0], "outputs": [{"tensor": "x"}]}]
    content = {"format": "retrograde.plan", "version": 1, "recipe": "x@1", "path": rg.paths.Flow().config(), "basis": "data"}
    text = json.dumps(content | {"start": 1.0, "tensors": "lost.safetensors", "rows": rows})
    answer = upload(client, ("plan.json", text.encode()))
    assert "without lost.safetensors" in answer.json()["given"]
