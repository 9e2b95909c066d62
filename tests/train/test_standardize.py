"""Standardization by codes: on linear Gaussian pairs the law of the result is known."""

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.codec import Codec
from retrograde.errors import ShapeError
from retrograde.train import standardized

DOUBLE = torch.float64
D, KEPT = 6, 3


PLACE, EYE = torch.arange(D, dtype=DOUBLE), torch.eye(D, dtype=DOUBLE)
C = torch.exp(-0.5 * ((PLACE[:, None] - PLACE) / 1.5) ** 2) + 0.05 * EYE
M, NOISE = 0.6 * (0.7 * EYE + 0.3 * EYE.roll(1, 0)), 0.3


def pairs(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth signals, and the same of another protocol: less gain, mixed with their neighbours, and noise."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, D, generator=g, dtype=DOUBLE) @ torch.linalg.cholesky(C).T
    return x, x @ M.T + NOISE * torch.randn(n, D, generator=g, dtype=DOUBLE)


def learned(path: rg.paths.Path, z: Tensor, seen: Tensor) -> rg.Denoiser:
    """A model of codes that knows the pairs alone: at every level the least squares of z on (z_t, seen)."""

    def network(z_t: Tensor, told: Tensor, seen: Tensor, given: Tensor = seen) -> Tensor:
        t = float(told[0])
        eps = torch.randn(z.shape, generator=torch.Generator().manual_seed(int(1e6 * t)), dtype=DOUBLE)
        regressors = torch.cat([path.a(t) * z + path.s(t) * eps, given], 1)
        weights = torch.linalg.lstsq(regressors, z).solution
        return torch.cat([z_t, seen], 1) @ weights

    return rg.Denoiser(network, path, "data", (KEPT,), conditions={"seen": torch.zeros(KEPT, dtype=DOUBLE)})


def test_codes_have_the_law_that_pairs_say():
    """Principal components for the autoencoder: mean and covariance of z given the codes of x, to 5 %."""
    x, other = pairs(20000, 0)
    basis = torch.linalg.svd(torch.cat([x, other]), full_matrices=False)[2][:KEPT].T
    codec = Codec(lambda x: x @ basis, lambda z: z @ basis.T, (D,), (KEPT,)).fitted(x)
    z, seen = codec.encode(x), codec.encode(other)
    den = learned(rg.paths.VP(), z, seen)
    one = pairs(1, 7)[1].expand(8000, -1)
    made = codec.encode(standardized(codec, den, rg.plan("dpmpp_2m", den, nfe=30), one))
    E = codec.encode(EYE).T
    A, AB, B = (E @ covariance @ E.T for covariance in (C, C @ M.T, M @ C @ M.T + NOISE**2 * EYE))
    mean = AB @ torch.linalg.solve(B, codec.encode(one[:1])[0])
    covariance = A - AB @ torch.linalg.solve(B, AB.T)
    assert float((made.mean(0) - mean).norm() / covariance.trace().sqrt()) < 0.05
    assert float((torch.cov(made.T) - covariance).norm() / covariance.norm()) < 0.05
    assert float(covariance.trace() / A.trace()) > 0.1  # what a regression would leave out


def test_codes_of_another_shape_are_refused():
    codec = Codec(lambda x: x, lambda z: z, (4,), (4,))
    with pytest.raises(ShapeError, match="codec.encode"):
        standardized(codec, rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(3), 1.0), None, torch.zeros(1, 4))  # type: ignore[arg-type]
