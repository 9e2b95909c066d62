"""Guidance in an interval: what acts where, what it costs, and that it serves any transform in any order."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue

PATH = rg.paths.VP()


def test_it_guides_inside_and_costs_one_evaluation_outside(labelled):
    den = labelled(PATH)
    guided = rg.guide.cfg(den, 4.0)
    within = rg.guide.interval(guided, 0.3, 30.0)
    plan = rg.plan("ddim", PATH, nfe=12)
    recorded = rg.record(within, plan, n=4, condition=[0, 1, 2, 0], dtype=torch.float64)
    inside = [0.3 < PATH.sigma(t) <= 30.0 for t in plan.times]
    assert 2 < sum(inside) < 10
    assert recorded.ledger.nfe == 12 + sum(inside)
    label = {"label": torch.tensor([0, 1, 2, 0])}
    for k, state in enumerate(rg.steps(plan, within, n=4, condition=[0, 1, 2, 0], dtype=torch.float64)):
        asked = guided if inside[k] else den
        assert state.prediction is not None
        assert torch.equal(state.prediction.value, asked.predict(recorded.trajectory[k], plan.times[k], label).value)


def test_everywhere_and_nowhere_are_guidance_and_none_bit_by_bit(labelled):
    den = labelled(PATH)
    guided = rg.guide.cfg(den, 4.0)
    plan = rg.plan("dpmpp_2m", PATH, nfe=6)

    def drawn(denoiser):
        return rg.sample(denoiser, plan, n=3, condition=[0, 1, 2])

    assert torch.equal(drawn(rg.guide.interval(guided)), drawn(guided))
    assert torch.equal(drawn(rg.guide.interval(guided, 1e6, 1e7)), drawn(den))


def test_the_upper_end_belongs_to_it_and_the_lower_does_not(labelled, x):
    path = rg.paths.EDM()
    den = labelled(path)
    guided = rg.guide.cfg(den, 4.0)
    within = rg.guide.interval(guided, 0.5, 2.0)
    assert torch.equal(within(x, 2.0, label=0).value, guided(x, 2.0, label=0).value)
    assert torch.equal(within(x, 0.5, label=0).value, den(x, 0.5, label=0).value)


def test_items_at_levels_of_their_own(labelled, x):
    within = rg.guide.interval(rg.guide.cfg(labelled(rg.paths.EDM()), 4.0), 0.5, 2.0)
    together = within.predict(x, torch.tensor([0.3, 1.0, 5.0]), {"label": torch.tensor([0, 1, 2])}).value
    for i, t in enumerate([0.3, 1.0, 5.0]):
        assert torch.allclose(together[i], within(x[i : i + 1], t, label=i).value[0], rtol=1e-6, atol=1e-6)


def test_it_means_the_same_on_another_path(labelled):
    plan = rg.plan("dpmpp_2m", rg.paths.EDM(), nfe=8, start=30.0, sigma_min=0.02)
    one, other = (
        rg.sample(rg.guide.interval(rg.guide.cfg(labelled(p), 3.0), 0.2, 3.0), plan, n=3, condition=1, dtype=torch.float64)
        for p in (PATH, rg.paths.EDM())
    )
    assert torch.allclose(one, other, atol=1e-7)


def test_the_outermost_transform_is_the_one_that_is_confined(labelled, x):
    guided = rg.guide.cfg(labelled(PATH), 6.0)
    clipped = rg.guide.interval(rg.guide.threshold(guided, None, limit=0.5), 0.0, 0.1)
    t = PATH.time_of_sigma(1.0)
    assert torch.equal(clipped(x, t, label=0).value, guided(x, t, label=0).value)
    inside = rg.guide.threshold(rg.guide.interval(guided, 0.0, 0.1), None, limit=0.5)
    assert inside(x, t, label=0).data.abs().max() <= 0.5


def test_mistakes_are_explained(labelled):
    with pytest.raises(BadType, match="not guided"):
        rg.guide.interval(labelled(PATH), 0.2, 0.8)
    for low, high in ((0.8, 0.2), (-1.0, 1.0), (math.nan, 1.0)):
        with pytest.raises(BadValue, match="noise levels"):
            rg.guide.interval(rg.guide.cfg(labelled(PATH), 2.0), low, high)
