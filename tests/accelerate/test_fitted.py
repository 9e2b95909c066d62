"""Where to reuse, fitted together with levels and coefficients."""

import dataclasses
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.accelerate.fitted import shares
from retrograde.errors import BadType, BadValue
from retrograde.tune.effort import Effort
from retrograde.tune.fit import Fitter
from retrograde.tune.teacher import teach

PATH = rg.paths.VP()
DATA = rg.oracles.GaussianMixture(PATH, torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.1]]), 0.02)
QUICK = Effort(24, 16, 32, 24, 24, 4, 1, 8, 32, None)
CHANNELS = 16


class Adds(torch.nn.Module):
    """A block whose work costs something, and changes as fast as told: not at all, or with every state."""

    def __init__(self, steady: bool) -> None:
        super().__init__()
        self.mix, self.steady = torch.nn.Linear(CHANNELS, CHANNELS, bias=False), steady
        torch.nn.init.eye_(self.mix.weight)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.mix(torch.ones_like(h) if self.steady else h)


class Net(torch.nn.Module):
    """The exact answer for three spots in the plane, found behind three blocks."""

    def __init__(self, steady: bool) -> None:
        super().__init__()
        self.blocks, self.steady = torch.nn.ModuleList(Adds(steady) for _ in range(3)), steady
        self.leave = torch.nn.Linear(CHANNELS, CHANNELS, bias=False)
        torch.nn.init.eye_(self.leave.weight)

    def forward(self, x_t: torch.Tensor, network_time: torch.Tensor) -> torch.Tensor:
        exact = DATA.predict(x_t, float(network_time[0])).data
        h = torch.cat([exact.float(), exact.new_zeros(len(x_t), CHANNELS - 2).float()], 1)[:, None]
        for block in self.blocks:
            h = block(h)
        h = self.leave(h)[:, 0, :2]
        return h - 3.0 if self.steady else h / 8.0


def cached(steady: bool) -> Any:
    return rg.accelerate.block_cache(rg.Denoiser(Net(steady), PATH, "data", (2,)))


def test_what_a_budget_pays_for():
    assert shares(3.0, 0.5) == [(3, 0), (1, 3), (2, 2)]
    assert shares(3.5, 0.2) == [(3, 0), (1, 3), (2, 2), (2, 6), (3, 2)]
    assert shares(4.0, 1.0) == [(4, 0)]
    assert shares(1.0, 0.0) == [(1, 0)]


def test_where_reuse_is_free_it_is_chosen_and_the_books_say_what_it_costs():
    """Features that do not change: for the price of three evaluations the plan has more of them."""
    denoiser = cached(steady=True)
    plan = rg.accelerate.fit_reuse(denoiser, 3.0, effort=QUICK)
    report = plan.report
    assert report is not None
    assert report["reused"] > 0
    assert report["validation_error"] < 0.6 * report["alone"]
    spent = sites.cost(denoiser, plan).macs / sites.cost(denoiser, rg.plan("ddim", PATH, nfe=1)).macs
    assert spent == pytest.approx(report["cost"], rel=1e-9)
    assert report["cost"] <= 3.0


def test_the_fit_sees_what_the_run_will_see():
    """Rows fitted under a column, run as a plan: the states they were fitted to, where features are stale too."""
    denoiser = cached(steady=False)
    teacher = teach(denoiser, 8, 0, levels=12)
    column = [{}, {"reuse": True}, {}, {"reuse": True}]
    fitter = Fitter(denoiser, teacher, {}, knobs=column)
    student = fitter.run((2, 5, 7, 9))[1]
    plan = fitter.plan(student.rows, {})
    assert [dict(row.knobs) for row in plan.rows if row.time is not None] == column
    torch.testing.assert_close(rg.sample(denoiser, plan, 8), student.x, rtol=1e-4, atol=1e-5)
    fresh = dataclasses.replace(fitter, knobs=()).run((2, 5, 7, 9))[1]
    assert not torch.allclose(fresh.x, student.x, atol=1e-3)


def test_a_report_keeps_what_there_is_and_goes_into_a_file(tmp_path):
    """A budget of one evaluation pays for none that reuses: the report says None, which a file can hold."""
    plan = rg.accelerate.fit_reuse(cached(steady=False), 1.0, effort=QUICK)
    assert plan.report is not None
    assert plan.report["reusing"] is None
    assert plan.report["alone"] == plan.report["validation_error"]
    plan.save(tmp_path / "one.json")
    assert rg.Plan.load(tmp_path / "one.json").report == plan.report


def test_a_quality_is_reached_at_the_least_of_the_budgets():
    plan = rg.accelerate.fit_reuse(cached(steady=True), error=10.0, effort=QUICK)
    assert plan.nfe == 1
    assert plan.report is not None
    assert plan.report["cost"] == 1.0


def test_mistakes_are_explained(den):
    with pytest.raises(BadType, match="reuse"):
        rg.accelerate.fit_reuse(den, 3.0)
    with pytest.raises(BadValue, match="one of them"):
        rg.accelerate.fit_reuse(rg.accelerate.deepcache(den))
    for nothing in ({"budget": 0.0}, {"error": 0.0}):
        with pytest.raises(BadValue, match="one of them"):
            rg.accelerate.fit_reuse(rg.accelerate.deepcache(den), **nothing)
