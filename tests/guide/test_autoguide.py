"""Autoguidance against its closed form between Gaussians, its books, and its nesting."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, ShapeError

PATH = rg.paths.VP()


@pytest.mark.parametrize("path_name", ["vp", "edm", "flow"])
def test_between_gaussians_it_is_the_gaussian_in_closed_form(path_name, path_called):
    """p^w q^(1-w) of N(m, v) and N(m', v') is N with precision w/v + (1-w)/v': the guided score, level by level."""
    path = path_called(path_name)
    variances = torch.tensor([0.2, 0.8], dtype=torch.float64)
    good = rg.oracles.Gaussian(path, torch.tensor([1.0, 0.5]), variances[0])
    worse = rg.oracles.Gaussian(path, torch.zeros(2), variances[1])
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for sigma, weight in ((0.2, 2.0), (1.0, 3.0)):
        t = path.time_of_sigma(sigma)
        a, s = path.a(t), path.s(t)
        one, two = a * a * 0.2 + s * s, a * a * 0.8 + s * s
        precision = weight / one + (1 - weight) / two
        mean = weight / one * a * torch.tensor([1.0, 0.5], dtype=torch.float64) / precision
        assert precision > 0
        score = rg.guide.autoguide(good, worse, weight)(x, t).score
        assert torch.allclose(score, precision * (mean - x), rtol=1e-8, atol=1e-8)


def test_weight_one_is_the_good_model_bit_by_bit_at_its_cost(labelled, mixture):
    den, plan = labelled(PATH), rg.plan("dpmpp_2m", PATH, nfe=6)
    recorded = rg.record(rg.guide.autoguide(den, mixture(PATH), 1.0), plan, n=3, condition=[0, 1, 2])
    assert torch.equal(recorded.samples, rg.sample(den, plan, n=3, condition=[0, 1, 2]))
    assert dict(recorded.ledger.evaluations) == {"mixture:good": 6}
    twice = rg.record(rg.guide.autoguide(den, mixture(PATH), 2.0), plan, n=3, condition=[0, 1, 2])
    assert dict(twice.ledger.evaluations) == {"mixture:good": 6, "mixture:worse": 6}


def test_the_same_model_without_its_condition_makes_it_classifier_free_guidance(labelled, x):
    den = labelled(PATH)
    blind = rg.oracles.GaussianMixture(PATH, den.means, torch.tensor([0.3, 0.5, 0.2, 0.4]))
    one, other = rg.guide.autoguide(den, blind, 3.0), rg.guide.cfg(den, 3.0)
    assert torch.allclose(one(x, 0.4, label=0).value, other(x, 0.4, label=0).value, rtol=1e-12, atol=1e-12)


def test_the_worse_model_may_live_on_another_path_and_be_guided(labelled, mixture, x):
    den = labelled(PATH)
    here, there = (rg.guide.autoguide(den, mixture(path), 2.0) for path in (PATH, rg.paths.EDM()))
    assert torch.allclose(here(x, 0.4, label=1).data, there(x, 0.4, label=1).data, rtol=1e-8, atol=1e-8)
    guided = rg.guide.apg(den, 3.0, momentum=-0.5)
    both = rg.guide.autoguide(guided, guided, 2.0)
    plan = rg.plan("ddim", PATH, nfe=5)
    one, other = (rg.sample(d, plan, n=2, condition=0, dtype=torch.float64) for d in (both, guided))
    assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_mistakes_are_explained(labelled):
    with pytest.raises(ShapeError, match="one shape"):
        rg.guide.autoguide(labelled(PATH), rg.oracles.Gaussian(PATH, torch.zeros(3), 1.0), 2.0)
    with pytest.raises(BadValue, match="finite"):
        rg.guide.autoguide(labelled(PATH), labelled(PATH), float("inf"))
