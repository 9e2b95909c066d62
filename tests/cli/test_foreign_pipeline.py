"""A folder this project did not make: trained by the means of diffusers, fitted by the command, run in its pipeline."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
import torch

import retrograde as rg
from retrograde.tune import EFFORTS, Effort

pytestmark = [pytest.mark.diffusers, pytest.mark.filterwarnings("ignore")]
ROOT = Path(__file__).parents[2]
TRAINER, BENCHMARK = ROOT / "examples" / "train_pipeline.py", ROOT / "benchmarks" / "foreign_pipeline.py"
TINY = Effort(32, 8, 8, 16, 16, 4, 1, 6, 32, ("ddim", "dpmpp_2m"))


def module(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder after a few steps of training."""
    trainer = module(TRAINER)
    made = tmp_path_factory.mktemp("runs") / "ddpm"
    trainer.train(made, trainer.images(trainer.DATA)[:64], steps=6, batch=8, width=8, rate=2e-3, seed=0)
    return made


def test_the_trainer_imports_nothing_of_ours():
    tree = ast.parse(TRAINER.read_text(encoding="utf-8"))
    named = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    named += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "diffusers" in named
    assert not [name for name in named if name.startswith("retrograde")]


def test_a_stopped_training_goes_on_where_it_was(tmp_path):
    trainer = module(TRAINER)
    data, options = trainer.images(trainer.DATA)[:64], {"batch": 4, "width": 8, "rate": 1e-3, "seed": 0}
    whole = trainer.train(tmp_path / "whole", data, steps=4, **options)
    saving, saved = torch.save, []

    def stop_after_the_first(held, file):
        saving(held, file)
        saved.append(file)
        raise KeyboardInterrupt

    trainer.KEPT = 2
    trainer.torch.save = stop_after_the_first
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(tmp_path / "halted", data, steps=4, **options)
    finally:
        trainer.torch.save = saving
    assert len(saved) == 1
    again = trainer.train(tmp_path / "halted", data, steps=4, **options)
    for ours, theirs in zip(again.unet.parameters(), whole.unet.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_way_from_the_folder_to_the_figures(folder, call, monkeypatch):
    monkeypatch.setitem(EFFORTS, "seconds", TINY)
    ran = call("tune", folder, "--nfe", 2, "-o", "two.json", "--json")
    assert ran.code == 0
    plan = rg.Plan.load("two.json")
    assert plan.rows[0].time is not None
    bench = module(BENCHMARK)
    results, strips = bench.measure(folder, plan, items=2, all_steps=10)
    rows = {(row["sampler"], row["nfe"]): row for row in results["rows"]}
    assert len(rows) == 1 + 2 * 8 + 2
    assert len(strips) == 4
    assert all(row["rms"] > 0 for row in rows.values())
    # the images of the fitted plan are those of the library, from the same noise
    den = rg.load(folder)
    x = torch.randn(2, *den.shape, generator=torch.Generator().manual_seed(bench.SEED))
    pipe = bench.opened(folder)
    pipe.scheduler = rg.interop.diffusers.PlanScheduler.instead_of(pipe.scheduler, plan)
    torch.testing.assert_close(bench.images(pipe, 2, 2), rg.sample(den, plan, x=x).clamp(-1, 1), rtol=1e-4, atol=1e-4)
    assert call("sample", folder, "--plan", "two.json", "-n", 2, "-o", "x.png").code == 0


def test_four_fitted_evaluations_beat_the_pipelines_own_scheduler_at_eight():
    """What the whole run found (`python benchmarks/foreign_pipeline.py`), on the pipeline's own best grid."""
    found = json.loads((ROOT / "benchmarks" / "results" / "foreign_pipeline.json").read_text(encoding="utf-8"))
    rows = found["rows"]
    fitted = next(row for row in rows if row["sampler"] == "fitted plan")
    own = [row for row in rows if row["sampler"].startswith("DDIM") and row["nfe"] == 8]
    assert fitted["nfe"] == 4
    assert len(own) == 8
    for figure in ("rms", "median"):
        assert fitted[figure] < min(row[figure] for row in own)
    assert found["paired"]["interval"][1] < 1.0  # item by item, from the same noise
    assert found["paired"]["nearer"] > 0.5
    named = {row["sampler"]: row for row in found["quality"]}
    assert named["fitted plan"]["energy"] < min(q["energy"] for name, q in named.items() if name.startswith("DDPM"))
