"""Laws of flow times: their published densities, and what the shift by resolution is for."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.paths import quantiles
from retrograde.train import CosMap, LogitNormal, Mode, Shifted, Uniform

LAWS = {
    "logit_normal": (quantiles.logit_normal, LogitNormal()),
    "mode": (quantiles.mode, Mode()),
    "cosmap": (quantiles.cosmap, CosMap()),
}


def published_mode(u: np.ndarray, scale: float) -> np.ndarray:
    return 1 - u - scale * (np.cos(np.pi * u / 2) ** 2 - 1 + u)


@pytest.mark.parametrize("name", LAWS)
def test_a_quantile_rises_from_0_to_1_the_same_for_floats_and_tensors(name):
    quantile, _ = LAWS[name]
    assert (quantile(0.0), quantile(1.0)) == (0.0, 1.0)
    u = torch.linspace(0.001, 0.999, 301, dtype=torch.float64)
    t = quantile(u)
    assert bool((t.diff() > 0).all())
    assert t.tolist() == pytest.approx([quantile(one) for one in u.tolist()], rel=1e-9)


def test_draws_have_the_published_densities():
    """Kolmogorov and Smirnov: logit-normal, "mode" from its own sampler, cosmap from its density."""
    u = np.random.default_rng(0).random(4000)
    draws = {name: quantile(torch.from_numpy(u)).numpy() for name, (quantile, _) in LAWS.items()}
    assert stats.kstest(np.log(draws["logit_normal"] / (1 - draws["logit_normal"])), "norm").pvalue > 0.01
    other = published_mode(np.random.default_rng(1).random(4000), 1.29)
    assert stats.ks_2samp(draws["mode"], other).pvalue > 0.01
    assert stats.ks_2samp(draws["mode"], published_mode(np.random.default_rng(1).random(4000), -0.5)).pvalue < 1e-6

    def cosmap_cdf(t: np.ndarray) -> np.ndarray:  # integral of 2/(pi - 2 pi t + 2 pi t^2)
        return 2 / np.pi * (np.arctan(2 * t - 1) + np.pi / 4)

    middle, h = 0.3, 1e-5
    slope = (cosmap_cdf(np.array(middle + h)) - cosmap_cdf(np.array(middle - h))) / (2 * h)
    assert slope == pytest.approx(2 / (math.pi - 2 * math.pi * middle + 2 * math.pi * middle**2), rel=1e-6)
    assert stats.kstest(draws["cosmap"], cosmap_cdf).pvalue > 0.01


@pytest.mark.parametrize("law", [Uniform(), LogitNormal(), Mode(), CosMap(), Shifted(3.0)])
def test_every_law_of_times_has_the_same_minimiser(law):
    """The best velocity in a cell of (x, t) is the conditional mean, however often training visits the cell."""
    path = rg.paths.Flow()
    oracle = rg.oracles.FiniteData(path, torch.tensor([[-1.0], [1.0]]), predicts="velocity")
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    t = law.sample(path, n, generator)
    x_0 = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
    eps = torch.randn(n, generator=generator, dtype=torch.float64)
    x_t, target = (1 - t) * x_0 + t * eps, eps - x_0
    for centre_x, centre_t in ((0.3, 0.5), (-0.7, 0.4), (0.5, 0.7)):
        cell = ((x_t - centre_x).abs() < 0.05) & ((t - centre_t).abs() < 0.03)
        seen = target[cell]
        exact = oracle.predict(x_t[cell][:, None], t[cell]).velocity[:, 0].mean()
        assert len(seen) > 100
        assert abs(seen.mean() - exact) < 4 * seen.std() / math.sqrt(len(seen))


def test_shifted_times_hide_as_much_of_a_larger_image():
    """A constant image c on m pixels at the shifted time is known as well as on n pixels at the unshifted one, exactly."""
    path, n, m, v = rg.paths.Flow(), 16, 144, 0.7
    factor = rg.paths.resolution_shift(m, n)
    assert factor == 3.0

    def spread(pixels: int, t: float) -> float:
        """Posterior variance of c, from the gain of the exact denoiser."""
        flat = torch.full((1, pixels, 1), pixels**-0.5, dtype=torch.float64)
        covariance = (flat, torch.tensor([[v * pixels]], dtype=torch.float64), torch.zeros(1))
        oracle = rg.oracles.GaussianMixture(path, torch.zeros(1, pixels), covariance)
        gain = float(oracle.predict(torch.ones(1, pixels, dtype=torch.float64), t).data[0, 0])
        return v * (1 - gain * path.a(t))

    plain, shifted = rg.grids.uniform(path, 9), rg.grids.shifted(path, 9, shift=factor)
    for t_n, t_m in zip(plain[1:], shifted[1:], strict=True):
        assert spread(m, t_m) == pytest.approx(spread(n, t_n), rel=1e-9)
        assert spread(m, t_n) < spread(n, t_n)
        assert path.log_snr(t_m) == pytest.approx(path.log_snr(t_n) - math.log(m / n))


def test_shifts_compose():
    path = rg.paths.Flow()
    twice = [path.time_of_sigma(1.5 * path.sigma(t)) for t in rg.grids.shifted(path, 7, shift=2.0)[1:]]
    assert twice == pytest.approx(rg.grids.shifted(path, 7, shift=3.0)[1:])
    assert rg.grids.shifted(path, 7, shift=1.0) == pytest.approx(rg.grids.uniform(path, 7))
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    moved = Shifted(2.0, {"law": "uniform"}).quantile(path, u)
    assert torch.allclose(path.sigma(moved), 2.0 * path.sigma(Uniform().quantile(path, u)))


@pytest.mark.parametrize("name", LAWS)
def test_a_grid_takes_even_shares_of_its_law(name):
    path = rg.paths.Flow()
    quantile, _ = LAWS[name]
    times = rg.grids.make(path, 8, name)
    assert times[1:] == pytest.approx([quantile(1 - i / 8) for i in range(1, 8)])


def test_what_is_no_law_is_refused():
    with pytest.raises(BadValue, match="std > 0"):
        quantiles.logit_normal(0.3, std=0.0)
    for scale in (-1.01, 1.76):
        with pytest.raises(BadValue, match="scale"):
            quantiles.mode(0.3, scale)
    with pytest.raises(BadValue, match="positive counts"):
        rg.paths.resolution_shift(0, 4)
