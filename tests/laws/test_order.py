"""Every deterministic recipe converges with the order it declares, to the exact end of the probability flow.

The start-up of a multistep method is handed over exactly, so that it cannot cap the order. Grids alternate between short
and long steps where the recipe allows it: on an even grid a wrong ratio of steps would stay unseen.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import retrograde as rg
from retrograde.denoisers.prediction import readings
from retrograde.plan import Plan, Row
from retrograde.recipes import Recipe
from retrograde.run import Memory

HIGH, LOW = 2.0, 0.5
COUNTS = (64, 128)
START = torch.tensor([[1.75, -0.7], [-1.05, 1.4], [0.2, 2.25]], dtype=torch.float64)
# the last is anchored, and stands for all that are: on each of them x_t - b y is an ordinary path
SMOOTH_PATHS = ("edm", "flow", "fractional", "subvp", "trigonometric", "ve", "vp", "vp_cosine", "residual_noise")
DETERMINISTIC = [name for name in rg.recipes.names() if not rg.recipes.get(name).stochastic]
# each recipe on these three, and by turns on two of the others; on all of them in `make slow`
ALWAYS = ("edm", "flow", "vp")
JUDGED = [
    pytest.param(name, path, marks=() if path in ALWAYS or (i + j) % 3 == 0 else (pytest.mark.slow,))
    for i, name in enumerate(DETERMINISTIC)
    for j, path in enumerate(SMOOTH_PATHS)
]


def times(path: rg.paths.Path, clock: str, n: int) -> list[float]:
    """n steps from HIGH to LOW: even in sigma, or alternately of length 1 and 2 in log-SNR."""
    if clock == "uniform sigma":
        levels = np.linspace(HIGH, LOW, n + 1)
    else:
        places = np.concatenate([[0.0], np.cumsum(1.0 + np.arange(n) % 2)])
        levels = HIGH * (LOW / HIGH) ** (places / places[-1])
    return [path.time_of_sigma(float(level)) for level in levels]


@pytest.fixture(scope="module")
def flow(mixture: Callable[..., rg.oracles.GaussianMixture]) -> Callable[[float], torch.Tensor]:
    """The exact flow x/a as a function of sigma = s/a, the same on every path."""
    return exact_flow(mixture(rg.paths.EDM()))


def exact_flow(den: rg.oracles.GaussianMixture) -> Callable[[float], torch.Tensor]:
    """Return the flow of a mixture on the EDM path by an integrator of order eight."""

    def slope(log_sigma: float, y: np.ndarray) -> np.ndarray:
        y_t = torch.from_numpy(y.reshape(-1, 2))
        return (y_t - den.predict(y_t, math.exp(log_sigma)).data).numpy().ravel()

    known: dict[float, torch.Tensor] = {}

    def at(sigma: float) -> torch.Tensor:
        key = round(sigma, 13)
        if key not in known:
            span = (math.log(HIGH), math.log(sigma))
            end = START.numpy().ravel()
            if span[0] - span[1] > 1e-12:
                end = solve_ivp(slope, span, end, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
            known[key] = torch.from_numpy(end.reshape(-1, 2).copy())
        return known[key]

    return at


def final_error(recipe: Recipe, den: rg.oracles.GaussianMixture, flow: Callable, n: int, **anchor: torch.Tensor) -> float:
    """Distance from the flow's end, in units of the data, after n steps without the closing row."""
    path = den.path
    grid = times(path, recipe.clock, n)
    plan = recipe.compile(path, grid)
    plan = plan[: len(plan) - 1]

    def state(t: float) -> torch.Tensor:
        return path.a(t) * flow(path.sigma(t)) + path.b(t) * anchor.get("anchor", 0.0)

    k = warm_up(recipe, plan)
    moved = [plan.start, *(row.next_time for row in plan.rows[:k])][::-1]
    asked = [row.time for row in plan.rows[:k] if row.time is not None][::-1]
    outputs = tuple(den.predict(state(t), t, anchor).read(kind) for t in asked for kind in readings(plan.basis))
    memory = Memory(tuple(map(state, moved)), outputs) if k else None
    *_, last = rg.run(plan[k:], den, state(moved[0]), memory=memory, **anchor)
    return float((last.x_t - state(grid[-1])).abs().max()) / path.a(grid[-1])


