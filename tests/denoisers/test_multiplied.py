"""Exact products of mixtures: against quadrature and closed forms."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, ShapeError

PATH = rg.paths.VP()
ONE = rg.oracles.GaussianMixture(PATH, torch.tensor([[-1.0, 0.3], [0.8, 0.1]]), torch.tensor([0.2, 0.4]), weights=[0.3, 0.7])
OTHER = rg.oracles.GaussianMixture(PATH, torch.tensor([[0.5, -0.4], [-0.9, 0.9]]), torch.tensor([[0.5, 0.2], [0.3, 0.6]]))
WIDE = rg.oracles.Gaussian(PATH, torch.zeros(2), 2.0)


@pytest.mark.parametrize(
    ("models", "exponents"),
    [([ONE, OTHER], None), ([ONE], [3]), ([ONE, OTHER, WIDE], [2, 1, -0.7]), ([ONE, OTHER], [1, 0])],
    ids=["product", "power", "tilted", "one"],
)
def test_its_density_is_the_product_by_quadrature(models, exponents):
    made = rg.oracles.product(models, exponents)
    line = torch.linspace(-5, 5, 201, dtype=torch.float64)
    x = torch.cartesian_prod(line, line)
    weights = [1.0] * len(models) if exponents is None else exponents
    log_q = sum(w * model.log_prob(x, 1e-12) for model, w in zip(models, weights, strict=True))
    expected = torch.softmax(log_q, 0)
    found = made.log_prob(x, 1e-12).exp() * (line[1] - line[0]) ** 2
    assert float(found.sum()) == pytest.approx(1.0, abs=1e-4)
    assert 0.5 * float((found - expected).abs().sum()) < 1e-4


def test_between_gaussians_it_is_the_law_that_guidance_names():
    """N(m, 1)^w N(0, 2)^(1 - w) has the precision w - (w - 1)/2; at no noise its score is the guided one."""
    one = rg.oracles.Gaussian(PATH, torch.tensor([1.0, -1.0]), 1.0)
    made, guided = rg.oracles.product([one, WIDE], [3.0, -2.0]), rg.guide.product([one, WIDE], [3.0, -2.0])
    assert torch.allclose(made.covariance()[0], torch.eye(2).double() / 2.0)
    assert torch.allclose(made.means[0], torch.tensor([1.5, -1.5]).double())
    x = torch.tensor([[0.3, 0.2]]).double()
    t = PATH.time_of_sigma(1e-3)
    assert torch.allclose(made(x, t).score, guided(x, t).score, rtol=1e-4)
    assert not torch.allclose(made(x, 0.5).score, guided(x, 0.5).score, rtol=0.1)


def test_what_has_no_closed_form_is_refused():
    with pytest.raises(BadValue, match=r"power 0.5 of a mixture of 2"):
        rg.oracles.product([ONE], [0.5])
    with pytest.raises(BadValue, match="a norm"):
        rg.oracles.product([WIDE, rg.oracles.Gaussian(PATH, torch.zeros(2), 1.0)], [1.0, -1.0])
    with pytest.raises(BadValue, match="without spread"):
        rg.oracles.product([ONE, rg.oracles.FiniteData(PATH, torch.zeros(2, 2))])
    with pytest.raises(BadValue, match="8192 components"):
        rg.oracles.product([ONE], [13])
    with pytest.raises(BadValue, match="2 models, 1 exponents"):
        rg.oracles.product([ONE, OTHER], [1])
    with pytest.raises(ShapeError, match="one shape"):
        rg.oracles.product([ONE, rg.oracles.Gaussian(PATH, torch.zeros(3), 1.0)])
