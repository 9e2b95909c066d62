"""Ancestral samplers against loops written from their formulas: in sigma on the EDM path, in time on the flow path."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

EDM, FLOW = rg.paths.EDM(), rg.paths.Flow()
LEVELS = [*rg.grids.karras(EDM, 9), 0.0]
TIMES = [0.95, 0.9, 0.8, 0.62, 0.5, 0.31, 0.2, 0.05, 0.0]


def split(sigma, sigma_next, eta):
    up = min(sigma_next, eta * math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    return math.sqrt(sigma_next**2 - up**2), up


def key(name, path, levels, following, eta):
    """The interval of the draw on the way to a level: in a step of two stages its row begins at the middle."""
    rows = rg.plan(name, path, grid=levels[:-1], eta=eta).rows
    return next((row.time, following) for row in rows if row.noises and row.next_time == following)


def ours(mixture, name, path, levels, x, **options):
    return rg.sample(mixture(path), rg.plan(name, path, grid=levels[:-1], **options), x=x, seed=4)


@pytest.fixture
def eps():
    noise = Noise.first(3, seed=4)
    return lambda t, t_next: noise.draw((2,), (t, t_next), dtype=torch.float64)


@pytest.fixture
def start():
    return Noise.first(3, seed=2).prior((2,), torch.float64)


@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.6, 1.01)])
def test_euler_ancestral_is_the_loop_in_sigma(eta, s_noise, mixture, start, eps):
    den, x = mixture(EDM), 80.0 * start
    for sigma, following in zip(LEVELS, LEVELS[1:], strict=False):
        low, up = split(sigma, following, eta)
        x = x + (x - den.predict(x, sigma).data) / sigma * (low - sigma)
        if following > 0.0:
            x = x + s_noise * up * eps(sigma, following)
    made = ours(mixture, "euler_ancestral", EDM, LEVELS, 80.0 * start, eta=eta, s_noise=s_noise)
    assert torch.allclose(made, x, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.6, 1.01)])
def test_dpm_2_ancestral_is_the_loop_in_sigma(eta, s_noise, mixture, start, eps):
    den, x = mixture(EDM), 80.0 * start
    for sigma, following in zip(LEVELS, LEVELS[1:], strict=False):
        low, up = split(sigma, following, eta)
        slope = (x - den.predict(x, sigma).data) / sigma
        if low == 0.0:
            x = x - sigma * slope
            continue
        middle = math.exp(0.5 * (math.log(sigma) + math.log(low)))
        x_2 = x + (middle - sigma) * slope
        x = x + (low - sigma) * (x_2 - den.predict(x_2, middle).data) / middle
        x = x + s_noise * up * eps(*key("dpm_2_ancestral", EDM, LEVELS, following, eta))
    made = ours(mixture, "dpm_2_ancestral", EDM, LEVELS, 80.0 * start, eta=eta, s_noise=s_noise)
    assert torch.allclose(made, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.6, 1.01)])
def test_dpmpp_2s_ancestral_is_the_loop_in_log_sigma(eta, s_noise, mixture, start, eps):
    den, x = mixture(EDM), 80.0 * start
    for sigma, following in zip(LEVELS, LEVELS[1:], strict=False):
        low, up = split(sigma, following, eta)
        data = den.predict(x, sigma).data
        if low == 0.0:
            x = data
            continue
        h = math.log(sigma / low)
        middle = sigma * math.exp(-h / 2)
        x_2 = middle / sigma * x - math.expm1(-h / 2) * data
        x = low / sigma * x - math.expm1(-h) * den.predict(x_2, middle).data
        x = x + s_noise * up * eps(*key("dpmpp_2s_ancestral", EDM, LEVELS, following, eta))
    made = ours(mixture, "dpmpp_2s_ancestral", EDM, LEVELS, 80.0 * start, eta=eta, s_noise=s_noise)
    assert torch.allclose(made, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.6, 1.01)])
def test_the_flow_variants_split_in_time(second, eta, s_noise, mixture, start, eps):
    """t_down = t' (1 + eta (t'/t - 1)); up from it by (1 - t')/(1 - t_down), with the noise that completes t'."""
    den, x = mixture(FLOW), start
    name = "dpmpp_2s_ancestral" if second else "euler_ancestral"
    for t, following in zip(TIMES, TIMES[1:], strict=False):
        data = den.predict(x, t).data
        if following == 0.0:
            x = data
            continue
        low = following * (1.0 + (following / t - 1.0) * eta)
        if second:
            lam = 0.5 * (math.log((1 - t) / t) + math.log((1 - low) / low))
            middle = 1.0 / (1.0 + math.exp(lam))
            data = den.predict(middle / t * x + (1.0 - middle / t) * data, middle).data
        x = low / t * x + (1.0 - low / t) * data
        scale = (1.0 - following) / (1.0 - low)
        fresh = math.sqrt(following**2 - (low * scale) ** 2)
        x = scale * x + s_noise * fresh * eps(*key(name, FLOW, TIMES, following, eta))
    assert torch.allclose(ours(mixture, name, FLOW, TIMES, start, eta=eta, s_noise=s_noise), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path_name", ["edm", "vp", "vp_cosine"])
def test_euler_ancestral_is_ddim_with_eta(path_name, path_called):
    path = path_called(path_name)
    one, other = (rg.plan(name, path, nfe=8, eta=0.7) for name in ("euler_ancestral", "ddim"))
    for a, b in zip(one.rows, other.rows, strict=True):
        for part in ("states", "outputs", "noises"):
            assert getattr(a, part) == pytest.approx(getattr(b, part), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("name", "plain"), [("dpm_2_ancestral", "dpm_solver_2"), ("dpmpp_2s_ancestral", "dpmpp_2s")])
def test_without_noise_they_are_the_deterministic_solvers(name, plain, mixture, start):
    path = rg.paths.VP()
    one, other = (rg.plan(n, path, nfe=9, **o) for n, o in ((name, {"eta": 0.0}), (plain, {})))
    assert not one.stochastic
    if name == "dpmpp_2s_ancestral":
        made = [rg.sample(mixture(path), p, x=start) for p in (one, other)]
        assert torch.allclose(*made, rtol=0, atol=1e-9)
    assert one.times == pytest.approx(other.times)


def test_scaled_noise_declares_its_miss_and_eta_its_range():
    assert rg.plan("euler_ancestral", EDM, nfe=5, s_noise=1.01).misses == ("point mass",)
    with pytest.raises(BadValue, match="0 <= eta <= 1"):
        rg.plan("euler_ancestral", EDM, nfe=5, eta=1.5)
