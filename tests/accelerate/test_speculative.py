"""Speculative sampling: the law of the plan, in fewer rounds; the plan itself where nothing is drafted."""

import math
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde.accelerate import reflected, speculative
from retrograde.errors import BadType, BadValue, PlanError
from retrograde.noise import Bulk

PATH = rg.paths.VP()
GAUSSIAN = rg.oracles.GaussianMixture(PATH, torch.tensor([[1.0, -0.5]]), torch.tensor([[0.5, 0.05]]))
N, MANY = 12, 8000


def exact_moments(plan: rg.Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of what the plan makes of Gaussian data, coordinate by coordinate: every row is affine."""
    mean = torch.zeros(2, dtype=torch.float64)
    variance = mean + float(plan.path.s(plan.start or 0.0)) ** 2
    rows: Any = plan.rows
    for row in rows:
        x = torch.stack([torch.zeros_like(mean), torch.ones_like(mean)])
        made = row.states[0] * x
        if row.time is not None:
            made = made + row.outputs[0] * GAUSSIAN.predict(x, row.time).read(plan.basis)
        gain = made[1] - made[0]
        mean, variance = made[0] + gain * mean, gain**2 * variance + sum(c**2 for c in row.noises)
    return mean, variance


def off(samples: torch.Tensor, plan: rg.Plan) -> float:
    """Largest distance of sample moments from the exact ones, in standard errors."""
    mean, variance = exact_moments(plan)
    n = len(samples)
    first = (samples.mean(0) - mean) / (variance / n).sqrt()
    second = (samples.var(0) / variance - 1) / math.sqrt(2 / n)
    return float(torch.cat([first, second]).abs().max())


def test_samples_have_the_law_of_the_plan(monkeypatch):
    plan = rg.plan("ddpm", PATH, nfe=N)
    made = speculative(GAUSSIAN, plan, MANY, window=4, dtype=torch.float64, noise=Bulk)
    assert off(made.samples, plan) < 4.5
    assert float(made.rounds.double().mean()) < 0.6 * N
    assert 0.5 < float(made.accepted.sum() / made.drafted.sum()) < 0.95
    monkeypatch.setitem(speculative.__globals__, "reflected", lambda z, delta, u: (z + delta, u >= 0))
    believed = speculative(GAUSSIAN, plan, MANY, window=4, dtype=torch.float64, noise=Bulk)
    assert off(believed.samples, plan) > 9  # the same drafts, believed: what the test would see


def test_a_mixture_and_a_poor_draft_change_nothing_but_the_cost():
    """Two samples of a mixture in one dimension, by the plan and speculatively, do not differ (Kolmogorov-Smirnov)."""
    data = rg.oracles.GaussianMixture(PATH, torch.tensor([[-1.0], [0.7]]), torch.tensor([0.02, 0.1]))
    poor = rg.oracles.GaussianMixture(PATH, torch.tensor([[0.3]]), torch.tensor([0.6]), name="poor")
    plan = rg.plan("ddpm", PATH, nfe=N)
    target = rg.sample(data, plan, MANY, 1, dtype=torch.float64, noise=Bulk).flatten().sort().values
    for draft in (None, poor):
        made = speculative(data, plan, MANY, 2, window=4, draft=draft, dtype=torch.float64, noise=Bulk)
        ours = made.samples.flatten().sort().values
        every = torch.cat([ours, target])
        gap = (torch.searchsorted(ours, every) - torch.searchsorted(target, every)).abs().max() / MANY
        assert float(gap) < 1.95 * math.sqrt(2 / MANY)  # passed by chance in all but one of a thousand
        assert float(made.rounds.double().mean()) < N
    assert made.ledger.evaluations["poor"] > 0


def test_the_reflection_is_normal_and_agrees_as_often_as_can_be():
    generator = torch.Generator().manual_seed(0)
    n, delta = 40000, torch.tensor([0.6, -0.8, 0.5], dtype=torch.float64)
    z = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    u = torch.rand(n, generator=generator, dtype=torch.float64)
    made, accepted = reflected(z, delta.expand_as(z), u)
    size = float(delta.norm())
    assert float(accepted.double().mean()) == pytest.approx(math.erfc(size / 2 / math.sqrt(2)), abs=4 * 0.5 / n**0.5)
    assert torch.equal(made[accepted], (z + delta)[accepted])
    assert torch.allclose(made[~accepted].norm(dim=1), z[~accepted].norm(dim=1))
    assert float(made.mean(0).abs().max()) < 4 / n**0.5
    assert float((made.T.cov() - torch.eye(3)).abs().max()) < 4 * math.sqrt(2 / n)
    same, all_accepted = reflected(z, torch.zeros_like(z), u)
    assert torch.equal(same, z)
    assert bool(all_accepted.all())


def test_with_nothing_drafted_it_is_the_plan_bit_by_bit(dit):
    for recipe in ("ddpm", "ddim"):
        plan = rg.plan(recipe, dit.path, nfe=5)
        alone = rg.sample(dit, plan, 2, 3, condition=[0, 1])
        made = speculative(dit, plan, 2, 3, window=1, condition=[0, 1])
        assert torch.equal(made.samples, alone)
        assert made.rounds.tolist() == [5, 5]
        assert made.ledger.nfe == 5
    drafted = speculative(dit, plan, 2, 3, window=3, condition=[0, 1])  # rows without noise accept no guess
    assert torch.allclose(drafted.samples, alone, atol=1e-5)
    assert int(drafted.accepted.sum()) == 0


def test_a_perfect_draft_is_always_accepted():
    """Then each window of w rows takes one round, after the first row's own."""
    plan = rg.plan("ddpm", PATH, nfe=13)
    made = speculative(GAUSSIAN, plan, 4, 5, window=4, draft=GAUSSIAN, dtype=torch.float64)
    assert made.rounds.tolist() == 4 * [4]
    assert torch.equal(made.accepted, made.drafted)
    assert torch.allclose(made.samples, rg.sample(GAUSSIAN, plan, 4, 5, dtype=torch.float64), atol=1e-9)


def test_items_are_alone_what_they_are_in_company():
    plan = rg.plan("ddpm", PATH, nfe=N)
    made = speculative(GAUSSIAN, plan, 5, 2, window=4, dtype=torch.float64)
    one = speculative(GAUSSIAN, plan, seed=2, items=[3], window=4, dtype=torch.float64)
    assert torch.allclose(one.samples[0], made.samples[3], atol=1e-12)
    assert one.rounds[0] == made.rounds[3]


def test_what_it_cannot_do_is_said(dit):
    plan = rg.plan("ddpm", dit.path, nfe=4)
    with pytest.raises(BadType, match="remembers"):
        speculative(rg.accelerate.block_cache(dit), rg.accelerate.every(plan, 2))
    with pytest.raises(BadValue, match="window=0"):
        speculative(dit, plan, window=0)
    with pytest.raises(BadValue, match="particles"):
        speculative(dit, plan, particles=None)
    with pytest.raises(PlanError, match="fresh draw"):
        speculative(dit, rg.plan("dpmpp_sde", dit.path, nfe=4))