def warm_up(recipe: Recipe, plan: Plan) -> int:
    """Number of rows until a multistep recipe has all the predictions its later rows use."""
    needed = max(len(row.outputs) for row in plan.rows) // len(readings(plan.basis))
    if recipe.evaluations > 1 or needed == 1:
        return 0
    seen = 0
    for k, row in enumerate(plan.rows):
        if seen == needed:
            return k
        seen += row.time is not None
    raise AssertionError("the plan is shorter than its start-up")


def slope_of(errors: list[float]) -> float:
    return -float(np.polyfit(np.log(COUNTS), np.log(errors), 1)[0])


@pytest.mark.parametrize(("name", "path_name"), JUDGED)
def test_a_recipe_converges_with_its_declared_order(name, path_name, path_called, mixture, flow, anchor_for):
    recipe, den = rg.recipes.get(name), mixture(path_called(path_name))
    errors = [final_error(recipe, den, flow, n, **anchor_for(den.path, *START.shape)) for n in COUNTS]
    assert slope_of(errors) == pytest.approx(recipe.order, abs=0.25), errors


def test_every_path_is_judged_or_known_to_have_kinks():
    # a path with another law of noise has the coefficients of one that is listed
    gaussian = {name for name in rg.paths.names() if "score" in rg.paths.get(name).identities}
    anchored = {name for name in rg.paths.names() if rg.paths.get(name).anchored}
    assert set(SMOOTH_PATHS) - anchored == gaussian - anchored - {"tabulated", "vp_discrete"}
    assert set(SMOOTH_PATHS) & anchored


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2s", "dpm_solver_3", "unipc_2"])
@pytest.mark.parametrize("path_name", ["tabulated", "vp_discrete"])
def test_kinks_of_a_path_do_not_matter_to_recipes_that_step_in_sigma(
    name, path_name, path_called, mixture, flow, anchor_for
):
    test_a_recipe_converges_with_its_declared_order(name, path_name, path_called, mixture, flow, anchor_for)


def wrong_second_output(name: str, factor: float) -> Recipe:
    """The recipe with its history term scaled: still exact on a point mass, no longer of its order."""
    right = rg.recipes.get(name)

    def write(path: rg.paths.Path, grid: tuple[float, ...]) -> list[Row]:
        rows = []
        for row in right.write(path, grid):
            if len(row.outputs) > 1:
                moved = (factor - 1.0) * row.outputs[1]
                outputs = (row.outputs[0] - moved, row.outputs[1] + moved, *row.outputs[2:])
                row = Row(row.time, row.next_time, row.states, outputs)
            rows.append(row)
        return rows

    return Recipe("broken", write, right.basis, right.order, 1, False, right.clock, "for this test")


@pytest.mark.parametrize("name", ["dpmpp_2m", "deis_tab1", "ipndm_2", "unip_2", "unip_3", "deis_tab3"])
@pytest.mark.parametrize("factor", [-1.0, 0.9, 2.0])
def test_the_order_shows_a_wrong_history_term_that_the_laws_cannot_see(name, factor, path_called, mixture, flow):
    den = mixture(path_called("vp"))
    broken = wrong_second_output(name, factor)
    broken.compile(den.path, times(den.path, broken.clock, 8))  # every law of plans holds
    errors = [final_error(broken, den, flow, n) for n in COUNTS]
    assert abs(slope_of(errors) - broken.order) > 0.25, errors


def test_the_order_shows_coefficients_of_an_even_grid_on_an_uneven_one(path_called, mixture, flow):
    den = mixture(path_called("edm"))
    right = rg.recipes.get("dpmpp_2m")

    def write(path: rg.paths.Path, grid: tuple[float, ...]) -> list[Row]:
        rows = right.write(path, grid)
        for i in range(1, len(rows)):
            gain = sum(rows[i].outputs)
            rows[i] = Row(grid[i], grid[i + 1], rows[i].states, (1.5 * gain, -0.5 * gain))
        return rows

    broken = Recipe("broken", write, right.basis, 2, 1, False, right.clock, "for this test")
    errors = [final_error(broken, den, flow, n) for n in COUNTS]
    assert slope_of(errors) < 1.5, errors
