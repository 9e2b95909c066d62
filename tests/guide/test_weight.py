"""The weight: two conventions under two names, and a function of the noise level."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue

PATH = rg.paths.VP()


def test_strength_is_the_weight_less_one_bit_by_bit(labelled, x):
    """m_c + strength (m_c - m_u), as the original paper writes it."""
    den = labelled(PATH)
    strong = rg.guide.cfg(den, strength=2.0)
    assert torch.equal(strong(x, 0.4, label=0).value, rg.guide.cfg(den, 3.0)(x, 0.4, label=0).value)
    away, towards = den(x, 0.4).value, den(x, 0.4, label=0).value
    assert torch.allclose(strong(x, 0.4, label=0).value, towards + 2.0 * (towards - away), rtol=1e-12, atol=1e-12)
    assert torch.equal(rg.guide.cfg(den, strength=0.0)(x, 0.4, label=0).value, towards)


@pytest.mark.parametrize("given", [{}, {"weight": 2.0, "strength": 1.0}, {"strength": math.inf}, {"weight": math.nan}])
def test_one_finite_number_is_asked_for(given, labelled):
    with pytest.raises(BadValue, match="weight"):
        rg.guide.cfg(labelled(PATH), **given)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_a_function_is_read_at_the_noise_level(path_name, path_called, labelled, x):
    path = path_called(path_name)
    den = labelled(path)
    guided = rg.guide.cfg(den, lambda sigma: 1.0 + sigma)
    for sigma in (0.2, 1.5):
        t = path.time_of_sigma(sigma)
        fixed = rg.guide.cfg(den, 1.0 + path.sigma(t))
        assert torch.equal(guided(x, t, label=0).value, fixed(x, t, label=0).value)


def test_items_at_levels_of_their_own_have_weights_of_their_own(labelled, x):
    guided = rg.guide.cfg(labelled(PATH), lambda sigma: 1.0 + sigma)
    times = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    together = guided.predict(x, times, {"label": torch.tensor([0, 1, 2])}).value
    for i, t in enumerate(times.tolist()):
        alone = guided(x[i : i + 1], t, label=i).value[0]
        assert torch.allclose(together[i], alone, rtol=1e-12, atol=1e-12)


def test_a_function_that_is_one_everywhere_is_the_conditional_model_at_its_cost(labelled):
    den = labelled(PATH)
    plan = rg.plan("dpmpp_2m", PATH, nfe=5)
    recorded = rg.record(rg.guide.cfg(den, lambda sigma: 1.0), plan, n=3, condition=0)
    assert torch.equal(recorded.samples, rg.sample(den, plan, n=3, condition=0))
    assert recorded.ledger.nfe == 5
    with pytest.raises(BadValue, match="finite"):
        rg.sample(rg.guide.cfg(den, lambda sigma: math.nan), plan, condition=0)
