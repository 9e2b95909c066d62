"""Fractional noise as a sum of Ornstein-Uhlenbeck processes: against exact covariances, quadrature and simulation."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.paths.fractional import MarkovFractional, _fit


def exact_covariance(hurst: float, times: np.ndarray) -> np.ndarray:
    """E[B(s) B(t)] of fractional Brownian motion of the second type, by quadrature without the end's singularity."""
    result = np.empty((len(times), len(times)))
    power, norm = hurst - 0.5, math.gamma(hurst + 0.5) ** 2
    for i, late in enumerate(times):
        for j, early in enumerate(times[: i + 1]):
            # v = (early - u)^(H + 1/2) takes the singularity at u = early away
            top = early ** (power + 1)

            def integrand(v: float, gap: float = late - early) -> float:
                return (gap + v ** (1 / (power + 1))) ** power / (power + 1)

            result[i, j] = result[j, i] = integrate.quad(integrand, 0.0, top, epsabs=1e-11)[0] / norm
            if i == j:
                result[i, i] = early ** (2 * hurst) / (2 * hurst * norm)
    return result


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_the_weights_solve_the_normal_equations(hurst):
    """b by quadrature of E[B(t) Y_k(t)], and no other weights do better."""
    speeds, weights, error = _fit(hurst, 4.0 ** (np.arange(4) - 1.5), 1.0)
    gamma = math.gamma(hurst + 0.5)
    b = []
    for g in speeds:
        # E[B(t) Y(t)] integrated over t in [0, 1]: noise that is u old is seen for a time 1 - u
        value, _ = integrate.quad(
            lambda v, g=g: (1 - v ** (1 / (hurst + 0.5))) * math.exp(-g * v ** (1 / (hurst + 0.5))) / (hurst + 0.5),
            0.0,
            1.0,
            epsabs=1e-12,
            epsrel=1e-12,
        )
        b.append(value / gamma)
    rates = speeds[:, None] + speeds[None, :]
    a = np.array(
        [[integrate.quad(lambda t, r=r: -math.expm1(-r * t) / r, 0, 1, epsabs=1e-13)[0] for r in row] for row in rates]
    )
    assert np.abs(a @ weights - np.array(b)).max() < 1e-8
    whole = 1 / (2 * hurst * (2 * hurst + 1) * gamma**2)
    assert error == pytest.approx(1 - 2 * weights @ np.array(b) / whole + weights @ a @ weights / whole, abs=1e-8)


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_more_processes_come_closer_to_fractional_noise(hurst):
    times = np.linspace(0.05, 1.0, 12)
    exact = exact_covariance(hurst, times)
    errors = [np.linalg.norm(MarkovFractional(hurst, k).covariance(times) - exact) for k in (1, 3, 5, 7)]
    assert all(late < early for early, late in zip(errors, errors[1:], strict=False)), errors
    assert errors[0] > 5 * errors[2]
    assert errors[3] < 0.02 * np.linalg.norm(exact)
    fits = [MarkovFractional(hurst, k).error for k in (1, 3, 5, 7)]
    assert all(late < early for early, late in zip(fits, fits[1:], strict=False)), fits


def test_half_is_brownian_motion():
    times = np.linspace(0.1, 1.0, 7)
    for ratio, tolerance in ((None, 2e-3), (1.5, 2e-2)):
        process = MarkovFractional(0.5, 5, ratio=ratio)
        assert np.abs(process.covariance(times) - np.minimum.outer(times, times)).max() < tolerance
    slow = MarkovFractional(0.5, 1, ratio=1.0, horizon=1.0)
    still = _fit(0.5, np.array([1e-4]), 1.0)
    assert slow.error > 1e-4
    assert still[1] == pytest.approx([1.0], abs=1e-3)


def test_the_covariance_is_that_of_the_simulated_process():
    process, n, steps = MarkovFractional(0.7, 3), 20_000, 400
    rng, dt = np.random.default_rng(0), 1.0 / steps
    y = np.zeros((n, 3))
    seen = []
    for i in range(1, steps + 1):
        y = y * np.exp(-process.speeds * dt) + rng.normal(size=(n, 1)) * math.sqrt(dt) * np.exp(-process.speeds * dt / 2)
        if i in (steps // 4, steps):
            seen.append(y @ process.weights)
    sampled, wanted = np.cov(np.array(seen)), process.covariance(np.array([0.25, 1.0]))
    assert np.abs(sampled - wanted).max() < 0.03 * wanted.max()
    assert wanted[1, 1] == pytest.approx(process.variance(1.0))
    assert np.abs(wanted[0, 1] - process.variance(0.25)) > 0.02  # increments are correlated


@pytest.mark.parametrize("hurst", [0.3, 0.7])
def test_the_likelihood_of_paths_tells_their_hurst_index(hurst):
    """Exact paths by Cholesky; the index whose Markov process makes them likeliest is the true one to 0.05."""
    times = np.linspace(1 / 30, 1.0, 30)
    root = np.linalg.cholesky(exact_covariance(hurst, times))
    paths = np.random.default_rng(1).normal(size=(60, 30)) @ root.T

    def log_likelihood(index: float) -> float:
        covariance = MarkovFractional(index, 7).covariance(times)
        return float(-0.5 * np.sum(paths * np.linalg.solve(covariance, paths.T).T) - 30 * np.linalg.slogdet(covariance)[1])

    indices = np.arange(0.2, 0.81, 0.02)
    likelihoods = [log_likelihood(float(index)) for index in indices]
    assert abs(indices[int(np.argmax(likelihoods))] - hurst) <= 0.05
    assert max(likelihoods) > log_likelihood(0.5) + 10


def test_the_path_is_sampled_to_the_data():
    path = rg.paths.Fractional(hurst=0.3)
    assert path.s(0.1) / path.s(1.0) == pytest.approx(10**-0.3, rel=0.05)
    den = rg.oracles.Gaussian(path, torch.tensor([0.7]), 0.3)
    samples = rg.sample(den, rg.plan("dpmpp_2m", path, nfe=40), n=4000, dtype=torch.float64)
    assert float(samples.mean()) == pytest.approx(0.7, abs=0.05)
    assert float(samples.var()) == pytest.approx(0.3, abs=0.03)


def test_what_is_no_index_is_refused():
    for wrong in ({"hurst": 1.0}, {"hurst": 0.3, "terms": 0}, {"hurst": 0.3, "horizon": 0.0}):
        with pytest.raises(BadValue, match="0 < hurst < 1"):
            MarkovFractional(**wrong)
