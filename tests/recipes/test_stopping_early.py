"""A grid that ends above zero noise, and a plan whose last state is decoded as it is."""

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue


@pytest.mark.parametrize(("steps", "count", "rho", "stop"), [(8, 12, 7.0, 9), (5, 8, 5.0, 6)])
def test_the_grid_is_the_formula_in_time(steps, count, rho, stop, path_called):
    path = path_called("vp_discrete")
    high, low = path.sigma(path.t_max), path.sigma(path.t_min)
    auxiliary = [(high ** (1 / rho) + i / (count - 1) * (low ** (1 / rho) - high ** (1 / rho))) ** rho for i in range(count)]
    start, end, r = path.time_of_sigma(auxiliary[0]), path.time_of_sigma(auxiliary[stop]), 1.2
    wanted = [(start ** (1 / r) + i / steps * (end ** (1 / r) - start ** (1 / r))) ** r for i in range(steps + 1)]
    plan = rg.plan("dpmpp_2m", path, nfe=steps + 1, grid="karras_in_time", count=count, rho=rho, stop=stop)
    assert plan.times == pytest.approx(wanted, rel=1e-9)
    as_is = plan[:-1]
    assert (as_is.nfe, as_is.rows[-1].next_time) == (steps, plan.times[-1])
    # no step of lower order at the end
    assert len(as_is.rows[-1].outputs) == 2


def test_decoding_as_is_costs_exactly_the_variance_of_the_stop():
    """x/a of the last state has variance v + sigma^2; with the closing row it is v^2/(v + sigma^2): too little instead."""
    path, v = rg.paths.VP(), 0.3
    den = rg.oracles.Gaussian(path, torch.tensor([0.0]), torch.tensor([v]))
    plan = rg.plan("dpmpp_2m", path, nfe=401, grid="karras_in_time", stop=7)
    a, sigma = path.a(plan.times[-1]), path.sigma(plan.times[-1])
    # the solver is linear on a Gaussian: one state tells the factor on all, and with it the variance
    start = path.a(plan.start) ** 2 * v + path.s(plan.start) ** 2
    x = torch.full((1, 1), start**0.5, dtype=torch.float64)
    as_is, closed = (float(rg.sample(den, p, x=x)) for p in (plan[:-1], plan))
    assert sigma > 0.1
    assert (as_is / a) ** 2 == pytest.approx(v + sigma**2, rel=1e-4)
    assert closed**2 == pytest.approx(v**2 / (v + sigma**2), rel=1e-4)


def test_the_stop_is_one_of_the_levels():
    for wrong in ({"stop": 0}, {"stop": 12}, {"power": 0.0}):
        with pytest.raises(BadValue, match="0 < stop < count"):
            rg.grids.karras_in_time(rg.paths.VP(), 5, **wrong)
    assert np.all(np.diff(rg.grids.karras_in_time(rg.paths.EDM(), 9)) < 0)
