"""PNDM against the scheduler of diffusers, its paper written out, and its published gain over DDIM."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.noise import Noise

START = Noise.first(3, seed=8).prior((2,), torch.float64)


def before_the_end(plan: rg.Plan, den, x: Tensor) -> Tensor:
    *_, last = rg.steps(plan[: len(plan) - 1], den, x=x)
    return last.x_t


def diffusers_agrees(name: str, skip: bool, path_called, mixture) -> None:
    """Steps of 50 among 1000, down to the first trained one; diffusers computes in float32."""
    import diffusers

    path = path_called("vp_discrete")
    den = mixture(path, "noise")
    betas = 1.0 - np.array(path.alphas_cumprod) / np.array([1.0, *path.alphas_cumprod[:-1]])
    made = diffusers.PNDMScheduler(trained_betas=betas.tolist(), skip_prk_steps=skip)
    made.set_timesteps(20)
    grid = [(timestep + 1) / 1000 for timestep in range(950, -1, -50)]
    plan = rg.plan(name, path, grid=grid)
    asked = [round(1000 * t) - 1 for t in plan.times]
    assert asked == made.timesteps.tolist()
    x = START
    for timestep in made.timesteps[:-1]:
        x = made.step(
            den.predict(x.double(), (int(timestep) + 1) / 1000).noise.float(), int(timestep), x.float()
        ).prev_sample
    ours = before_the_end(plan, den, START)
    assert float((ours - x.double()).abs().max()) < 1e-4 * float(ours.abs().max())


@pytest.mark.diffusers
def test_pndm_agrees_with_diffusers(path_called, mixture):
    diffusers_agrees("pndm", False, path_called, mixture)


@pytest.mark.diffusers
def test_plms_agrees_with_diffusers(path_called, mixture):
    diffusers_agrees("plms", True, path_called, mixture)


def test_s_pndm_is_the_paper_s(mixture):
    """Liu et al., 2022, arXiv 2202.09778: the transfer of equation 11 and the second-order method, on VP."""
    path = rg.paths.VP()
    den, grid = mixture(path), np.linspace(1.0, 0.01, 12).tolist()

    def transfer(x: Tensor, e: Tensor, t: float, s: float) -> Tensor:
        b_t, b_s = path.a(t) ** 2, path.a(s) ** 2
        root = math.sqrt((1 - b_s) * b_t) + math.sqrt((1 - b_t) * b_s)
        return math.sqrt(b_s / b_t) * x - (b_s - b_t) / (math.sqrt(b_t) * root) * e

    x, old = START, None
    for t, s in zip(grid, grid[1:], strict=False):
        e = den.predict(x, t).noise
        if old is None:
            mean = (e + den.predict(transfer(x, e, t, s), s).noise) / 2
        else:
            mean = (3 * e - old) / 2
        x, old = transfer(x, mean, t, s), e
    assert torch.allclose(before_the_end(rg.plan("s_pndm", path, grid=grid), den, START), x, rtol=0, atol=1e-10)
    # with one prediction for the whole way the transfer is the step of DDIM
    row = rg.plan("ddim", path, grid=[0.6, 0.3])[0]
    assert transfer(torch.ones(()), torch.zeros(()), 0.6, 0.3) == pytest.approx(row.states[0] + row.outputs[0] / path.a(0.6))


@pytest.mark.parametrize(("name", "extra", "least"), [("pndm", 9, 4), ("plms", 1, 1), ("s_pndm", 1, 1)])
def test_evaluations_are_those_of_the_paper(name, extra, least):
    """N steps cost N + 9 after the Runge-Kutta start, N + 1 after the improved Euler step."""
    for n in range(least, 40):
        count, stages = rg.recipes.get(name).points(n + extra + 1)
        assert (count, sum(stages)) == (n + 1, n + extra)
        assert rg.recipes.get(name).stages(n) == stages
    assert rg.plan("pndm", rg.paths.VP(), grid=np.linspace(1.0, 0.01, 21)).nfe == 20 + 9 + 1


def test_fifty_steps_beat_ddim_tenfold_and_the_order_is_two_where_sigma_is_uneven(mixture):
    """Uniform path times on VP, errors at t = 0.05 against 600 steps of a Runge-Kutta method of order four."""
    path = rg.paths.VP()
    den = mixture(path)

    def end(name: str, n: int) -> Tensor:
        return before_the_end(rg.plan(name, path, grid=np.linspace(0.8, 0.05, n + 1)), den, START)

    exact = end("rho_rk4", 600)
    error = {(name, n): float((end(name, n) - exact).abs().max()) for name in ("pndm", "ddim") for n in (50, 400, 800)}
    assert error["pndm", 50] < 0.1 * error["ddim", 50]
    assert math.log2(error["pndm", 400] / error["pndm", 800]) == pytest.approx(2.0, abs=0.25)
