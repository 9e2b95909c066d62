"""Several conditions: the score is that of the weighted product, and one alone is classifier-free guidance."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue, UnknownName

PATH = rg.paths.VP()


@pytest.mark.parametrize("path_name", ["vp", "edm", "flow"])
def test_the_score_is_that_of_the_weighted_product(path_name, path_called, labelled, x):
    """grad of log p + sum_i w_i (log p(x|c_i) - log p), by autograd of log densities."""
    path = path_called(path_name)
    den, t = labelled(path), path.time_of_sigma(0.6)
    of_class = {c: rg.oracles.GaussianMixture(path, den.means[[c]], v) for c, v in ((1, 0.5), (3, 0.4))}
    at = x.clone().requires_grad_(True)
    base = den.log_prob(at, t)
    tilted = base + 2.0 * (of_class[1].log_prob(at, t) - base) - 0.5 * (of_class[3].log_prob(at, t) - base)
    (gradient,) = torch.autograd.grad(tilted.sum(), at)
    composed = rg.guide.compose(den, [{"label": 1}, {"label": 2}], weights=[2.0, -0.5])
    assert torch.allclose(composed(x, t).score, gradient, rtol=1e-8, atol=1e-8)


def test_the_run_s_own_condition_alone_is_guidance_bit_by_bit(labelled):
    den, plan = labelled(PATH), rg.plan("dpmpp_2m", PATH, nfe=6)
    one, other = (
        rg.record(d, plan, n=3, condition=[0, 1, 2])
        for d in (rg.guide.compose(den, [{}], weights=[3.0]), rg.guide.cfg(den, 3.0))
    )
    assert torch.equal(one.samples, other.samples)
    assert dict(one.ledger.evaluations) == {"mixture:0": 6, "mixture:unconditional": 6}


def test_a_weight_may_follow_the_noise_level_and_an_interval_confines_it(labelled, x):
    den = labelled(PATH)
    terms = [{}, {"label": 1}]
    fading = rg.guide.compose(den, terms, weights=[2.0, lambda sigma: float(sigma > 1.0)])
    for sigma, second in ((0.5, 0.0), (2.0, 1.0)):
        t = PATH.time_of_sigma(sigma)
        fixed = rg.guide.compose(den, terms, weights=[2.0, second])
        assert torch.equal(fading(x, t, label=0).value, fixed(x, t, label=0).value)
    outside = rg.guide.interval(fading, 3.0)
    assert torch.equal(outside(x, t, label=0).value, den(x, t, label=0).value)


def test_mistakes_are_explained(labelled, mixture):
    with pytest.raises(BadValue, match="as many weights"):
        rg.guide.compose(labelled(PATH), [{}], weights=[1.0, 2.0])
    with pytest.raises(UnknownName, match="did you mean 'label'"):
        rg.guide.compose(labelled(PATH), [{"lable": 1}], weights=[1.0])
    with pytest.raises(BadType, match="takes no condition"):
        rg.guide.compose(mixture(PATH), [{}], weights=[1.0])
