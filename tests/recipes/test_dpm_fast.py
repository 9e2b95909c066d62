"""DPM-Solver-fast: the shares of a budget, and what single-step names of k-diffusion are here."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.noise import Noise

EDM = rg.paths.EDM()


def test_dpm_fast_deals_its_budget_as_published():
    """K = floor(N/3) + 1 steps: K - 2 of order 3 then 2 and 1, or K - 1 then 1, or K - 1 then 2, by N modulo 3."""
    recipe = rg.recipes.get("dpm_fast")
    for n in range(1, 60):
        k = n // 3 + 1
        published = {0: [3] * (k - 2) + [2, 1], 1: [3] * (k - 1) + [1], 2: [3] * (k - 1) + [2]}[n % 3]
        assert recipe.points(n + 1) == (k + 1, tuple(published))
        assert rg.plan("dpm_fast", EDM, nfe=n + 1, grid="log_snr").nfe == n + 1
    assert recipe.points(1) == (1, ())


@pytest.mark.parametrize("nfe", [8, 9, 10, 11])
def test_its_steps_are_those_of_dpm_solver(nfe):
    fast = rg.plan("dpm_fast", EDM, nfe=nfe, grid="log_snr")
    count, stages = rg.recipes.get("dpm_fast").points(nfe)
    grid = rg.grids.make(EDM, count, "log_snr")
    assert fast == rg.recipes.get("dpm_solver_3").compile(EDM, grid, stages)
    logs = [math.log(EDM.sigma(t)) for t in grid]
    assert all(b - a == pytest.approx(logs[1] - logs[0]) for a, b in zip(logs, logs[1:], strict=False))


def test_dpm_2_is_the_step_of_dpm_solver_2():
    """test_equivalence.py holds that step to the midpoint rule in log sigma, which is k-diffusion's."""
    for nfe in (2, 7, 10):
        assert rg.plan("dpm_2", EDM, nfe=nfe) == rg.plan("dpm_solver_2", EDM, nfe=nfe)


def test_twelve_evaluations_of_order_three_are_five_times_closer_than_those_of_ddim(mixture):
    """On VP with a quadratic grid (on one even in log-SNR it is 4.9 times); the closing evaluation is not counted.

    The published shares of twelve end with steps of orders 2 and 1, and lose to four full steps of order 3.
    """
    path = rg.paths.VP()
    den, x = mixture(path), Noise.first(64, seed=3).prior((2,), torch.float64)

    def end(name: str, evaluations: int) -> torch.Tensor:
        plan = rg.plan(name, path, nfe=evaluations + 1, grid="quadratic")
        *_, last = rg.steps(plan[: len(plan) - 1], den, x=x)
        return last.x_t

    exact = end("etdrk_3", 1500)
    error = {name: float((end(name, 12) - exact).abs().mean()) for name in ("dpm_solver_3", "dpm_fast", "ddim")}
    assert 5.0 * error["dpm_solver_3"] < error["ddim"], error
    assert error["dpm_solver_3"] < error["dpm_fast"] < error["ddim"], error
