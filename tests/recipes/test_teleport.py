"""Teleportation against the integrated flow, on data that is Gaussian, nearly Gaussian, and digits."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import retrograde as rg
from retrograde.data import digits8
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.recipes.teleport import Moments, carry, departure, explained, teleport

EDM = rg.paths.EDM()
MIXING = torch.tensor([[1.0, 0.5, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 0.2]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)


def gaussian_moments() -> Moments:
    variances, axes = torch.linalg.eigh(MIXING @ MIXING.T)
    return Moments(MEAN, axes[:, 1:], variances[1:], variances[0])


def pixels() -> Tensor:
    return digits8("train")[0].reshape(-1, 1, 8, 8).float()


@pytest.fixture(scope="module")
def digits() -> rg.Denoiser:
    return rg.load("digits8-flow")


def integrated(path: rg.paths.Path, x: Tensor, start: float, end: float) -> Tensor:
    """The flow dx/dt = f x - g^2/2 score of the Gaussian, its score from the inverse covariance, by a tight solver."""
    covariance = MIXING @ MIXING.T

    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        x_t = torch.from_numpy(flat.reshape(-1, 3))
        a, s = path.a(t), path.s(t)
        spread = a * a * covariance + s * s * torch.eye(3, dtype=torch.float64)
        score = -torch.linalg.solve(spread, (x_t - a * MEAN).T).T
        return (path.drift(t) * x_t - 0.5 * path.diffusion_squared(t) * score).numpy().ravel()

    solved = solve_ivp(slope, (start, end), x.numpy().ravel(), "DOP853", rtol=1e-12, atol=1e-13)
    return torch.from_numpy(solved.y[:, -1].reshape(-1, 3))


@pytest.mark.parametrize("path_name", ["edm", "flow", "subvp", "ve", "vp"])
def test_the_closed_form_is_the_flow_of_gaussian_data(path_name, path_called):
    path = path_called(path_name)
    start = path.time_of_sigma(20.0)
    x = path.a(start) * MEAN + 20.0 * path.a(start) * torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).double()
    for sigma in (5.0, 0.5, 0.02):
        end = path.time_of_sigma(sigma)
        row = carry(path, gaussian_moments(), start, end)
        made = row.states[0](x) + row.shift
        assert float((made - integrated(path, x, start, end)).abs().max()) < 1e-8


def test_all_the_way_to_the_data_gives_exact_samples():
    plan = teleport(rg.plan("heun", EDM, nfe=5), gaussian_moments(), 0.0)
    assert (plan.nfe, len(plan)) == (0, 1)
    # of x = a m + noise with the covariance of its level, the map makes data
    covariance = MIXING @ MIXING.T
    scale = plan[0].states[0](torch.eye(3, dtype=torch.float64))
    made = scale.T @ (covariance + EDM.t_max**2 * torch.eye(3, dtype=torch.float64)) @ scale
    assert torch.allclose(made, covariance, rtol=0, atol=1e-12)
    exact = rg.oracles.Gaussian(EDM, MEAN, MIXING @ MIXING.T).flow(torch.ones(1, 3).double(), EDM.t_max, None)
    assert torch.allclose(rg.sample(rg.oracles.Gaussian(EDM, MEAN, 1.0), plan, x=torch.ones(1, 3).double()), exact)


@pytest.mark.parametrize(("symmetric", "rate"), [(False, 3.0), (True, 4.0)])
def test_the_error_falls_with_the_first_cumulant_a_gaussian_lacks(symmetric, rate):
    """Two points at distance one: past it the error of x falls as sigma^-2 with a third cumulant, as sigma^-3 without."""
    weights = torch.tensor([0.5, 0.5]) if symmetric else torch.tensor([0.8, 0.2])
    points = torch.tensor([[-0.5], [0.5]], dtype=torch.float64)
    den = rg.oracles.GaussianMixture(rg.paths.EDM(sigma_max=4000.0), points, 1e-4, weights)
    mean, covariance = den.moments()
    moments = Moments(mean, torch.ones(1, 1).double(), covariance[0], torch.zeros((), dtype=torch.float64))
    z = torch.tensor([[1.3], [0.4], [-2.0]], dtype=torch.float64)

    def error(sigma: float) -> float:
        """At `sigma`, of the row from far above, in units of the noise there."""

        def slope(log_sigma: float, y: np.ndarray) -> np.ndarray:
            y_t = torch.from_numpy(y.reshape(-1, 1))
            return (y_t - den.predict(y_t, math.exp(log_sigma)).data).numpy().ravel()

        x = mean + 4000.0 * z
        ends = (math.log(4000.0), math.log(sigma))
        end = solve_ivp(slope, ends, x.numpy().ravel(), "DOP853", rtol=1e-13, atol=1e-13).y[:, -1]
        row = carry(den.path, moments, 4000.0, sigma)
        return float((row.states[0](x) + row.shift - torch.from_numpy(end)[:, None]).abs().max()) / sigma

    far, near = error(8.0), error(4.0)
    assert math.log2(near / far) == pytest.approx(rate, abs=0.25)
    assert error(0.2) > 100.0 * near
    assert near < 1e-3


def distance(den: rg.Denoiser, plan: Plan, full: Tensor) -> float:
    """Root mean square distance from the full run, in standard deviations of the data."""
    return float((rg.sample(den, plan, n=48, seed=1) - full).pow(2).mean().sqrt() / pixels().std())


def test_a_third_of_the_steps_is_skipped_for_nothing(digits):
    """Heun on 18 levels of Karras from sigma = 80; without the correlations of the pixels the same jump costs more."""
    plan = rg.plan("heun", digits, nfe=35, grid="karras", start=80.0)
    full = rg.sample(digits, plan, n=48, seed=1)
    moments = Moments.of(pixels())
    even = Moments(moments.mean, moments.basis[:, :0], moments.variances[:0], pixels().flatten(1).var(0).mean())
    at_three, at_half = teleport(plan, moments, 3.0), teleport(plan, moments, 0.5)
    assert at_three.nfe == 19
    assert distance(digits, at_three, full) < 0.03
    assert distance(digits, at_half, full) > 5.0 * distance(digits, at_three, full)
    assert distance(digits, teleport(plan, even, 0.5), full) > 1.4 * distance(digits, at_half, full)
    gaps = [rg.quality.energy_distance(rg.sample(digits, p, n=128, seed=2), pixels()[:256]).value for p in (plan, at_three)]
    assert gaps[1] == pytest.approx(gaps[0], rel=0.02)


def test_the_score_is_explained_where_there_is_noise_and_the_departure_is_found(digits):
    moments, data = Moments.of(pixels()), pixels()[:128]
    high, middle, low = (explained(digits, moments, data, sigma) for sigma in (5.0, 0.5, 0.1))
    assert high > 0.999
    assert high > middle > low
    assert low < 0.9
    level = departure(digits, moments, data, 0.99)
    assert 0.7 < level < 2.0
    assert departure(digits, moments, data, 0.9999) > level
    with pytest.raises(BadValue, match="share=1"):
        departure(digits, moments, data, 1.0)


def test_a_network_follows_the_gaussian_at_first_and_its_path_is_flat(digits):
    """Relative error of the predicted state, and the share of two principal components in a trajectory."""
    plan = rg.plan("dpmpp_3m", digits, nfe=40, grid="log_snr", start=80.0)
    rec = rg.record(digits, plan, n=16, seed=3)
    moments, path = Moments.of(pixels()), plan.path
    errors = []
    for t, x_t in zip([plan.start, *(row.next_time for row in plan.rows[:-1])], rec.trajectory[:-1], strict=True):
        row = carry(path, moments, plan.start, t)
        errors.append(float((row.states[0](rec.trajectory[0]) + row.shift - x_t).norm() / x_t.norm()))
    early = len(errors) * 35 // 100
    assert max(errors[: early + 1]) < 0.1
    assert errors[-1] > 3.0 * errors[early]
    trajectory = torch.stack([x / path.a(1.0 / (1.0 + 80.0)) for x in rec.trajectory]).flatten(2)
    for item in range(4):
        centred = trajectory[:, item] - trajectory[:, item].mean(0)
        energy = torch.linalg.svdvals(centred) ** 2
        assert float(energy[:2].sum() / energy.sum()) > 0.95


def test_the_preview_is_the_mean_given_the_prior(digits):
    moments = Moments.of(pixels())
    gaussian = moments.denoiser(digits.path)
    t = digits.path.time_of_sigma(10.0)
    x = digits.path.s(t) * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, axes = moments.mean.flatten().double(), moments.basis.double()
    cov = axes @ torch.diag(moments.variances.double() - moments.rest.double()) @ axes.T
    cov += float(moments.rest) * torch.eye(64)
    a, s = digits.path.a(t), digits.path.s(t)
    gain = a * cov @ torch.linalg.inv(a * a * cov + s * s * torch.eye(64).double())
    wanted = mean + (x.flatten(1).double() - a * mean) @ gain.T
    assert torch.allclose(gaussian.predict(x, t).data.flatten(1).double(), wanted, atol=1e-5)


def test_a_teleported_plan_travels_and_what_does_not_fit_is_named(tmp_path):
    plan = teleport(rg.plan("dpmpp_2m", EDM, nfe=12), gaussian_moments(), 3.0)
    assert plan.misses == ("point mass",)
    assert plan.recipe == "teleport(dpmpp_2m@1)"
    assert EDM.sigma(plan.times[0]) <= 3.0
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    with pytest.raises(BadValue, match="1 samples"):
        Moments.of(torch.zeros(1, 3))
    with pytest.raises(BadValue, match="a level of the plan"):
        teleport(plan, gaussian_moments(), 1e-5)
