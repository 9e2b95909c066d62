"""Samplers of the score SDE paper, row by row against its formulas on VE and VP, and what a corrector is good for."""

import dataclasses
import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, UnknownName
from retrograde.plan import Plan, Row


def step(row: Row, x: float, score: float, s: float, eps: float) -> float:
    return row.states[0] * x + row.outputs[0] * (-s * score) + row.noises[0] * eps


def test_reverse_diffusion_is_the_published_step():
    """VE: x + (sigma^2 - sigma'^2) score; VP with beta of the one forward step: (2 - sqrt(1 - beta)) x + beta score."""
    x, score, eps = 0.7, -1.1, 0.4
    ve = rg.paths.VE()
    t, t_next = 0.6, 0.5
    row = rg.plan("reverse_diffusion", ve, grid=[t, t_next])[0]
    drop = ve.s(t) ** 2 - ve.s(t_next) ** 2
    assert step(row, x, score, ve.s(t), eps) == pytest.approx(x + drop * score + math.sqrt(drop) * eps)
    vp = rg.paths.VP()
    row = rg.plan("reverse_diffusion", vp, grid=[t, t_next])[0]
    beta = 1 - (vp.a(t) / vp.a(t_next)) ** 2
    wanted = (2 - math.sqrt(1 - beta)) * x + beta * score + math.sqrt(beta) * eps
    assert step(row, x, score, vp.s(t), eps) == pytest.approx(wanted)


def test_euler_maruyama_discretizes_the_reverse_sde():
    """VP: f = -beta/2, g^2 = beta with beta(t) = 0.1 + 19.9 t; sub-VP: g^2 = beta (1 - exp(-2 int beta))."""
    x, score, eps, t, dt = 0.7, -1.1, 0.4, 0.6, 0.01
    beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t * t / 2
    for path, g2 in ((rg.paths.VP(), beta), (rg.paths.SubVP(), beta * (1 - math.exp(-2 * integral)))):
        row = rg.plan("euler_maruyama", path, grid=[t, t - dt])[0]
        wanted = x - (-beta / 2 * x - g2 * score) * dt + math.sqrt(g2 * dt) * eps
        assert step(row, x, score, path.s(t), eps) == pytest.approx(wanted)


@pytest.mark.parametrize("sigma_data", [0.0, 0.5])
def test_the_corrector_is_langevin_with_the_expected_norms(sigma_data):
    path, x, score, eps, snr = rg.paths.VP(), 0.7, -1.1, 0.4, 0.2
    plan = rg.plan("predictor_corrector", path, grid=[0.6, 0.5, 0.4], snr=snr, sigma_data=sigma_data)
    assert [(row.time, row.next_time) for row in plan.rows[:4]] == [(0.6, 0.5), (0.5, 0.5), (0.5, 0.4), (0.4, 0.4)]
    assert plan.nfe == 5
    ratio = math.sqrt(path.a(0.5) ** 2 * sigma_data**2 + path.s(0.5) ** 2)  # |eps|/|score| for N(0, sigma_data^2)
    e = 2 * (snr * ratio) ** 2
    assert step(plan[1], x, score, path.s(0.5), eps) == pytest.approx(x + e * score + math.sqrt(2 * e) * eps)


def propagated(plan: Plan, v: float) -> float:
    """Variance of the last state for data N(0, v), for tables of one state, one prediction and one draw."""
    path = plan.path
    variance = path.a(plan.start) ** 2 * v + path.s(plan.start) ** 2
    for row in plan.rows:
        a, s = path.a(row.time), path.s(row.time)
        variance = (row.states[0] + row.outputs[0] * s / (a * a * v + s * s)) ** 2 * variance + row.noises[0] ** 2
    return variance


def test_a_corrector_step_after_each_coarse_step_lowers_the_distance():
    """Distance of Gaussians (Wasserstein) is that of their standard deviations; a coarse predictor, with and without."""
    path, v = rg.paths.VE(sigma_min=0.01, sigma_max=50.0), 1.0
    times = rg.grids.log_snr(path, 21)
    errors = []
    for name, options in (("reverse_diffusion", {}), ("predictor_corrector", {"sigma_data": 1.0, "snr": 0.3})):
        plan = rg.plan(name, path, grid=times[:14], **options)  # to a level where the steps of length sigma_data are stable
        end = path.s(times[13]) ** 2 + path.a(times[13]) ** 2 * v
        errors.append(abs(math.sqrt(propagated(plan[:-1], v)) - math.sqrt(end)))
    assert errors[1] < errors[0]


