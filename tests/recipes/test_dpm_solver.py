"""DPM-Solver and DPM-Solver++: order one is DDIM, the error constants on Gaussian data, and guidance at fifteen steps."""

import math

import pytest
import torch

import retrograde as rg


@pytest.mark.parametrize("path_name", ["edm", "vp", "flow"])
def test_of_order_one_they_are_ddim(path_name, path_called):
    """The first rows of the multistep tables, in data and in noise means, on states and predictions of one state."""
    path = path_called(path_name)
    grid = rg.grids.log_snr(path, 6, sigma_max=20.0)
    ddim = rg.plan("ddim", path, grid=grid, eta=0.0)[0]
    a, s = path.a(grid[0]), path.s(grid[0])
    x, mean = 0.7, -0.4
    wanted = ddim.states[0] * x + ddim.outputs[0] * mean
    for name in ("dpmpp_2m", "dpmpp_3m", "dpm_solver_2m"):
        plan = rg.plan(name, path, grid=grid)
        answer = mean if plan.basis == "data" else (x - a * mean) / s
        assert plan[0].states[0] * x + plan[0].outputs[0] * answer == pytest.approx(wanted, rel=1e-12), name
    # one evaluation left over: the single-step methods close with the same step
    plan = rg.recipes.get("dpm_solver_2").compile(path, grid[:2], (1,))
    assert plan[0].states[0] * x + plan[0].outputs[0] * (x - a * mean) / s == pytest.approx(wanted, rel=1e-12)


def test_the_error_of_a_step_on_gaussian_data_has_the_constant_of_the_expansion():
    """Data N(0, v), y = x/a = c sqrt(v + sigma^2), E = q y with q = sigma/(v + sigma^2), derivatives in log-SNR.

    A step of DDIM errs by sigma E' h^2/2, one of DPM-Solver-2 by sigma h^3 (E'/12 - E''/24 + q sigma E'/8).
    """
    v, c, sigma, h = 0.6, 1.3, 0.9, 2e-3
    path = rg.paths.EDM()
    den = rg.oracles.Gaussian(path, torch.zeros(1), torch.tensor(v, dtype=torch.float64))

    def noise(lam: float) -> float:
        return c * math.exp(-lam) / math.sqrt(v + math.exp(-2.0 * lam))

    lam, d = -math.log(sigma), 1e-3
    first = (noise(lam + d) - noise(lam - d)) / (2.0 * d)
    second = (noise(lam + d) - 2.0 * noise(lam) + noise(lam - d)) / d**2
    q = sigma / (v + sigma**2)
    wanted = {
        "ddim": -sigma * first * h**2 / 2.0,
        "dpm_solver_2": sigma * h**3 * (first / 12.0 - second / 24.0 + q * sigma * first / 8.0),
    }
    for name, constant in wanted.items():
        plan = rg.plan(name, path, grid=[sigma, sigma * math.exp(-h)])
        x = torch.tensor([[c * math.sqrt(v + sigma**2)]], dtype=torch.float64)
        *_, last = rg.steps(plan[: len(plan) - 1], den, x=x)
        exact = c * math.sqrt(v + sigma**2 * math.exp(-2.0 * h))
        # the exact end less the step
        assert exact - float(last.x_t) == pytest.approx(constant, rel=0.01), name


def test_at_guidance_seven_and_a_half_fifteen_steps_of_2m_beat_the_noise_prediction():
    """Two classes of two modes each on VP. DPM-Solver-2 is single-step, as published; its multistep form, of the later
    code, does not break down and is nearer here than 2M."""
    path = rg.paths.VP()
    means = torch.tensor([[1.0, 0.4], [-0.9, 0.2], [0.2, -0.8], [-0.3, -1.0]])
    den = rg.guide.cfg(rg.oracles.GaussianMixture(path, means, 0.05, labels=[0, 0, 1, 1]), 7.5)

    def made(name: str, nfe: int) -> torch.Tensor:
        plan = rg.plan(name, den, nfe=nfe, grid="log_snr")
        return rg.sample(den, plan, n=128, seed=1, condition=0, dtype=torch.float64)

    fine = made("dpmpp_2m", 600)
    error = {
        name: float((made(name, 15) - fine).pow(2).mean().sqrt())
        for name in ("dpmpp_2m", "dpm_solver_2", "dpm_solver_2m", "ddim")
    }
    assert error["dpmpp_2m"] < error["ddim"]
    assert 5.0 * error["dpmpp_2m"] < error["dpm_solver_2"]
    assert error["dpm_solver_2m"] < error["dpmpp_2m"]
