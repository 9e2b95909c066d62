"""Speech enhancement's sampler: the published loop, and the limit of its samples on Gaussian data."""

import math

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

DOUBLE = torch.float64


def test_sgmse_is_the_published_loop(mixture):
    path = rg.paths.OrnsteinUhlenbeck()
    oracle = mixture(path)
    plan = rg.recipes.sgmse.plan(path, nfe=16, snr=0.4)
    assert plan.nfe == 16
    y = torch.tensor([[0.4, -1.1], [1.0, 0.3]], dtype=DOUBLE)
    samples = rg.record(oracle, plan, seed=5, anchor=y, dtype=DOUBLE)

    noise, visits = Noise(5, range(2)), {}

    def draw(t: float, t_next: float) -> torch.Tensor:
        visit = visits.get((t, t_next), 0)
        visits[t, t_next] = visit + 1
        return noise.draw((2,), (t, t_next), visit, DOUBLE, torch.device("cpu"))

    rate = math.log(path.sigma_max / path.sigma_min)
    x = y + path.s(1.0) * noise.prior((2,), DOUBLE, torch.device("cpu"))
    assert torch.allclose(samples.trajectory[0], x, atol=1e-12)
    times = np.linspace(1.0, 0.03, 8)
    for i, t in enumerate(map(float, times)):
        score = oracle(x, t, anchor=y).score
        e = (0.4 * path.s(t)) ** 2 * 2
        x = x + e * score + math.sqrt(2 * e) * draw(t, t)
        dt = t - float(times[i + 1]) if i < 7 else t
        g = path.sigma_min * (path.sigma_max / path.sigma_min) ** t * math.sqrt(2 * rate)
        mean = x - (path.gamma * (y - x) * dt - g**2 * dt * oracle(x, t, anchor=y).score)
        x = mean + g * math.sqrt(dt) * draw(t, float(times[i + 1])) if i < 7 else mean
    assert torch.allclose(samples.samples, x, rtol=0, atol=1e-9)


def moments(plan: rg.Plan, y: float, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of the samples, for data N(mean, variance) given y and the published start y + s eps."""
    centre, spread = y, plan.path.s(plan.start) ** 2
    for row in plan.rows:
        a, b, s = plan.path.a(row.time), plan.path.b(row.time), plan.path.s(row.time)
        gain = s / (a * a * variance + s * s)  # E = gain (x - a mean - b y)
        slope = row.states[0] + row.outputs[0] * gain
        centre = slope * centre - row.outputs[0] * gain * (a * mean + b * y) + row.anchor * y
        spread = slope**2 * spread + sum(c * c for c in row.noises)
    return centre, spread


def test_its_moments_come_to_the_limit_with_the_mismatch_of_its_start():
    """x_0 ~ N(0, 1), y = x_0 + n: the reverse SDE from y + s eps instead of the path's end carries a known offset."""
    path, y = rg.paths.OrnsteinUhlenbeck(), 0.8
    mean, variance = 0.5 * y, 0.5
    a, s = path.a(1.0), path.s(1.0)
    regress = a * variance / (a * a * variance + s * s)  # of x_0 on x_1
    limit = mean + regress * a * (y - mean)
    rest = variance - regress * a * variance + regress**2 * s * s
    fine = moments(rg.recipes.sgmse.plan(path, nfe=8000, corrections=0), y, mean, variance)
    # the last step, from t = 0.03, takes the mean and adds no noise
    last = path.t_min
    assert fine[0] == pytest.approx(limit, rel=0.05)
    assert fine[1] == pytest.approx(rest, abs=2.0 * path.sigma(last) ** 2 + 0.01)
    thirty = moments(rg.recipes.sgmse.plan(path, nfe=30, corrections=0), y, mean, variance)
    assert thirty[0] == pytest.approx(limit, rel=0.05)
    assert thirty[1] < 0.95 * rest  # thirty steps of Euler-Maruyama lose more of the variance than that
    # Langevin steps pull towards the level's own marginal: most of the mismatch is forgotten, and the variance comes back
    published = moments(rg.recipes.sgmse.plan(path), y, mean, variance)
    assert 0.0 < (published[0] - mean) / (limit - mean) < 0.25
    assert published[1] == pytest.approx(variance, rel=0.05)


def voices(path: rg.paths.Path, pitches: tuple[float, ...], size: int) -> rg.oracles.GaussianMixture:
    """Voiced frames: for each pitch, in periods per frame, harmonics of random phase whose power falls as k^-1.5."""
    lags = torch.arange(size, dtype=DOUBLE)[:, None] - torch.arange(size, dtype=DOUBLE)
    covariances = []
    for pitch in pitches:
        harmonics = torch.arange(1, int(0.45 * size / pitch) + 1, dtype=DOUBLE)
        power = (harmonics**-1.5)[:, None, None] * torch.cos(2 * math.pi / size * pitch * harmonics[:, None, None] * lags)
        sound = power.sum(0)
        covariances.append(0.03 * sound / sound[0, 0] + 1e-5 * torch.eye(size, dtype=DOUBLE))
    return rg.oracles.GaussianMixture(path, torch.zeros(len(pitches), size), torch.stack(covariances).float())


def test_it_gains_four_decibels_and_langevin_steps_do_not_hurt():
    """Frames of four pitches in white noise at 5 dB, the exact network: SI-SDR rises by 5.0 dB, without Langevin steps 4.8.

    The difference is one standard error. No speech and no trained network: this is the sampler's share alone. Draws of the
    posterior gain about 6 dB, its mean about 9.
    """
    path = rg.paths.OrnsteinUhlenbeck()
    den = voices(path, (3.1, 4.3, 5.7, 7.2), 64).degraded(torch.eye(64), math.sqrt(0.03 / 10**0.5))
    clean, noisy = (one.double() for one in den.draw(128, seed=0))

    def decibels(samples: torch.Tensor) -> torch.Tensor:
        share = (samples * clean).sum(1, keepdim=True) / clean.square().sum(1, keepdim=True)
        target = share * clean
        return 10 * torch.log10(target.square().sum(1) / (samples - target).square().sum(1))

    ratio = clean.square().sum() / (noisy - clean).square().sum()
    assert 10 * math.log10(ratio) == pytest.approx(5.0, abs=0.5)
    corrected, alone = (
        decibels(rg.sample(den, rg.recipes.sgmse.plan(path, nfe=nfe, corrections=c), seed=1, anchor=noisy, dtype=DOUBLE))
        for nfe, c in ((60, 1), (30, 0))
    )
    gain = corrected - decibels(noisy)
    error = gain.std() / math.sqrt(len(gain))
    assert gain.mean() - 2 * error > 4.0
    assert (corrected - alone).mean() > -2 * (corrected - alone).std() / math.sqrt(len(gain))


def test_what_it_cannot_take_is_refused():
    path = rg.paths.OrnsteinUhlenbeck()
    with pytest.raises(BadValue, match="a multiple of 2"):
        rg.recipes.sgmse.plan(path, nfe=61)
    with pytest.raises(BadValue, match="snr=0.0"):
        rg.recipes.sgmse.plan(path, snr=0.0)
    assert rg.recipes.sgmse.plan(path, nfe=30, corrections=0).nfe == 30
    assert rg.recipes.sgmse.plan(rg.paths.VP(), nfe=30).misses == ("point mass",)
