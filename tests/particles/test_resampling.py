"""Laws of resampling: unbiased, as close to the weights as each scheme claims, survivors in their places."""

import pytest
import torch

from retrograde.errors import UnknownName
from retrograde.particles import SCHEMES, branched
from retrograde.particles.resampling import scheme

UNBIASED = sorted(set(SCHEMES) - {"best"})
WEIGHTS = torch.tensor([[0.05, 0.4, 0.25, 0.0, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]], dtype=torch.float64)
DRAWS = 40000


def offspring(name, seed=0, weights=WEIGHTS):
    """Numbers of offspring over many draws, [DRAWS, groups, K]."""
    groups, k = weights.shape
    u = torch.rand(DRAWS * groups, k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ancestors = scheme(name)(weights.repeat(DRAWS, 1), u)
    return torch.nn.functional.one_hot(ancestors, k).sum(1).view(DRAWS, groups, k).double()


@pytest.mark.parametrize("name", UNBIASED)
def test_the_expected_offspring_are_the_weights(name):
    counts = offspring(name)
    expected = WEIGHTS * WEIGHTS.shape[1]
    error = counts.std(0) / DRAWS**0.5
    assert ((counts.mean(0) - expected).abs() <= 4 * error + 1e-12).all()
    assert (counts.sum(-1) == WEIGHTS.shape[1]).all()


def test_the_heaviest_is_not_unbiased():
    assert (offspring("best").mean(0) - WEIGHTS * 5).abs().max() > 1.0


def test_each_scheme_is_as_close_as_it_claims():
    expected = WEIGHTS * WEIGHTS.shape[1]
    away = {name: (offspring(name) - expected).abs().amax((0, 1, 2)) for name in UNBIASED}
    assert away["systematic"] < 1.0
    assert away["stratified"] < 2.0
    assert (offspring("residual") >= torch.floor(expected + 1e-9)).all()
    assert away["multinomial"] > 2.0
    variance = {name: offspring(name).var(0).sum() for name in UNBIASED}
    assert variance["systematic"] < variance["stratified"] < variance["multinomial"] < variance["one"]
    assert variance["residual"] < variance["multinomial"]


@pytest.mark.parametrize("name", ["systematic", "stratified", "residual"])
def test_equal_weights_keep_everyone(name):
    # stratified parts of equal weights hold one particle each
    assert (offspring(name)[:, 1] == 1).all()


@pytest.mark.parametrize("name", UNBIASED)
def test_a_particle_without_weight_has_no_offspring(name):
    assert (offspring(name)[:, 0, 3] == 0).all()


@pytest.mark.parametrize("name", ["systematic", "stratified", "residual", "multinomial", "one", "best"])
def test_survivors_keep_their_places(name):
    u = torch.rand(500, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.softmax(torch.randn(500, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), -1)
    ancestors = scheme(name)(weights, u)
    settled = branched(ancestors)
    assert torch.equal(settled.sort(-1).values, ancestors)
    for row in settled.tolist():
        assert all(row[place] == place for place in set(row))


def test_an_unknown_scheme_lists_those_there_are():
    with pytest.raises(UnknownName, match="systematic"):
        scheme("sistematic")
