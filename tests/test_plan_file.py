"""Plans as files: what was written once keeps loading, and a reader never sees half of a write."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import retrograde as rg
from retrograde import plan_file
from retrograde.errors import BadValue
from retrograde.linear import LinearMap
from retrograde.plan import Plan, Row

FILES = Path(__file__).parent / "files"


def test_a_file_of_version_one_keeps_loading():
    # written by 0.1.0; the table is stored, so later versions of the recipe do not change it
    loaded = Plan.load(FILES / "unipc_3.v1.json")
    assert loaded.recipe == "unipc_3@1"
    assert loaded.nfe == 5
    assert loaded.path == rg.paths.VP()
    for row, fresh in zip(loaded.rows, rg.plan("unipc_3", rg.paths.VP(), nfe=5).rows, strict=True):
        assert row.states + row.outputs == pytest.approx(fresh.states + fresh.outputs, rel=1e-9)


def test_tensors_and_maps_of_version_one_keep_loading():
    loaded = Plan.load(FILES / "tensors.v1.json")
    move = loaded.rows[0].states[0]
    assert isinstance(move, LinearMap)
    assert move.rest == 0.125
    assert move.gains.tolist() == [0.5, 0.25]
    assert loaded.rows[0].shift.tolist() == [[[0.0, 1.0], [2.0, 3.0]]]
    assert torch.equal(loaded.rows[1].states[0], torch.full((1, 2, 2), 0.1))
    assert loaded.rows[1].knobs == {"guidance": 2.0}
    assert loaded.provenance == {"nfe": 2}


def test_an_anchored_plan_of_version_one_keeps_loading():
    loaded = Plan.load(FILES / "mrs_ode.v1.json")
    assert loaded.path == rg.paths.MeanReverting(rg.paths.VPCosine(), spread=0.25)
    for row, fresh in zip(loaded.rows, rg.plan("mrs_ode", loaded.path, nfe=4).rows, strict=True):
        assert row.states + row.outputs == pytest.approx(fresh.states + fresh.outputs, rel=1e-9)
        assert row.anchor == pytest.approx(fresh.anchor, abs=1e-9)
    assert loaded.rows[1].anchor != 0.0


def test_an_interrupted_write_leaves_the_old_plan(tmp_path, monkeypatch):
    file = tmp_path / "plan.json"
    old = rg.plan("ddim", rg.paths.EDM(), nfe=3)
    old.save(file)

    def interrupted(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_file.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rg.plan("ddim", rg.paths.EDM(), nfe=4).save(file)
    monkeypatch.undo()
    assert Plan.load(file) == old
    assert [f.name for f in tmp_path.iterdir()] == ["plan.json"]


def test_a_new_plan_does_not_touch_the_tensors_of_the_old_one(tmp_path):
    file = tmp_path / "tensors.v1.json"
    for source in FILES.glob("tensors.v1*"):
        shutil.copy(source, tmp_path)
    old = Plan.load(file)
    rows = tuple(
        Row(r.time, r.next_time, r.states, r.outputs, shift=None if r.shift is None else r.shift + 1) for r in old.rows
    )
    changed = Plan(old.path, rows, start=old.start, misses=old.misses)
    changed.save(tmp_path / "new.json")
    changed.save(file)
    assert Plan.load(file) == changed == Plan.load(tmp_path / "new.json") != old


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 2}, "version"),
        ({"format": "something"}, "format"),
        ({"colour": 1}, "colour"),
        ({"rows": [{"time": 1.0}]}, r"rows\.0"),
        ({"path": {"name": "edn"}}, "edm"),
    ],
)
def test_a_wrong_file_names_the_place(tmp_path, change, told):
    content = json.loads((FILES / "unipc_3.v1.json").read_text()) | change
    (tmp_path / "wrong.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=told):
        Plan.load(tmp_path / "wrong.json")


def test_missing_tensors_are_asked_for(tmp_path):
    shutil.copy(FILES / "tensors.v1.json", tmp_path)
    with pytest.raises(BadValue, match="copy both files"):
        Plan.load(tmp_path / "tensors.v1.json")


def test_the_printed_table_names_what_is_not_a_number():
    text = str(Plan.load(FILES / "tensors.v1.json"))
    assert "map[4, rank 2]" in text
    assert "[1x2x2]" in text
    assert "guidance=2.0" in text
    assert "misses: point mass" in text
