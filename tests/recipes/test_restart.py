"""Restart sampling: the published loop, exact budgets, and moments that converge."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

EDM = rg.paths.EDM()
INTERVALS = ((0.06, 0.30, 2, 3), (1.0, 4.0, 1, 2))


def test_restart_is_the_published_loop(mixture):
    plan = rg.recipes.restart.plan(EDM, nfe=45, intervals=INTERVALS)
    start = x = 80.0 * Noise.first(3, seed=2).prior((2,), torch.float64)
    den, noise = mixture(EDM), Noise.first(3, seed=4)

    def down(x, levels):
        for sigma, following in zip(levels, levels[1:], strict=False):
            slope = (x - den.predict(x, sigma).data) / sigma
            x_next = x + (following - sigma) * slope
            x = x + (following - sigma) * 0.5 * (slope + (x_next - den.predict(x_next, following).data) / following)
        return x

    main = rg.grids.karras(EDM, 1 + (45 - 1 - 16) // 2)
    places = [min(range(1, len(main)), key=lambda i: abs(math.log(main[i] / low))) for low, *_ in INTERVALS]
    for i in range(1, len(main)):
        x = down(x, main[i - 1 : i + 1])
        for place, (_, high, restarts, steps) in zip(places, INTERVALS, strict=True):
            for visit in range(restarts if place == i else 0):
                eps = noise.draw((2,), (main[i], EDM.time_of_sigma(high)), visit, torch.float64)
                x = x + math.sqrt(high**2 - main[i] ** 2) * eps
                u = [high ** (1 / 7) + k / steps * (main[i] ** (1 / 7) - high ** (1 / 7)) for k in range(steps + 1)]
                x = down(x, [v**7 for v in u])
    x = den.predict(x, main[-1]).data
    assert torch.allclose(rg.sample(den, plan, x=start, seed=4), x, rtol=0, atol=1e-7)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp", "trigonometric"])
def test_every_budget_that_holds_the_restarts_is_met(path_name, path_called):
    path = path_called(path_name)
    for nfe in range(25, 60):
        plan = rg.recipes.restart.plan(path, nfe=nfe)
        assert plan.nfe == nfe
        assert sum(bool(row.noises) for row in plan.rows) == 2
        # Heun's rule steps along curves by their tangents where a path is not straight in its own time
        assert bool(plan.misses) == (path_name == "trigonometric")


def test_a_budget_below_the_restarts_lists_those_that_do():
    with pytest.raises(BadValue, match="nfe = 15, 16, 17"):
        rg.recipes.restart.plan(EDM, nfe=14)
    assert rg.recipes.restart.plan(EDM, nfe=15, intervals=((0.01, 4.0, 2, 3),)).nfe == 15


@pytest.mark.parametrize("interval", [(0.06, 0.01, 1, 2), (0.06, 100.0, 1, 2), (0.06, 0.3, 0, 2), (0.06, 0.3, 1, 0)])
def test_an_empty_interval_is_refused(interval):
    with pytest.raises(BadValue, match="interval"):
        rg.recipes.restart.plan(EDM, nfe=40, intervals=(interval,))


def test_the_variance_converges_to_that_of_the_level():
    """On N(0, v) every row is linear: the state's variance is followed exactly through both grids, refined together."""
    v, errors = 0.5, []
    den = rg.oracles.Gaussian(EDM, torch.tensor([0.0]), torch.tensor([v]))
    for n in (8, 16, 32):
        plan = rg.recipes.restart.plan(EDM, nfe=1 + 4 * n * 2 + 2 * n, intervals=((0.06, 0.30, 1, n),), grid="log_snr")
        variance, last = v + EDM.sigma_max**2, math.sqrt(v + EDM.sigma_max**2)
        x = torch.full((1, 1), last, dtype=torch.float64)
        rounds = [k for k, row in enumerate(plan.rows) if row.noises]
        for begin, end in zip([0, *rounds], [*rounds, len(plan) - 1], strict=True):
            rows = plan[begin:end]
            if rows.rows[0].noises:
                variance = variance + rows.rows[0].noises[0] ** 2
                rows = plan[begin + 1 : end]
            x = torch.full((1, 1), math.sqrt(variance), dtype=torch.float64)
            *_, state = rg.run(rows, den, x)
            variance = float(state.x_t) ** 2
        errors.append(abs(variance - v - EDM.sigma_min**2))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
