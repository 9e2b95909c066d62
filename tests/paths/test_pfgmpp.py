"""PFGM++: Student's noise, its exact denoiser, the flow that ends at the data, and its two limits."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import retrograde as rg
from retrograde.data import digits8
from retrograde.denoisers import on_path
from retrograde.errors import BadValue, PlanError, ShapeError
from retrograde.noise import Noise, heavy_tailed
from retrograde.run import State

POINTS = torch.tensor([[1.0, 0.5], [-0.8, 0.9], [0.1, -1.1], [-0.4, -0.2]], dtype=torch.float64)


@pytest.mark.parametrize("degrees", [1.0, 16.0, 128.0])
def test_the_prior_lies_at_the_published_radii(degrees):
    """R = r sqrt(B/(1 - B)) with B of Beta(N/2, D/2) and r = sqrt(D) in units of sigma, directions uniform."""
    eps = Noise.first(4000, seed=1).prior((5,), torch.float64, degrees=degrees)
    square = eps.square().sum(1)
    assert stats.kstest((square / (square + degrees)).numpy(), stats.beta(2.5, degrees / 2).cdf).pvalue > 0.01
    assert stats.kstest((eps[:, 0] / square.sqrt()).square().numpy(), stats.beta(0.5, 2.0).cdf).pvalue > 0.01
    trained = heavy_tailed(torch.randn(4000, 5, dtype=torch.float64), degrees, torch.Generator().manual_seed(0))
    assert stats.ks_2samp(trained.square().sum(1).numpy(), square.numpy()).pvalue > 0.01


def test_an_item_keeps_its_noise_in_any_batch():
    whole = Noise.first(6, seed=2).prior((3,), degrees=8.0)
    assert torch.equal(Noise(2, [4, 1]).prior((3,), degrees=8.0), whole[[4, 1]])
    gaussian = Noise.first(6, seed=2).prior((3,))
    assert torch.equal(gaussian, Noise.first(6, seed=2).draw((3,), (-1.0, -1.0)))
    assert not torch.allclose(whole, gaussian)


def test_many_dimensions_are_diffusion():
    """D = 10^6: coordinates pass a test against N(0, sigma^2), and the exact denoiser is that of diffusion to 1e-3."""
    path = rg.paths.PFGMpp(degrees=1e6)
    eps = Noise.first(4000, seed=3).prior((2,), torch.float64, degrees=path.degrees)
    assert stats.kstest(eps.flatten().numpy(), "norm").pvalue > 0.01
    assert stats.kstest(Noise.first(4000).prior((2,), torch.float64, degrees=2.0).flatten().numpy(), "norm").pvalue < 1e-6
    x_t = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    diffusion = rg.oracles.FiniteData(rg.paths.EDM(), POINTS)
    few = rg.oracles.PoissonData(rg.paths.PFGMpp(degrees=4.0), POINTS)
    for sigma in (0.3, 1.0, 10.0):
        exact = diffusion.predict(x_t, sigma).data
        assert (rg.oracles.PoissonData(path, POINTS).predict(x_t, sigma).data - exact).abs().max() < 1e-3
    endless = rg.oracles.PoissonData(rg.paths.PFGMpp(degrees=math.inf), POINTS)
    assert torch.allclose(endless.predict(x_t, 1.0).data, diffusion.predict(x_t, 1.0).data, atol=1e-12)
    assert (few.predict(x_t, 1.0).data - diffusion.predict(x_t, 1.0).data).abs().max() > 0.02


def test_one_dimension_is_the_poisson_field():
    """D = 1: dx/dz = E_x/E_z, the field of data spread evenly over a segment, by quadrature."""
    points = torch.linspace(-1, 1, 8001, dtype=torch.float64)[:-1, None] + 1 / 8000
    den = rg.oracles.PoissonData(rg.paths.PFGMpp(degrees=1.0), points)
    for x, z in ((0.4, 0.3), (1.7, 0.8), (-0.9, 3.0)):
        along = integrate.quad(lambda y, x=x, z=z: (x - y) / ((x - y) ** 2 + z * z), -1, 1, points=[0.4])[0]
        up = integrate.quad(lambda y, x=x, z=z: z / ((x - y) ** 2 + z * z), -1, 1, points=[0.4])[0]
        velocity = den.predict(torch.tensor([[x]], dtype=torch.float64), z).velocity  # r = sigma for D = 1
        assert float(velocity) == pytest.approx(along / up, rel=1e-4)


def test_the_exact_denoiser_is_the_mean_of_the_data():
    path, n = rg.paths.PFGMpp(degrees=3.0), 400_000
    generator = torch.Generator().manual_seed(5)
    data = torch.tensor([[-1.0], [1.0], [2.0]], dtype=torch.float64)
    den = rg.oracles.PoissonData(path, data)
    x_0 = data[torch.randint(0, 3, (n,), generator=generator)]
    eps = heavy_tailed(torch.randn(n, 1, generator=generator, dtype=torch.float64), path.degrees, generator)
    x_t = x_0 + 0.8 * eps
    for centre in (-0.5, 0.6, 3.5):
        cell = (x_t[:, 0] - centre).abs() < 0.02
        wanted = den.predict(x_t[cell], 0.8).data.mean()
        assert abs(x_0[cell].mean() - wanted) < 4 * x_0[cell].std() / math.sqrt(int(cell.sum()))


@pytest.mark.parametrize("degrees", [2.0, 128.0, math.inf])
def test_the_flow_from_the_prior_reaches_the_data(degrees):
    """35 evaluations of Heun: every sample ends on a data point, each point as often as it should; not so from N(0, I)."""
    path, n = rg.paths.PFGMpp(degrees=degrees), 2000
    den = rg.oracles.PoissonData(path, POINTS)
    plan = rg.plan("heun", path, nfe=35)
    samples = rg.sample(den, plan, n=n, dtype=torch.float64)
    distance, nearest = torch.cdist(samples, POINTS).min(1)
    assert float((distance < 0.01).double().mean()) > 0.99
    assert stats.chisquare(np.bincount(nearest.numpy(), minlength=4)).pvalue > 0.01


def test_a_wrong_prior_is_seen():
    path, n = rg.paths.PFGMpp(degrees=1.0, sigma_max=3.0), 2000
    den = rg.oracles.PoissonData(path, torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64))
    plan = rg.plan("heun", path, nfe=61)

    def shares(x: torch.Tensor) -> np.ndarray:
        return np.bincount((rg.sample(den, plan, x=x)[:, 0] / 3).round().long().clamp(-1, 1).numpy() + 1, minlength=3)

    # the true start at so low a level: data plus noise of one degree of freedom
    at = den.points[torch.randint(0, 3, (n,), generator=torch.Generator().manual_seed(0))]
    right = at + 3.0 * Noise.first(n).prior((1,), torch.float64, degrees=1.0)
    wrong = at + 3.0 * Noise.first(n).prior((1,), torch.float64)
    assert stats.chisquare(shares(right)).pvalue > 0.01
    assert stats.chisquare(shares(wrong)).pvalue < 1e-3


class Shaken:
    """A controller that adds noise of alpha times the level to every state, as errors of a step would."""

    consumes: frozenset[str] = frozenset()

    def __init__(self, path: rg.paths.Path, alpha: float) -> None:
        self.path, self.alpha = path, alpha

    def rewrite(self, remaining: tuple[rg.Row, ...], state: State | None) -> tuple[rg.Row, ...]:
        return remaining

    def correct(self, state: State) -> torch.Tensor:
        if state.t is None or state.row.time == state.row.next_time:
            return state.x_t
        eps = Noise.first(len(state.x_t), 7).draw(state.x_t.shape[1:], (state.t, -9.0), state.index, state.x_t.dtype)
        return state.x_t + self.alpha * self.path.s(state.t) * eps


def test_few_degrees_forgive_disturbed_states():
    """Small digits as data, nine steps of Heun: noise in every step costs the less the fewer degrees of freedom there are.

    A large disturbance (0.6 of the level) is meant: at 0.2 nothing tells them apart, nor does rounding of the exact data
    means to three grey levels, which the paper's claim for quantized networks would have.
    """
    data = digits8("train")[0].reshape(-1, 64).double()[:600]
    growth = []
    for degrees in (128.0, math.inf):
        den = rg.oracles.PoissonData(rg.paths.PFGMpp(degrees=degrees), data)
        plan = rg.plan("heun", den.path, nfe=17)
        calm, shaken = (
            rg.sample(den, plan, n=256, controllers=[Shaken(den.path, alpha)], dtype=torch.float64) for alpha in (0.0, 0.6)
        )
        distances = [rg.quality.energy_distance(samples, data).value for samples in (calm, shaken)]
        growth.append(distances[1] - distances[0])
    assert growth[1] > 0.08
    assert growth[0] < 0.75 * growth[1]


def test_what_needs_gaussian_noise_is_refused():
    path = rg.paths.PFGMpp()
    for name in ("ddpm", "edm_stochastic", "euler_ancestral", "sa_solver"):
        with pytest.raises(PlanError, match="draws Gaussian noise"):
            rg.plan(name, path, nfe=9)
    with pytest.raises(BadValue, match="PoissonData"):
        rg.oracles.FiniteData(path, POINTS)
    with pytest.raises(BadValue, match="another law"):
        on_path(rg.oracles.FiniteData(rg.paths.EDM(), POINTS), path)
    with pytest.raises(ShapeError):
        rg.oracles.PoissonData(path, POINTS[0, 0])
