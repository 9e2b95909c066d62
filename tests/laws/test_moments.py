"""Stochastic recipes keep the law of the data: on a Gaussian their mean and variance are propagated exactly.

For data N(m, v) every prediction is affine in the state, so each state of a plan is a known combination of the start and
of the draws. Its mean and variance need no sampling, and their error measures the weak order.
"""

import dataclasses
import math

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.denoisers.prediction import readings
from retrograde.plan import Plan

HIGH, LOW = 2.0, 0.5
COUNTS = (96, 192)
DATA = ((0.7, 0.3), (-0.4, 1.5), (1.0, 0.05))
STOCHASTIC = [
    (name, options)
    for name, options in (
        *((name, {}) for name in rg.recipes.names() if rg.recipes.get(name).stochastic),
        ("ddim", {"eta": 1.0}),
        ("ddim", {"eta": 0.3}),
        ("dpmpp_2m_sde", {"eta": 0.5}),
        ("dpmpp_2m_sde", {"eta": 0.0}),
    )
]
# The churn of EDM is spread over the grid, but never raises a level by more than sqrt(2): its default of 40 would be
# cut to that on all of these grids.
SMALL_CHURN = {"edm_stochastic": {"churn": 4.0}}


def propagate(plan: Plan, mean: float, variance: float) -> tuple[float, float]:
    """Return mean and variance of the last state, started from the exact marginal of N(mean, variance)."""
    path = plan.path
    draws = sum(bool(row.noises) for row in plan.rows)
    basis = np.eye(2 + draws)  # axes: the constant 1, the standardized start, every draw
    a, s = path.a(plan.start), path.s(plan.start)
    states = [a * mean * basis[0] + math.sqrt(a * a * variance + s * s) * basis[1]]
    outputs: list[np.ndarray] = []
    noises: list[np.ndarray] = []
    for row in plan.rows:
        if row.time is not None:
            a, s = path.a(row.time), path.s(row.time)
            centred = (states[0] - a * mean * basis[0]) / (a * a * variance + s * s)
            data, noise = mean * basis[0] + a * variance * centred, s * centred
            velocity = path.a_dot(row.time) * data + path.s_dot(row.time) * noise
            for kind in reversed(readings(plan.basis)):
                outputs.insert(0, {"data": data, "noise": noise, "velocity": velocity}[kind])
        if row.noises:
            noises.insert(0, basis[2 + len(noises)])
        terms = ((row.states, states), (row.outputs, outputs), (row.noises, noises))
        states.insert(0, sum(c * v for cs, vs in terms for c, v in zip(cs, vs, strict=False)))
    return float(states[0][0]), float((states[0][1:] ** 2).sum())


def weak_error(recipe: rg.recipes.Recipe, path: rg.paths.Path, n: int, options: dict[str, float]) -> float:
    """Largest error of mean or standard deviation over the Gaussians of DATA, in units of the data."""
    places = np.concatenate([[0.0], np.cumsum(1.0 + np.arange(n) % 2)])
    grid = [path.time_of_sigma(float(HIGH * (LOW / HIGH) ** u)) for u in places / places[-1]]
    plan = recipe.compile(path, grid, **options)
    a, s = path.a(grid[-1]), path.s(grid[-1])
    worst = 0.0
    for m, v in DATA:
        mean, variance = propagate(plan[: len(plan) - 1], m, v)
        spread = math.sqrt(a * a * v + s * s)
        worst = max(worst, abs(mean - a * m) / a, abs(math.sqrt(variance) - spread) / a)
    return worst


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp", "vp_cosine"])
@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_a_stochastic_recipe_converges_weakly_with_its_declared_order(name, options, path_name, path_called):
    recipe, path = rg.recipes.get(name), path_called(path_name)
    options = SMALL_CHURN.get(name, {}) | options
    errors = [weak_error(recipe, path, n, options) for n in COUNTS]
    slope = -float(np.polyfit(np.log(COUNTS), np.log(errors), 1)[0])
    assert slope == pytest.approx(recipe.order, abs=0.25), errors
    # declared of order 0, and so measured: jumps for consistency models, Langevin steps whose length is not the grid's
    assert errors[-1] < 0.01 or recipe.order == 0


@pytest.mark.parametrize("name", [name for name, options in STOCHASTIC if not options])
def test_the_measure_sees_too_much_noise(name, path_called):
    """Five per cent more noise in every row, and the moments no longer converge."""
    recipe, path = rg.recipes.get(name), path_called("vp")
    places = np.linspace(0.0, 1.0, 257)
    grid = [path.time_of_sigma(float(HIGH * (LOW / HIGH) ** u)) for u in places]
    right = recipe.compile(path, grid, **SMALL_CHURN.get(name, {}))
    rows = [dataclasses.replace(row, noises=tuple(1.05 * c for c in row.noises)) for row in right.rows[:-1]]
    broken = rg.Plan(path, rows, right.basis, start=grid[0], misses=("point mass",))
    a, s = path.a(grid[-1]), path.s(grid[-1])
    assert max(abs(propagate(broken, m, v)[1] - (a * a * v + s * s)) for m, v in DATA) > 0.005


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp", "vp_cosine", "trigonometric"])
def test_ddim_with_eta_one_is_ddpm_row_by_row_and_in_distribution(path_name, path_called):
    path = path_called(path_name)
    ancestral = rg.plan("ddpm", path, nfe=12, grid="karras")
    implicit = rg.plan("ddim", path, nfe=12, grid="karras", eta=1.0)
    for one, other in zip(ancestral.rows, implicit.rows, strict=True):
        for part in ("states", "outputs", "noises"):
            assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-9, abs=1e-12)
    for m, v in DATA:
        assert propagate(ancestral, m, v) == pytest.approx(propagate(implicit, m, v), rel=1e-9)


@pytest.mark.parametrize(("name", "options"), STOCHASTIC)
def test_samples_with_keyed_noise_have_the_moments_of_the_plan(name, options, path_called):
    """The loop does what the algebra says: 4000 samples against the exact moments of this very plan."""
    path, n = path_called("vp"), 4000
    plan = rg.plan(name, path, nfe=9, grid="karras", **options)
    means, variances = torch.tensor([m for m, _ in DATA]), torch.tensor([v for _, v in DATA])
    oracle = rg.oracles.Gaussian(path, means, variances)
    x = path.a(plan.start) * oracle.sample(n, seed=5)
    x = x + path.s(plan.start) * torch.randn(x.shape, generator=torch.Generator().manual_seed(6), dtype=x.dtype)
    samples = rg.sample(oracle, plan, seed=7, x=x)
    for column, (m, v) in zip(samples.T, DATA, strict=True):
        mean, variance = propagate(plan, m, v)
        assert abs(column.mean() - mean) < 4.0 * math.sqrt(variance / n)
        assert abs(column.var() - variance) < 4.0 * variance * math.sqrt(2.0 / n)
