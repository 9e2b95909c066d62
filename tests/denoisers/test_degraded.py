"""The oracle of degraded data, against the posterior of the mixture for one anchor after another."""

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import KINDS
from retrograde.errors import PlanError, ShapeError, UnknownName

DOUBLE = torch.float64
OPERATOR = torch.tensor([[0.9, 0.2], [0.1, 0.6]], dtype=DOUBLE)
X = torch.tensor([[0.3, -0.8], [1.7, 0.4], [-2.2, 1.1]], dtype=DOUBLE)
Y = torch.tensor([[0.5, 0.2], [-0.4, 0.9], [1.1, -0.3]], dtype=DOUBLE)
PATHS = ("mean_reverting", "offset", "ornstein_uhlenbeck", "residual_denoising", "residual_noise", "residual_shift")


@pytest.mark.parametrize("path_name", PATHS)
def test_it_is_the_posterior_of_each_anchor(path_name, path_called, mixture):
    path = path_called(path_name)
    prior = mixture(path)
    for kind in (*KINDS, *path.targets):
        den = prior.degraded(OPERATOR, 0.4, predicts=kind)
        for t in (path.t_min, 0.5 * (path.t_min + path.t_max), path.t_max):
            together = den(X, t, anchor=Y)
            for i in range(3):
                alone = prior.posterior(OPERATOR, Y[i], 0.4)(X[i : i + 1], t, anchor=Y[i])
                assert torch.allclose(together.value[i], alone.read(kind)[0], rtol=1e-8, atol=1e-8), (kind, t)
        times = torch.tensor([path.t_min, 0.3 * path.t_max, 0.9 * path.t_max], dtype=DOUBLE)
        mixed = den(X, times, anchor=Y).value
        for i in range(3):
            assert torch.allclose(mixed[i], den(X[i : i + 1], float(times[i]), anchor=Y[i]).value[0], rtol=1e-9, atol=1e-12)


def test_its_moments_are_those_of_what_is_drawn(mixture):
    den = mixture(rg.paths.ResidualShift()).degraded(OPERATOR, 0.4)
    x, y = den.draw(60000, seed=1)
    mean, covariance = den.posterior(y)
    rest = x - mean
    # the tower rule: residuals are uncorrelated with every function of y, their covariance is the mean one
    assert (rest.mean(0)).abs().max() < 0.02
    assert (rest.T @ torch.tanh(y) / len(y)).abs().max() < 0.02
    assert torch.allclose(rest.T @ rest / len(rest), covariance.mean(0), atol=0.02)


def test_without_noise_and_with_an_invertible_operator_the_data_are_known(mixture):
    den = mixture(rg.paths.ResidualShift()).degraded(OPERATOR, 0.0)
    x, y = den.draw(3)
    for t in (0.1, 0.9):
        assert torch.allclose(den(X, t, anchor=y).data, x, atol=1e-7)


def test_what_it_cannot_be_is_refused(mixture):
    with pytest.raises(PlanError, match="degraded data on path 'vp'"):
        mixture(rg.paths.VP()).degraded(OPERATOR, 0.1)
    prior = mixture(rg.paths.ResidualShift())
    with pytest.raises(ShapeError, match=r"an operator of shape \[1, 2\]"):
        prior.degraded(OPERATOR[:1], 0.1)
    with pytest.raises(UnknownName, match="residual"):
        prior.degraded(OPERATOR, 0.1, predicts="residue")
    with pytest.raises(PlanError, match="without its anchor"):
        prior.degraded(OPERATOR, 0.1)(X, 0.5)
