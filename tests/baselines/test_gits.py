import itertools

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.baselines.gits import cheapest, local_costs, trajectories
from retrograde.errors import BadValue


@pytest.mark.parametrize(("jumps", "coefficient"), [(1, 1.0), (2, 1.15), (4, 1.15), (4, 0.8)])
def test_the_path_is_the_cheapest_of_all(jumps, coefficient):
    m = 9
    costs = np.random.default_rng(jumps).random((m, m + 1)) * np.arange(1, m + 2)
    costs[np.tril_indices(m, 0, m + 1)] = np.inf

    def cost(path):
        return sum(coefficient**k * costs[i, j] for k, (i, j) in enumerate(itertools.pairwise((*path, m))))

    all_paths = [(0, *inner) for inner in itertools.combinations(range(1, m), jumps - 1)]
    assert cheapest(costs, jumps, coefficient) == min(all_paths, key=cost)


def test_local_costs_are_those_of_ddim_steps():
    path = rg.paths.VP()
    data = rg.oracles.GaussianMixture(path, torch.eye(3), 0.1)
    teacher = trajectories(data, 16, 0, 12, None)
    costs = local_costs(data, teacher)
    for i, j in ((0, 4), (3, 11), (7, 12)):
        there = teacher.times[j] if j < 12 else None
        plan = rg.plan("ddim", path, grid=[teacher.times[i], *([there] if there else [])])
        states = list(rg.steps(plan, data, 16, 0, x=teacher.states[i]))
        goal = teacher.states[j] if there else teacher.end
        a = path.a(there) if there else 1.0
        expected = float(((states[0].x_t - goal) / a).norm(dim=1).mean())
        assert costs[i, j] == pytest.approx(expected, rel=1e-4)


def test_gits_has_its_levels_from_the_reference_and_its_solver_by_name():
    data = rg.oracles.GaussianMixture(rg.paths.Flow(), torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), 0.05)
    plan = rg.baselines.gits(data, 5, n=32, recipe="dpmpp_2m")
    assert plan.nfe == 5
    assert plan.recipe == "dpmpp_2m@1"
    assert plan == rg.plan("dpmpp_2m", data, grid=plan.times)
    with pytest.raises(BadValue, match="one evaluation per step"):
        rg.baselines.gits(data, 4, recipe="heun")
    with pytest.raises(BadValue, match="nfe=70"):
        rg.baselines.gits(data, 70, n=4)
