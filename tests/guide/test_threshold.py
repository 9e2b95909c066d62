"""Thresholding against the schedulers that have it, its bounds, and that it is nothing where it should be nothing."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue

PATH = rg.paths.VP()


def answering(data: torch.Tensor, predicts: str = "data") -> rg.Denoiser:
    """A network that predicts this data mean, whatever it is asked."""

    def network(x, t):
        if predicts == "data":
            return data
        time = float(t[0])
        return (x - PATH.a(time) * data) / PATH.s(time)

    return rg.Denoiser(network, PATH, predicts, tuple(data.shape[1:]))


@pytest.fixture
def data() -> torch.Tensor:
    made = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return made * torch.tensor([0.1, 0.5, 1.5, 6.0], dtype=torch.float64)[:, None, None, None]


@pytest.mark.diffusers
@pytest.mark.parametrize("quantile", [0.995, 0.9, 1.0])
def test_dynamic_thresholding_is_that_of_the_schedulers(quantile, data):
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=1e6)
    x = torch.randn_like(data)
    for predicts in ("data", "noise"):
        kept = rg.guide.threshold(answering(data, predicts), quantile).predict(x, 0.5).data
        assert torch.allclose(kept, theirs._threshold_sample(data), rtol=0, atol=1e-6)
        assert kept.abs().max() <= 1.0 + 1e-12


def test_an_item_inside_the_range_is_left_alone_whatever_the_batch(data):
    den = answering(data)
    kept = rg.guide.threshold(den, 1.0).predict(torch.zeros_like(data), 0.5).data
    assert torch.equal(kept[0], data[0])
    for i in range(4):
        alone = rg.guide.threshold(answering(data[i : i + 1]), 1.0).predict(torch.zeros_like(data[:1]), 0.5).data
        assert torch.equal(alone[0], kept[i])


def test_static_thresholding_clips_and_the_limit_is_the_range_of_the_data(data):
    x = torch.zeros_like(data)
    clipped = rg.guide.threshold(answering(data), None, limit=0.5).predict(x, 0.5).data
    assert torch.equal(clipped, data.clamp(-0.5, 0.5))
    assert rg.guide.threshold(answering(data), 0.9, limit=0.5).predict(x, 0.5).data.abs().max() <= 0.5 + 1e-12


@pytest.mark.parametrize("quantile", [0.995, None])
def test_no_threshold_is_the_denoiser_itself_bit_by_bit(quantile, mixture):
    den = mixture(PATH)
    plan = rg.plan("dpmpp_2m", PATH, nfe=8)
    same = rg.guide.threshold(den, quantile, limit=math.inf)
    assert torch.equal(rg.sample(same, plan, n=4), rg.sample(den, plan, n=4))
    wide = rg.guide.threshold(den, quantile, limit=1e3)
    assert torch.equal(rg.sample(wide, plan, n=4), rg.sample(den, plan, n=4))


def test_strong_guidance_saturates_without_it_and_not_with_it():
    """Two classes at -0.8 and 0.8; guided strongly, samples leave the range of the data, and a threshold keeps them in."""
    means = torch.tensor([-0.8, 0.8]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    den = rg.oracles.GaussianMixture(PATH, means=means, covariances=0.01, labels=[0, 1])
    plan = rg.plan("dpmpp_2m", PATH, nfe=15)
    guided = rg.guide.cfg(den, 12.0)
    wild = rg.sample(guided, plan, n=4, condition=1)
    tame = rg.sample(rg.guide.threshold(guided), plan, n=4, condition=1)
    assert wild.abs().max() > 1.0
    assert tame.abs().max() <= 1.0 + 1e-6


def test_guidance_obeys_its_knob_inside_a_threshold():
    means = torch.tensor([[-0.8], [0.8]])
    den = rg.guide.threshold(rg.guide.cfg(rg.oracles.GaussianMixture(PATH, means, 0.01, labels=[0, 1]), 2.0))
    assert den.consumes == frozenset({"guidance"})
    assert den.conditions == {"label": -1}


@pytest.mark.parametrize("wrong", [{"quantile": 0.0}, {"quantile": 1.5}, {"limit": 0.0}, {"limit": math.nan}])
def test_settings_are_checked(wrong, mixture):
    with pytest.raises(BadValue):
        rg.guide.threshold(mixture(PATH), **wrong)
