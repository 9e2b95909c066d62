import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.baselines.dc_solver import nearest
from retrograde.baselines.gits import FIRST_ITEM
from retrograde.errors import BadValue

MEANS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def lagrange(times, values, t):
    return sum(
        v * np.prod([(t - u) / (s - u) for j, u in enumerate(times) if j != i])
        for i, (s, v) in enumerate(zip(times, values, strict=True))
    )


@pytest.mark.parametrize("path", [rg.paths.EDM(), rg.paths.VP()])
def test_the_table_is_the_loop_that_compensates_its_buffer(path):
    data = rg.oracles.GaussianMixture(path, MEANS, 0.1)
    plan = rg.baselines.dc_solver(data, 6)
    ratios, times = plan.provenance["ratios"], plan.times
    base = rg.plan("unip_3", data, grid=times)
    x = path.s(times[0]) * torch.randn(16, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    start, buffer = x.clone(), []
    for i, (row, ratio) in enumerate(zip(base.rows, ratios, strict=True)):
        raw = data.predict(x, times[i]).data
        buffer.append(raw)
        if i >= 2:
            there = ratio * times[i] + (1 - ratio) * times[i - 1]
            buffer[-1] = lagrange([times[i], times[i - 1], times[i - 2]], buffer[:-4:-1], there)
        x = row.states[0] * x + sum(w * m for w, m in zip(row.outputs, reversed(buffer), strict=False))
    assert ratios[:2] == [1.0, 1.0]
    assert any(abs(ratio - 1.0) > 0.01 for ratio in ratios)
    assert torch.allclose(rg.sample(data, plan, 16, x=start), x, atol=1e-9 * float(start.abs().max()))


def test_each_ratio_is_the_best_of_its_step():
    generator = torch.Generator().manual_seed(0)
    kept, *powers, goal = torch.randn(5, 7, 3, generator=generator).unbind()
    best = nearest(kept, powers, goal)

    def squared(rho):
        return float((kept + sum(rho**k * p for k, p in enumerate(powers)) - goal).pow(2).sum())

    assert all(squared(best) <= squared(rho) + 1e-5 for rho in torch.linspace(-4.0, 4.0, 801).tolist())


def test_compensation_brings_the_trained_items_nearer():
    data = rg.oracles.GaussianMixture(rg.paths.EDM(), MEANS, 0.1)
    items = range(FIRST_ITEM, FIRST_ITEM + 32)
    plan = rg.baselines.dc_solver(data, 6, n=32)
    end = rg.sample(data, rg.plan("dpmpp_3m", data, nfe=200), 32, 0, items=items)
    error = [
        float((rg.sample(data, p, 32, 0, items=items) - end).pow(2).mean().sqrt())
        for p in (plan, rg.plan("unip_3", data, grid=plan.times))
    ]
    assert error[0] < 0.9 * error[1]


def test_a_solver_it_cannot_compensate_is_refused():
    data = rg.oracles.Gaussian(rg.paths.EDM(), torch.zeros(2), 1.0)
    with pytest.raises(BadValue, match="steps with data predictions"):
        rg.baselines.dc_solver(data, 4, recipe="ipndm_4")