def test_the_ancestral_predictor_is_ddpm(mixture):
    path = rg.paths.VP()
    plan = rg.plan("predictor_corrector", path, nfe=2, predictor="ancestral")
    samples = [rg.sample(mixture(path), p, n=3, seed=1) for p in (plan, rg.plan("ddpm", path, nfe=2))]
    assert samples[0].sub(samples[1]).abs().max() < 1e-4


def test_what_is_outside_its_range_is_refused():
    with pytest.raises(UnknownName, match="predictor"):
        rg.plan("predictor_corrector", rg.paths.VP(), nfe=5, predictor="heun")
    with pytest.raises(BadValue, match="snr > 0"):
        rg.plan("predictor_corrector", rg.paths.VP(), nfe=5, snr=0.0)


def paths() -> list[rg.paths.Path]:
    """The three paths of the paper, VE with an end that fits the small data of these tests."""
    return [rg.paths.VP(), rg.paths.SubVP(), rg.paths.VE(sigma_max=20.0)]


def test_the_three_paths_have_the_published_sdes():
    """VP: f = -beta/2, g^2 = beta; sub-VP: g^2 = beta (1 - e^(-2 int beta)); VE: f = 0, g = sigma sqrt(2 log(max/min))."""
    for t in (0.05, 0.4, 0.9):
        beta, integral = 0.1 + 19.9 * t, 0.1 * t + 19.9 * t * t / 2
        vp, sub, ve = rg.paths.VP(), rg.paths.SubVP(), rg.paths.VE(0.01, 50.0)
        assert (vp.drift(t), vp.diffusion_squared(t)) == pytest.approx((-beta / 2, beta))
        assert sub.diffusion_squared(t) == pytest.approx(beta * (1 - math.exp(-2 * integral)))
        assert vp.a(t) == sub.a(t) == pytest.approx(math.exp(-integral / 2))
        assert ve.drift(t) == 0.0
        assert ve.diffusion_squared(t) == pytest.approx((0.01 * 5000**t) ** 2 * 2 * math.log(5000))


def towards_noise(path: rg.paths.Path, steps: int) -> Plan:
    """The probability flow from the data end to the noise end, in steps of fourth order."""
    levels = rg.grids.log_snr(path, steps + 1)[::-1]
    recipe = rg.recipes.get("rho_rk4")
    rows = recipe.write(path, levels, stages=(4,) * steps)
    rows = [dataclasses.replace(row, renoise=True) for row in rows]
    return Plan(path, tuple(rows), recipe.basis(path), start=levels[0], misses=("point mass",))


@pytest.mark.parametrize("path", paths(), ids=lambda p: p.name)
def test_the_flow_tells_the_density_and_comes_back(path, mixture):
    """log p_0(x) = log p_1(z) + log |det dz/dx|, by autograd through the whole plan; and back from z to x."""
    den, plan = mixture(path), towards_noise(path, 60)
    x = path.a(path.t_min) * den.sample(5, seed=3)
    x.requires_grad_(True)
    z = rg.sample(den, plan, x=x, gradient="unroll")
    # items are independent: the gradient of a sum over them is each one's own row of the Jacobian
    rows = [torch.autograd.grad(z[:, i].sum(), x, retain_graph=True)[0] for i in range(2)]
    log_det = torch.stack(rows, 1).det().abs().log()
    told = den.log_prob(z.detach(), path.t_max) + log_det
    assert torch.allclose(told, den.log_prob(x.detach(), path.t_min), atol=1e-3)
    assert log_det.abs().max() > 0.1
    back = rg.recipes.get("rho_rk4").compile(path, rg.grids.log_snr(path, 61))[:-1]
    assert (rg.sample(den, back, x=z.detach()) - x.detach()).abs().max() < 1e-3


@pytest.mark.parametrize("path", paths(), ids=lambda p: p.name)
@pytest.mark.parametrize(
    ("name", "steps"), [("reverse_diffusion", 150), ("euler_maruyama", 150), ("predictor_corrector", 150), ("heun", 41)]
)
def test_samplers_of_the_sde_and_of_the_flow_reach_the_data(name, steps, path, mixture):
    """Two-sample tests against 500 data at the level of 1%; too much spread is seen by the same test."""
    den = mixture(path)
    plan = rg.plan(name, path, nfe=steps, grid="log_snr", **({"snr": 0.05} if name == "predictor_corrector" else {}))
    samples = rg.sample(den, plan, n=500, seed=1, dtype=torch.float64)
    reference = den.sample(500, seed=2)
    assert rg.quality.mmd_test(samples, reference, seed=0).p_value > 0.01
    assert rg.quality.mmd_test(1.4 * samples, reference, seed=0).p_value < 0.01
