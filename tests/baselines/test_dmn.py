import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import retrograde as rg
from retrograde.baselines.dmn import bound
from retrograde.errors import BadValue


def influence(lambdas, orders):
    """Weight of each prediction in the end, over x/s: int e^lam l_k(lam) of every step, integrated numerically."""
    total = np.zeros(len(lambdas) - 1)
    for i, order in enumerate(orders):
        if order == 0:
            continue
        knots = lambdas[i - order + 1 : i + 1]
        for k, place in enumerate(knots):
            others = [z for z in knots if z != place]

            def density(lam, place=place, others=others):
                return math.exp(lam) * math.prod((lam - z) / (place - z) for z in others)

            total[i - order + 1 + k] += quad(density, lambdas[i], lambdas[i + 1])[0]
    return total


@pytest.mark.parametrize("path", [rg.paths.EDM(), rg.paths.VP()])
def test_the_bound_weighs_each_prediction_as_the_solver_does(path):
    lambdas = [-3.0, -1.5, -0.8, 0.4, 1.0, 2.5]
    sigmas = np.exp(-np.array(lambdas[:-1]))
    # the first and the last step stand alone, as each has order one
    steps = [np.abs(influence(lambdas, orders) * sigmas) for orders in ([1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 2, 3, 2, 0])]
    assert bound(path, lambdas, 1, 0) == pytest.approx(sum(s.sum() for s in steps), rel=1e-6)
    assert bound(path, lambdas, 2, 0) < bound(path, lambdas, 1, 0)
    assert bound(path, lambdas, 1, 3) != bound(path, lambdas, 1, 0)


@pytest.mark.filterwarnings("ignore:delta_grad")
def test_no_random_step_improves_on_the_levels_found():
    path = rg.paths.VP()
    data = rg.oracles.Gaussian(path, torch.zeros(2), 1.0)
    plan = rg.baselines.dmn(data, 5)
    assert plan.nfe == 5
    found = [-math.log(path.sigma(t)) for t in plan.times]
    last = -math.log(rg.grids.levels(path)[0])
    least = bound(path, [*found, last], 1, 3)
    assert least == pytest.approx(plan.report["bound"], rel=1e-6)
    assert least < 0.8 * bound(path, np.linspace(found[0], last, 6).tolist(), 1, 3)
    generator = np.random.default_rng(0)
    for size in (0.3, 0.03):
        for _ in range(100):
            moved = [found[0], *(np.array(found[1:]) + size * generator.standard_normal(4)).tolist(), last]
            if all(x < y for x, y in zip(moved, moved[1:], strict=False)):
                assert bound(path, moved, 1, 3) > least * (1 - 1e-3)
    with pytest.raises(BadValue, match="power=3"):
        rg.baselines.dmn(data, 5, power=3)
