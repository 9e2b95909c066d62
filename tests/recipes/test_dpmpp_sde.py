"""Stochastic exponential integrators against loops written from their formulas, with increments of one Brownian path."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

EDM = rg.paths.EDM()
LEVELS = [*rg.grids.karras(EDM, 9), 0.0]


@pytest.fixture
def eps():
    noise = Noise.first(3, seed=4)
    return lambda t, t_next: noise.draw((2,), (t, t_next), dtype=torch.float64)


@pytest.fixture
def start():
    return 80.0 * Noise.first(3, seed=2).prior((2,), torch.float64)


def ours(mixture, name, x, **options):
    return rg.sample(mixture(EDM), rg.plan(name, EDM, grid=LEVELS[:-1], **options), x=x, seed=4)


def split(sigma, sigma_next, eta):
    up = min(sigma_next, eta * math.sqrt(sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2))
    return math.sqrt(sigma_next**2 - up**2), up


@pytest.mark.parametrize(("eta", "s_noise", "r"), [(1.0, 1.0, 0.5), (0.6, 1.01, 0.4)])
def test_dpmpp_sde_is_the_loop_on_one_brownian_path(eta, s_noise, r, mixture, start, eps):
    """W(sigma) is built from independent increments; each stage gets its own, divided by the root of its length."""
    den, x = mixture(EDM), start
    keys = [(row.time, row.next_time) for row in rg.plan("dpmpp_sde", EDM, grid=LEVELS[:-1], r=r).rows]
    for k, (sigma, following) in enumerate(zip(LEVELS, LEVELS[1:], strict=False)):
        data = den.predict(x, sigma).data
        if following == 0.0:
            x = data
            continue
        h = math.log(sigma / following)
        middle = sigma * math.exp(-r * h)
        first = math.sqrt(sigma - middle) * eps(*keys[2 * k])
        second = math.sqrt(middle - following) * eps(*keys[2 * k + 1])
        low, up = split(sigma, middle, eta)
        x_2 = low / sigma * x + (1 - low / sigma) * data + s_noise * up * first / math.sqrt(sigma - middle)
        low, up = split(sigma, following, eta)
        mixed = (1 - 1 / (2 * r)) * data + den.predict(x_2, middle).data / (2 * r)
        brownian = (first + second) / math.sqrt(sigma - following)
        x = low / sigma * x + (1 - low / sigma) * mixed + s_noise * up * brownian
    assert torch.allclose(ours(mixture, "dpmpp_sde", start, eta=eta, s_noise=s_noise, r=r), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("eta", "r"), [(1.0, 0.5), (0.6, 0.4)])
def test_seeds_2_shares_the_noise_of_the_sde(eta, r, mixture, start, eps):
    """The first stage's noise, carried to the end by the linear part of the SDE, is the noise of the step."""
    den, x = mixture(EDM), start
    keys = [(row.time, row.next_time) for row in rg.plan("seeds_2", EDM, grid=LEVELS[:-1], r=r).rows]

    def move(x, mean, sigma, low):
        h = math.log(sigma / low)
        return low / sigma * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * mean

    def noise_of(sigma, low, draw):
        return low * math.sqrt(1 - (low / sigma) ** (2 * eta)) * draw

    for k, (sigma, following) in enumerate(zip(LEVELS, LEVELS[1:], strict=False)):
        data = den.predict(x, sigma).data
        if following == 0.0:
            x = data
            continue
        middle = sigma * (following / sigma) ** r
        seen = noise_of(sigma, middle, eps(*keys[2 * k]))
        x_2 = move(x, data, sigma, middle) + seen
        mixed = (1 - 1 / (2 * r)) * data + den.predict(x_2, middle).data / (2 * r)
        x = move(x, mixed, sigma, following) + move(seen, 0.0 * seen, middle, following)
        x = x + noise_of(middle, following, eps(*keys[2 * k + 1]))
    assert torch.allclose(ours(mixture, "seeds_2", start, eta=eta, r=r), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("eta", "s_noise"), [(1.0, 1.0), (0.6, 1.01)])
def test_dpmpp_3m_sde_is_the_loop_in_log_sigma(eta, s_noise, mixture, start, eps):
    den, x, old, steps = mixture(EDM), start, [], []
    for sigma, following in zip(LEVELS, LEVELS[1:], strict=False):
        data = den.predict(x, sigma).data
        if following == 0.0:
            x = data
            continue
        h = math.log(sigma / following)
        k = (1 + eta) * h
        x = math.exp(-k) * x - math.expm1(-k) * data
        phi_2 = math.expm1(-k) / k + 1
        if len(old) >= 2:
            r0, r1 = steps[-1] / h, steps[-2] / h
            u_0, u_1 = (data - old[-1]) / r0, (old[-1] - old[-2]) / r1
            x = x + phi_2 * (u_0 + (u_0 - u_1) * r0 / (r0 + r1)) - (phi_2 / k - 0.5) * (u_0 - u_1) / (r0 + r1)
        elif old:
            x = x + phi_2 * (data - old[-1]) * h / steps[-1]
        x = x + s_noise * following * math.sqrt(-math.expm1(-2 * eta * h)) * eps(sigma, following)
        old, steps = [*old, data], [*steps, h]
    assert torch.allclose(ours(mixture, "dpmpp_3m_sde", start, eta=eta, s_noise=s_noise), x, rtol=0, atol=1e-8)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_one_stage_with_full_noise_is_ddpm(path_name, path_called):
    """A single step of order one is the ancestral step, in both families."""
    path = path_called(path_name)
    ancestral = rg.plan("ddpm", path, nfe=2)[0]
    for name in ("dpmpp_sde", "seeds_2", "dpmpp_3m_sde", "dpmpp_2m_sde"):
        row = rg.plan(name, path, nfe=2)[0]
        for part in ("states", "outputs", "noises"):
            assert getattr(row, part) == pytest.approx(getattr(ancestral, part), rel=1e-9, abs=1e-12), name


def test_without_noise_the_two_stages_are_2s():
    path = rg.paths.VP()
    plain = rg.plan("dpmpp_2s", path, nfe=9)
    for name in ("dpmpp_sde", "seeds_2"):
        for one, other in zip(rg.plan(name, path, nfe=9, eta=0.0).rows, plain.rows, strict=True):
            assert one.states == pytest.approx(other.states)
            assert one.outputs == pytest.approx(other.outputs)
            assert not one.noises


@pytest.mark.parametrize("options", [{"eta": 1.1}, {"r": 0.0}, {"r": 1.0}])
def test_what_is_outside_its_range_is_refused(options):
    with pytest.raises(BadValue):
        rg.plan("dpmpp_sde", EDM, nfe=5, **options)


def test_a_plan_cut_between_two_stages_says_that_it_needs_history():
    plan = rg.plan("dpmpp_sde", EDM, nfe=7)
    assert plan[1:].history == 1
    assert plan[2:].history == 0
