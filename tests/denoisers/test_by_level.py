"""Denoisers by ranges of path times: equal ones are one, a row asks one, and fitted to their ranges they are nearer."""

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.denoisers import ByLevel
from retrograde.errors import BadValue

PATH, DOUBLE = rg.paths.VP(), torch.float64
EDGES = (0.2, 0.4, 0.7)


def mixture() -> rg.oracles.GaussianMixture:
    return rg.oracles.GaussianMixture(PATH, torch.tensor([[-1.5, 0.3], [1.0, -0.4]]), 0.1, labels=[0, 1])


def test_equal_parts_are_one_denoiser_and_a_row_asks_one():
    """Bit by bit, in every row and where items are at levels of their own; the ledger has one evaluation for a row."""
    one = mixture()
    many = ByLevel((one,) * 4, EDGES)
    plan = rg.plan("dpmpp_2m_sde", PATH, nfe=9)
    made = [rg.record(den, plan, n=3, seed=1, condition=[0, 1, 0], dtype=DOUBLE) for den in (one, many)]
    assert torch.equal(made[0].samples, made[1].samples)
    asked = made[1].ledger.evaluations
    assert sum(asked.values()) == made[1].ledger.nfe == 9
    assert asked == {
        f"{k}:mixture": sum(low <= t < high for t in plan.times)
        for k, (low, high) in enumerate(zip((0.0, *EDGES), (*EDGES, 2.0), strict=True))
    }
    x, t = torch.randn(5, 2, dtype=DOUBLE), torch.tensor([0.9, 0.1, 0.4, 0.3, 0.75], dtype=DOUBLE)
    label = torch.tensor([0, 1, 1, 0, 1])
    assert torch.allclose(many(x, t, label=label).data, one(x, t, label=label).data, rtol=0.0, atol=1e-14)


def linear(weights: Tensor) -> rg.Denoiser:
    return rg.Denoiser(lambda x, t: x @ weights, PATH, "data", (2,))


def test_parts_fitted_to_their_ranges_are_nearer_in_each():
    """Least squares of x_0 on x_t, over all times and over each range: no range is worse, and most are better by far."""
    prior, times = mixture(), torch.linspace(0.02, 0.98, 49, dtype=DOUBLE)
    x_0 = prior.sample(2000, 0).double()

    def pairs(t: float, seed: int) -> Tensor:
        eps = torch.randn(x_0.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))
        return PATH.a(t) * x_0 + PATH.s(t) * eps

    def fitted(held: Tensor) -> Tensor:
        x = torch.cat([pairs(float(t), int(1000 * t)) for t in held])
        return torch.linalg.lstsq(x, x_0.repeat(len(held), 1)).solution

    ranges = [times[(low <= times) & (times < high)] for low, high in zip((0.0, *EDGES), (*EDGES, 1.0), strict=True)]
    single, many = linear(fitted(times)), ByLevel(tuple(linear(fitted(held)) for held in ranges), EDGES)

    def left(den: rg.denoisers.AbstractDenoiser, held: Tensor) -> float:
        parts = [(den(pairs(float(t), 7 + int(1000 * t)), float(t)).data - x_0).square().mean() for t in held]
        return float(torch.stack(parts).mean())

    ratios = [left(many, held) / left(single, held) for held in ranges]
    assert max(ratios) < 1.0
    assert sum(ratio < 0.9 for ratio in ratios) >= 3


def test_mistakes():
    one = mixture()
    with pytest.raises(BadValue, match="one fewer"):
        ByLevel((one, one), ())
    with pytest.raises(BadValue, match="rising"):
        ByLevel((one, one, one), (0.5, 0.2))
    with pytest.raises(BadValue, match="one path"):
        ByLevel((one, rg.oracles.Gaussian(PATH, torch.zeros(3), 1.0)), (0.5,))
