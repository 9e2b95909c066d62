"""Embedded pairs: both methods have their order, and the difference of the two is what the step says it is."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import retrograde as rg
from retrograde.controllers.pairs import BOGACKI_SHAMPINE, DORMAND_PRINCE, asking, get, names
from retrograde.errors import UnknownName
from retrograde.linear import combine
from retrograde.plan import Plan
from retrograde.recipes.recipe import level

START = torch.tensor([[1.75, -0.7], [-1.05, 1.4]], dtype=torch.float64)
ORDERS = {"dpm_12": (2, 1), "dpm_23": (3, 2), "bs_32": (3, 2), "dp_54": (5, 4)}
DETERMINISTIC = [name for name in names() if not get(name).stochastic]


def one_step(name, den, sigma, h):
    """Return the states of both methods after one step, and the exact flow's."""
    pair, path = get(name), den.path
    s, t = path.time_of_sigma(sigma), path.time_of_sigma(sigma * math.exp(-h))
    step = pair.write(path, level(path, s), level(path, t))
    plan = Plan(path, (asking(s), *step.rows), pair.basis, misses=("point mass",))
    *_, last = rg.run(plan, den, path.a(s) * START)
    difference = combine(zip(step.difference, last.memory.outputs, strict=True))

    def slope(t, x):
        return den.predict(torch.from_numpy(x.reshape(-1, 2)), t).velocity.numpy().ravel()

    exact = solve_ivp(slope, (s, t), (path.a(s) * START).numpy().ravel(), method="DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    return last.x_t, last.x_t - difference, torch.from_numpy(exact.reshape(-1, 2))


@pytest.mark.parametrize("path_name", ["edm", "vp", "flow"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_both_methods_of_a_pair_have_their_order(name, path_name, path_called, mixture):
    """The error of one step falls by 2^(order + 1) when it is halved; the largest from three levels."""
    den = mixture(path_called(path_name))
    better, other = ORDERS[name.removesuffix("_sigma").removesuffix("_time")]
    lengths = (0.12, 0.06) if better == 5 else (0.08, 0.04)
    errors = []
    for h in lengths:
        high, low, exact = map(torch.cat, zip(*(one_step(name, den, sigma, h) for sigma in (3.0, 1.5, 0.5)), strict=True))
        errors.append([float((made - exact).abs().max()) for made in (high, low)])
    slopes = [math.log2(errors[0][i] / errors[1][i]) for i in (0, 1)]
    assert slopes[0] == pytest.approx(better + 1, abs=0.4), errors
    assert slopes[1] == pytest.approx(other + 1, abs=0.4), errors
    assert get(name).q == other + 1


@pytest.mark.parametrize("tableau", [BOGACKI_SHAMPINE, DORMAND_PRINCE])
def test_the_tableaus_are_consistent(tableau):
    """Rows sum to their nodes, both sets of weights to one, and sum b c = 1/2 as of order two on."""
    for c, line in zip(tableau.c, tableau.a, strict=True):
        assert sum(map(Fraction, line)) == pytest.approx(float(c), abs=1e-14)
    weights = (*tableau.a[-1], 0.0)
    for used in (weights, [w - d for w, d in zip(weights, tableau.difference, strict=True)]):
        assert sum(used) == pytest.approx(1.0, abs=1e-14)
        assert sum(w * c for w, c in zip(used, tableau.c, strict=True)) == pytest.approx(0.5, abs=1e-14)


def test_the_stochastic_pair_is_exact_on_a_point_and_its_slope_term_integrates_a_line():
    path, h = rg.paths.VP(), 0.7
    s = path.time_of_sigma(2.0)
    t = path.time_of_sigma(2.0 * math.exp(-h))
    here, there = level(path, s), level(path, t)
    step = get("sde_12").write(path, here, there)
    Plan(path, (asking(s), *step.rows), "data")  # the point-mass law holds, noise included
    u = np.linspace(0.0, h, 20001)
    exact = there.a * np.trapezoid(2.0 * np.exp(-2.0 * (h - u)) * u / h, u)
    assert step.difference == pytest.approx((exact, -exact), rel=1e-6)


def test_an_unknown_pair_lists_those_there_are():
    with pytest.raises(UnknownName, match="dpm_23"):
        get("dpm_32")
