import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.baselines.gits import FIRST_ITEM, trajectories
from retrograde.baselines.pas import basis
from retrograde.errors import PlanError

MEANS = torch.randn(8, 12, generator=torch.Generator().manual_seed(0))
PATHS = [rg.paths.EDM(), rg.paths.VP(), rg.paths.Flow()]


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.name)
def fitted(request):
    data = rg.oracles.GaussianMixture(request.param, MEANS, 0.1)
    return data, rg.baselines.pas(data, 6, n=128)


def samples(data, plan, items, **given):
    return rg.sample(data, plan, len(items), 0, items=items, **given)


def test_it_brings_ddim_nearer_on_fresh_items(fitted):
    """DDIM's levels are the same. Corrected at every step it goes astray, as published: the search is the method."""
    data, plan = fitted
    fresh = range(FIRST_ITEM + 1000, FIRST_ITEM + 1256)
    end = samples(data, rg.plan("dpmpp_3m", data, nfe=200), fresh)
    bare = dataclasses.replace(plan, rows=[dataclasses.replace(row, knobs={}) for row in plan.rows])
    everywhere = rg.baselines.pas(data, 6, n=128, tolerance=-1e9)
    made = [samples(data, p, fresh, controllers=[rg.baselines.Directions()]) for p in (plan, bare, everywhere)]
    errors = [float((one - end).pow(2).mean().sqrt()) for one in made]
    assert errors[0] < 0.9 * errors[1] < errors[2]
    assert plan.nfe == 6
    assert 1 <= len(plan.provenance["corrected"]) <= 6


def test_a_plan_of_it_does_not_run_without_its_controller(fitted):
    data, plan = fitted
    with pytest.raises(PlanError, match="knob 'directions'"):
        rg.sample(data, plan, 2)


def test_its_coordinates_travel_in_the_file(fitted, tmp_path):
    data, plan = fitted
    plan.save(tmp_path / "pas.json")
    again = rg.Plan.load(tmp_path / "pas.json")
    assert again == plan
    one, other = (rg.sample(data, p, 3, controllers=[rg.baselines.Directions()]) for p in (plan, again))
    assert torch.equal(one, other)


def test_coordinates_are_the_best_of_the_first_corrected_step(fitted):
    """No other four numbers bring the items they were averaged over nearer, with all steps before it as they are."""
    data, plan = fitted
    first = plan.provenance["corrected"][0]
    items = range(FIRST_ITEM, FIRST_ITEM + 64)
    goal = trajectories(data, 128, 0, 61, None, through=plan.times)
    goal = goal.end if first + 1 == len(plan) else goal.states[goal.times.index(plan.times[first + 1])]

    def miss(coordinates):
        rows = list(plan.rows[: first + 1])
        rows[first] = dataclasses.replace(rows[first], knobs={"directions": coordinates})
        part = dataclasses.replace(plan, rows=rows)
        *_, last = rg.steps(part, data, 64, 0, items=items, controllers=[rg.baselines.Directions()])
        return float((last.x_t - goal[:64]).double().pow(2).mean())

    best = plan.rows[first].knobs["directions"]
    for k in range(4):
        for size in (-0.05, 0.05):
            assert miss([c + size * (i == k) for i, c in enumerate(best)]) >= miss(best) - 1e-7


def test_a_basis_is_orthonormal_and_spans_the_trail():
    generator = torch.Generator().manual_seed(1)
    trail = [torch.randn(5, 9, generator=generator) for _ in range(4)]
    axes = basis(trail, trail[0] + trail[1])
    assert torch.allclose(axes @ axes.transpose(1, 2), torch.eye(4).expand(5, 4, 4), atol=1e-5)
    assert torch.allclose(axes[:, 0], trail[-1] / trail[-1].norm(dim=1, keepdim=True))
    # four rows about their mean span three directions, and the newest row is a fourth: all of the trail
    rows = torch.stack(trail, 1)
    assert torch.allclose(rows @ axes.transpose(1, 2) @ axes, rows, atol=1e-4)
    assert bool(((axes[:, 1:] * (trail[0] + trail[1])[:, None]).sum(2) >= 0).all())
    two = basis(trail[:2], torch.zeros(5, 9))
    assert torch.equal(two[:, 2:], torch.zeros(5, 2, 9))
    assert torch.allclose(two[:, :2] @ two[:, :2].transpose(1, 2), torch.eye(2).expand(5, 2, 2), atol=1e-5)


def test_where_nothing_is_to_be_gained_nothing_is_corrected():
    """On a single point DDIM is exact."""
    data = rg.oracles.Gaussian(rg.paths.EDM(), MEANS[0], torch.full((12,), 1e-8))
    assert rg.baselines.pas(data, 4, n=16).provenance["corrected"] == []
