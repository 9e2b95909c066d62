"""What every tuner is asked and asks for."""

import pytest
import torch

import retrograde as rg
from retrograde.baselines.gits import asked_at
from retrograde.errors import BadValue

MEANS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
FEW = {
    "amed": {"n": 16, "levels": 16, "steps": 11, "batch": 4},
    "auto_diffusion": {"n": 8, "levels": 20, "evolution": rg.baselines.Evolution(6, 2, 3, 2, generations=2)},
    "bns": {"n": 16, "levels": 16, "steps": 11, "batch": 4},
    "dc_solver": {"n": 8, "levels": 16},
    "dmn": {},
    "gits": {"n": 8, "levels": 16},
    "ld3": {"n": 16, "levels": 16, "steps": 11, "batch": 4},
    "olss": {"n": 8, "levels": 16},
    "pas": {"n": 8, "levels": 16},
    "s3": {"n": 8, "levels": 16, "rounds": rg.baselines.Rounds(trials=12, first=4, stages=2)},
    "s4s": {"n": 16, "levels": 16, "steps": 11, "batch": 4},
}


@pytest.mark.parametrize("name", FEW)
def test_a_report_counts_what_the_network_was_asked(name, monkeypatch):
    """Over all items, the reference and the descent's differences in its levels included."""
    asked = []
    whole = rg.oracles.GaussianMixture.predict

    def counted(self, x_t, *more, **given):
        asked.append(len(x_t))
        return whole(self, x_t, *more, **given)

    data = rg.oracles.GaussianMixture(rg.paths.EDM(), MEANS, 0.2)
    monkeypatch.setattr(rg.oracles.GaussianMixture, "predict", counted)
    plan = getattr(rg.baselines, name)(data, 3, **FEW[name])
    assert plan.report["evaluations"] == sum(asked)


@pytest.mark.parametrize("name", FEW)
def test_a_budget_of_nothing_is_refused_by_its_name(name):
    data = rg.oracles.GaussianMixture(rg.paths.EDM(), MEANS, 0.2)
    with pytest.raises(BadValue, match="nfe=0"):
        getattr(rg.baselines, name)(data, 0)


def test_no_evaluation_is_spent_where_a_grid_ends():
    """Papers end at the least level without asking there; a grid that does not reach it is used as it is."""
    data = rg.oracles.GaussianMixture(rg.paths.EDM(), MEANS, 0.2)
    assert asked_at(data, 4, "karras") == rg.grids.make(data.path, 5, "karras")[:4]
    assert asked_at(data, 4, "uniform") == rg.grids.make(data.path, 4, "uniform")
    assert asked_at(data, 1, "karras") == (80.0,)
