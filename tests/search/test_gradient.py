"""Ascent of the noise: the closed form on Gaussian data, the memory's price, and the books."""

import math
from typing import Any

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise


@pytest.fixture
def plane(path):
    """Data N(m, 0.25 I) in the plane: a run is x_0 = c eps + d, exactly."""
    return rg.oracles.Gaussian(path, torch.tensor([0.3, -0.2]), 0.25)


def line(den, plan):
    """Return c and d of the line that a plan is, from noise to data."""
    ends = rg.sample(den, plan, x=plan.path.s(plan.start) * torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    return (ends[1] - ends[0])[0], ends[0]


AIM = torch.tensor([1.0, 0.5], dtype=torch.float64)


def near(x, searches):
    return -((x - AIM) ** 2).sum(1)


@pytest.mark.parametrize(
    ("gradient", "sphere"),
    [
        pytest.param("checkpoint", False, marks=pytest.mark.slow),  # the first checkpoint of a process loads a compiler
        ("unroll", False),
        ("unroll", True),
    ],
)
def test_of_gaussian_data_each_step_is_the_closed_form(plane, path, gradient, sphere):
    plan = rg.plan("ddim", path, nfe=6)
    c, d = line(plane, plan)
    settings: dict[str, Any] = {"rate": 0.2, "momentum": 0.5, "clip": 0.3, "prior": 0.02, "sphere": sphere}
    found = rg.search.ascend(plane, plan, near, n=3, rounds=4, gradient=gradient, dtype=torch.float64, **settings)
    eps = Noise.first(3).prior((2,), torch.float64)
    length, velocity, best = eps.norm(dim=1, keepdim=True), torch.zeros_like(eps), []
    for _ in range(5):
        x = c * eps + d
        best.append((near(x, None), eps))
        rise = -2.0 * c * (x - AIM) + 0.02 * (eps / eps.square().sum(1, keepdim=True) - eps)
        rise = rise * (0.3 / rise.norm(dim=1, keepdim=True)).clamp(max=1.0)
        velocity = 0.5 * velocity + rise
        eps = eps + 0.2 * (rise + 0.5 * velocity)
        eps = eps * length / eps.norm(dim=1, keepdim=True) if sphere else eps
    verdicts = torch.stack([verdict for verdict, _ in best])
    assert torch.allclose(found.verdicts[:, 0], verdicts.amax(0), rtol=0, atol=1e-9)
    chosen = torch.stack([start for _, start in best])[verdicts.argmax(0), torch.arange(3)]
    assert found.starts is not None
    assert torch.allclose(found.starts, path.s(plan.start) * chosen, rtol=0, atol=1e-9)
    assert torch.allclose(rg.sample(plane, plan, x=found.starts), found.samples)


def test_the_prior_holds_the_length_of_noise(path):
    """A verifier without a top, r = sum x: the noise grows without end, or to the length L with L - (d - 1)/L = |g|."""
    den = rg.oracles.Gaussian(path, torch.zeros(64), 1.0)
    plan = rg.plan("ddim", path, nfe=5)
    c = float(rg.sample(den, plan, x=torch.full((1, 64), path.s(plan.start)))[0, 0])
    settings: dict[str, Any] = {"rate": 0.6, "clip": None, "momentum": 0.0, "gradient": "unroll", "n": 2, "rounds": 25}

    def length(prior):
        found = rg.search.ascend(den, plan, lambda x, searches: x.sum(1), prior=prior, **settings)
        assert found.starts is not None
        return found.starts.norm(dim=1) / path.s(plan.start)

    free = Noise.first(2).prior((64,)) + 25 * 0.6 * c
    assert torch.allclose(length(0.0), free.norm(dim=1), rtol=1e-4)
    slope = 8.0 * c
    held = 0.5 * (slope + math.sqrt(slope**2 + 4 * 63))
    assert torch.allclose(length(1.0), torch.full((2,), held), rtol=1e-3)


def test_the_books_have_evaluations_and_gradients(modes, path, counted):
    den, asked = counted(modes)
    plan = rg.plan("ddim", path, nfe=5)

    def up(x, searches):
        return x[:, 0]

    found = rg.search.ascend(den, plan, up, n=3, rounds=2, rate=0.1, gradient="unroll", batch_size=2)
    assert sum(asked) == 3 * 5 * 3 == pytest.approx(3 * found.ledger.evaluations["mixture"])
    assert found.ledger.evaluations["gradients"] == pytest.approx(5 * 2)
    assert found.ledger.verdicts == pytest.approx(3)
    assert [len(found.trace), float(found.trace[-1][0])] == [3, pytest.approx(25)]
    rises = [float(verdicts.mean()) for _, verdicts in found.trace]
    assert rises == sorted(rises)
    assert rises[-1] > rises[0]


def test_mistakes_are_named(modes, path):
    plan = rg.plan("ddim", path, nfe=2)
    with pytest.raises(BadValue, match="zero_order"):
        rg.search.ascend(modes, plan, lambda x, i: x[:, 0].detach(), n=2, gradient="unroll")
    with pytest.raises(BadValue, match="gradient='none'"):
        rg.search.ascend(modes, plan, lambda x, i: x[:, 0], gradient="none")
