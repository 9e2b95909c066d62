"""Rollover budget forcing: a rare mode at equal evaluations, the law without an opinion, and the books."""

import math
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, PlanError

EXP = [math.sqrt(1.0 - (i / 10) ** 2) for i in range(10)]
"""The times of the authors' code, dense where the noise is high."""


def flow_sde(path, grid="uniform", **options):
    settings = {"nfe": 10} if isinstance(grid, str) else {}
    return rg.plan("interpolant_sde", path, grid=grid, **settings, **{"diffusion": 3.0, "schedule": "squared", **options})


def value(x, searches):
    return x.flatten(1).sum(1)


@pytest.mark.parametrize(("scale", "grid"), [(1.0, "uniform"), (40.0, EXP)])
def test_at_equal_evaluations_it_finds_a_rare_mode_more_often(scale, grid):
    """A mode of weight 0.02, 60 evaluations, a diffusion of 3 t^2: which path is better is a matter of the data.

    Where modes part at a noise of 40 it is VP, which still has noise and steps there; where they part at one, VP has used up
    its noise, and the flow's own path is the better. With the better of the two it beats best-of-N, and rolling helps.
    """
    flow = rg.paths.Flow()
    modes = scale * torch.tensor([[-1.0, 0.0], [1.0, 0.5], [0.0, 2.0]])
    variance = 0.02 * scale**2
    den = rg.oracles.GaussianMixture(flow, modes, variance, weights=[0.49, 0.49, 0.02])

    def likeness(x, searches):
        return -0.5 * ((x - modes[2]) ** 2).sum(1).double() / variance

    def hits(found):
        return float((found.verdicts > -4.5).double().mean())

    options: dict[str, Any] = {"n": 60, "nfe": 60, "starts": 3}
    right, wrong = (rg.paths.VP(), flow) if scale > 1.0 else (flow, rg.paths.VP())
    one, other = (rg.search.rollover(den, flow_sde(path, grid), likeness, **options) for path in (right, wrong))
    still = rg.search.rollover(den, flow_sde(right, grid), likeness, roll=False, **options)
    best = rg.search.random(den, rg.plan("euler", flow, grid=EXP), likeness, n=60, draws=6)
    assert [round(found.ledger.nfe, 9) for found in (one, other, best)] == [60.0] * 3
    assert still.ledger.nfe < 60.0
    assert hits(one) > max(hits(other), hits(best)) + 0.15
    assert hits(still) <= hits(one)


def test_without_an_opinion_it_keeps_the_law(normal):
    plan = rg.plan("ddpm", normal.path, nfe=15)
    found = rg.search.rollover(normal, plan, lambda x, i: torch.zeros(len(x)), n=200, nfe=17, starts=2)
    drawn = rg.sample(normal, plan, n=200)
    assert abs(float(found.samples.mean())) < 3 / math.sqrt(200)
    assert abs(float(found.samples.var()) / float(drawn.var()) - 1.0) < 3 * math.sqrt(4 / 200)
    led = rg.search.rollover(normal, plan, value, n=60, nfe=32, starts=2)
    assert led.samples.mean() > 1.0


@pytest.mark.parametrize("roll", [True, False])
def test_the_books_are_the_calls_and_the_budget_is_kept(modes, counted, roll):
    den, asked = counted(modes)
    plan = flow_sde(modes.path)
    found = rg.search.rollover(den, plan, value, n=3, nfe=44, starts=4, roll=roll)
    assert sum(asked) == pytest.approx(3 * found.ledger.nfe)
    assert found.ledger.verdicts == pytest.approx(found.ledger.nfe)  # a verdict for every evaluation
    assert found.ledger.nfe == pytest.approx(44) if roll else found.ledger.nfe < 44
    assert len(found.trace) == 1 + 9
    assert torch.allclose(found.verdicts[:, 0], value(found.samples, None).double())


def test_company_changes_nothing(modes):
    plan = flow_sde(modes.path)
    found = rg.search.rollover(modes, plan, value, n=3, nfe=40)
    assert torch.equal(rg.search.rollover(modes, plan, value, n=1, nfe=40).samples, found.samples[:1])


def test_a_plan_with_history_goes_on_from_each_particles_own(normal):
    """A two-step stochastic recipe: with one child for each row the run is that of the plan, cut where children are."""
    plan = rg.plan("dpmpp_2m_sde", normal.path, nfe=8)
    one = rg.search.rollover(normal, plan, value, n=200, nfe=8, starts=1)
    drawn = rg.sample(normal, plan, n=200)
    assert abs(float(one.samples.std()) - float(drawn.std())) < 4 * math.sqrt(1 / 200)
    assert one.ledger.nfe == pytest.approx(8)


def test_mistakes_are_named(modes, path):
    with pytest.raises(PlanError, match="interpolant_sde"):
        rg.search.rollover(modes, rg.plan("ddim", path, nfe=5), value)
    with pytest.raises(BadValue, match="one: verdicts"):
        rg.search.rollover(modes, flow_sde(path), [value, value])  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadValue, match="nfe=13"):
        rg.search.rollover(modes, flow_sde(path), value, nfe=10, starts=4)
