"""Same seed, same item, same sample: in any batch, in two halves of a plan, and from a plan that went through a file."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.plan import Plan

ALL = [(name, {}) for name in rg.recipes.names()] + [("ddim", {"eta": 0.7}), ("edm_stochastic", {"noise_scale": 1.02})]


@pytest.fixture(params=ALL, ids=[f"{name}{options or ''}" for name, options in ALL])
def plan(request) -> Plan:
    name, options = request.param
    return rg.plan(name, rg.paths.VP(), nfe=9, **options)


@pytest.fixture
def den(mixture) -> rg.oracles.GaussianMixture:
    return mixture(rg.paths.VP())


def test_a_batch_equals_its_singles_bit_by_bit(plan, den):
    batch = rg.sample(den, plan, n=4, seed=3)
    for size in (1, 3):
        assert torch.equal(rg.sample(den, plan, n=4, seed=3, batch_size=size), batch)
    for item in range(4):
        assert torch.equal(rg.sample(den, plan, seed=3, items=[item]), batch[item : item + 1])
    assert torch.equal(rg.sample(den, plan, seed=3, items=[2, 0]), batch[[2, 0]])
    assert not torch.equal(rg.sample(den, plan, n=4, seed=4), batch)


def test_a_cut_plan_continues_bit_by_bit(plan, den):
    whole = rg.sample(den, plan, n=3, seed=5)
    for state in rg.steps(plan, den, n=3, seed=5):
        rest = plan[state.index + 1 :] if state.index + 1 < len(plan) else None
        if rest is not None:
            assert torch.equal(rg.sample(den, rest, seed=5, state=state), whole), state.index
            assert torch.equal(rg.sample(den, rest, seed=5, state=state, batch_size=2), whole), state.index


def test_a_plan_survives_its_file(plan, den, tmp_path):
    file = tmp_path / "plan.json"
    plan.save(file)
    loaded = Plan.load(file)
    assert loaded == plan
    assert (loaded.recipe, loaded.misses, loaded.provenance) == (plan.recipe, plan.misses, plan.provenance)
    assert str(loaded) == str(plan)
    assert torch.equal(rg.sample(den, loaded, n=2), rg.sample(den, plan, n=2))


def test_a_plan_with_tensors_survives_its_file(plan, tmp_path):
    def spread(values: tuple[float, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(torch.full((1, 2), value, dtype=torch.float64) for value in values)

    rows = [dataclasses.replace(row, states=spread(row.states), outputs=spread(row.outputs)) for row in plan.rows]
    tensors = Plan(plan.path, rows, plan.basis, plan.recipe, plan.start, plan.misses)
    file = tmp_path / "plan.json"
    tensors.save(file)
    assert len(list(tmp_path.glob("plan*.safetensors"))) == 1
    assert Plan.load(file) == tensors
    assert Plan.load(file) != plan


def test_tensor_coefficients_do_what_numbers_do(plan, den):
    rows = [
        dataclasses.replace(row, outputs=tuple(torch.full((2,), c, dtype=torch.float64) for c in row.outputs))
        for row in plan.rows
    ]
    tensors = Plan(plan.path, rows, plan.basis, plan.recipe, plan.start, plan.misses)
    one, other = (rg.sample(den, p, n=3, dtype=torch.float64) for p in (plan, tensors))
    assert torch.allclose(one, other, rtol=1e-12, atol=1e-12)


def test_every_recipe_starts_from_a_lower_level(plan, den):
    lower = plan.from_noise(3.0)
    levels = [plan.path.sigma(t) for t in plan.times]
    assert plan.path.sigma(lower.start) <= 3.0
    assert lower.history == 0
    # at most the inner stages of one step are lost; Heun++ asks two levels ahead, so its first visit there is one of them
    inner = plan.depth[0] - 1 + plan.recipe.startswith("heunpp2")
    assert lower.nfe >= sum(level <= 3.0 for level in levels) - inner
    signal = torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    assert rg.sample(den, lower, signal=signal).isfinite().all()
