"""What `solve` takes, what it gives, and what it says of mistakes."""

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.errors import BadType, BadValue, ShapeError, UnknownName
from retrograde.noise import Bulk

SHAPE = (1, 4, 4)


@pytest.fixture(scope="module")
def prior():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(5, *SHAPE, generator=generator)
    return rg.oracles.GaussianMixture(rg.paths.VP(), points, 0.05)


@pytest.fixture(scope="module")
def measurement(prior):
    return operators.measure(operators.mask(SHAPE, 0.5), prior.sample(1, 3)[0], 0.1)


def test_a_solution_has_mean_spread_and_intervals(prior, measurement):
    solution = inverse.solve(prior, measurement, "pigdm", n=8, nfe=10)
    assert solution.samples.shape == (8, *SHAPE)
    assert torch.allclose(solution.mean, solution.samples.mean(0))
    assert torch.allclose(solution.std, solution.samples.std(0))
    low, high = solution.interval(0.5)
    inside = ((solution.samples >= low) & (solution.samples <= high)).double().mean()
    assert 0.4 <= float(inside) <= 0.6
    assert solution.ledger.evaluations == {"mixture": 10, "mixture:backward": 10}
    assert solution.plan.nfe == 10
    with pytest.raises(BadValue, match="level"):
        solution.interval(1.0)
    with pytest.raises(BadValue, match="one sample"):
        _ = inverse.solve(prior, measurement, "pigdm", n=1, nfe=3).std


@pytest.mark.parametrize("name", inverse.names())
def test_every_method_spends_its_budget_and_repeats_itself(prior, measurement, name):
    made = [inverse.solve(prior, measurement, name, n=3, nfe=24, seed=7) for _ in range(2)]
    assert torch.equal(made[0].samples, made[1].samples)
    assert made[0].samples.shape == (3, *SHAPE)
    assert made[0].plan.nfe <= 24
    assert made[0].ledger.evaluations["mixture"] <= 24
    assert made[0].ledger.evaluations["mixture"] >= 16
    other = inverse.solve(prior, measurement, name, n=3, nfe=24, seed=8)
    assert not torch.equal(made[0].samples, other.samples)


@pytest.mark.parametrize("name", [name for name in inverse.names() if not inverse.get(name).together])
def test_a_sample_does_not_depend_on_its_batch(prior, measurement, name):
    whole = inverse.solve(prior, measurement, name, n=4, nfe=16, dtype=torch.float64)
    parts = inverse.solve(prior, measurement, name, n=4, nfe=16, batch_size=3, dtype=torch.float64)
    assert torch.allclose(whole.samples, parts.samples, atol=1e-6)


@pytest.mark.parametrize("name", inverse.names())
def test_every_method_comes_nearer_to_what_was_measured(prior, measurement, name):
    free = rg.sample(prior, rg.plan("ddim", prior, nfe=24), n=8)
    solution = inverse.solve(prior, measurement, name, n=8, nfe=24, noise=Bulk)
    ours, theirs = (measurement.residual(x.double()).pow(2).mean() for x in (solution.samples, free))
    assert float(ours) < 0.5 * float(theirs)


def test_mistakes_are_mended(prior, measurement):
    with pytest.raises(UnknownName, match="pigdm"):
        inverse.solve(prior, measurement, "pigmd")
    with pytest.raises(UnknownName, match="zeta"):
        inverse.solve(prior, measurement, "dps", zetta=1.0)
    with pytest.raises(ShapeError, match="denoiser's"):
        inverse.solve(prior, operators.measure(operators.mask((1, 5, 5)), torch.zeros(1, 5, 5), 0.1))
    with pytest.raises(BadType, match="measurement"):
        inverse.solve(prior, measurement.y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadValue, match="n >= 1"):
        inverse.solve(prior, measurement, n=0)
    curved = operators.measure(operators.hdr(SHAPE), torch.zeros(SHAPE), 0.1)
    for name in ("pigdm", "mmps", "tmpd", "ddrm", "ddnm", "diffpir"):
        with pytest.raises(BadValue, match="linear operator"):
            inverse.solve(prior, curved, name, n=2, nfe=4)
    counted = operators.measure(operators.mask(SHAPE), torch.zeros(SHAPE), operators.PoissonNoise(0.1))
    with pytest.raises(BadValue, match="PoissonNoise"):
        inverse.solve(prior, counted, "mmps", n=2, nfe=4)
