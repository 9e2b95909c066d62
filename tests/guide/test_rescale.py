"""Rescaled guidance against its formula and the pipelines that have it, and nothing where it should be nothing."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue

PATH = rg.paths.VP()


def answering(predicts: str = "noise") -> rg.Denoiser:
    """A network of pictures that answers more or less, by its label."""

    def network(x, t, label):
        return torch.sin(3.0 * x) * (1.0 + 0.5 * label[:, None, None, None]) + 0.1 * label[:, None, None, None]

    return rg.Denoiser(network, PATH, predicts, (1, 4, 4), {"label": 0.0})


@pytest.fixture
def pictures() -> torch.Tensor:
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("kind", [None, "data", "v"])
def test_the_spread_is_that_of_the_conditional_prediction(kind, pictures):
    guided = rg.guide.cfg(answering(), 7.5)
    free = guided(pictures, 0.5, label=1.0)
    for share in (0.0, 0.7, 1.0):
        made = rg.guide.rescale(guided, share, kind)(pictures, 0.5, label=1.0)
        target, value, before = (one.read(kind or "noise") for one in (free.parts["conditional"], made, free))
        ratio = target.flatten(1).std(1) / before.flatten(1).std(1)
        expected = (1 - share) * before + share * before * ratio[:, None, None, None]
        assert torch.allclose(value, expected, rtol=1e-10, atol=1e-10)
        assert made.parts.keys() == {"conditional", "unconditional"}
    assert torch.allclose(value.flatten(1).std(1), target.flatten(1).std(1), rtol=1e-10)


@pytest.mark.diffusers
def test_it_is_that_of_the_pipelines(pictures):
    from diffusers.guiders.guider_utils import rescale_noise_cfg

    guided = rg.guide.cfg(answering(), 7.5)
    free = guided(pictures, 0.5, label=1.0)
    theirs = rescale_noise_cfg(free.value, free.parts["conditional"].value, guidance_rescale=0.7)
    assert torch.allclose(rg.guide.rescale(guided, 0.7)(pictures, 0.5, label=1.0).value, theirs, rtol=1e-10, atol=1e-10)


def test_no_share_and_no_guidance_change_nothing_bit_by_bit(pictures):
    guided, none = rg.guide.cfg(answering(), 7.5), rg.guide.cfg(answering(), 1.0)
    assert torch.equal(rg.guide.rescale(guided, 0.0)(pictures, 0.5, label=1.0).value, guided(pictures, 0.5, label=1.0).value)
    alone = answering()(pictures, 0.5, label=1.0).value
    assert torch.equal(rg.guide.rescale(none, 0.7)(pictures, 0.5, label=1.0).value, alone)


def test_in_the_data_it_is_the_same_for_every_network(labelled, x):
    one, other = (rg.guide.rescale(rg.guide.cfg(labelled(PATH, kind), 5.0), 0.8, "data") for kind in ("noise", "v"))
    assert torch.allclose(one(x, 0.4, label=0).data, other(x, 0.4, label=0).data, rtol=1e-9, atol=1e-9)


def test_it_nests_around_thresholds_and_intervals(pictures):
    guided = rg.guide.cfg(answering(), 7.5)
    wide = rg.guide.threshold(guided, None, limit=1e6)
    inside, outside = (
        den(pictures, 0.5, label=1.0).noise for den in (rg.guide.rescale(guided, 1.0), rg.guide.rescale(wide, 1.0))
    )
    assert torch.allclose(outside, inside, rtol=1e-9, atol=1e-9)
    nowhere = rg.guide.rescale(rg.guide.interval(guided, 1e6), 1.0)
    assert torch.equal(nowhere(pictures, 0.5, label=1.0).value, answering()(pictures, 0.5, label=1.0).value)


def test_mistakes_are_explained(labelled, mixture):
    with pytest.raises(BadType, match="no conditional branch"):
        rg.guide.rescale(rg.guide.threshold(mixture(PATH)), 0.5)
    with pytest.raises(BadValue, match="share"):
        rg.guide.rescale(rg.guide.cfg(labelled(PATH), 2.0), 1.5)
