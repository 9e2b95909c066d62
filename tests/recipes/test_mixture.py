"""Mixture fits: found again where they are the truth, and nearer to a network of digits than one Gaussian."""

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.data import digits8
from retrograde.errors import BadValue, ShapeError
from retrograde.recipes.mixture import Mixture, stand_in
from retrograde.recipes.teleport import Moments, departure, explained, teleport

MEANS = torch.tensor([[3.0, 0.0, 0.0], [-2.0, 2.0, 0.0], [0.0, -3.0, 1.0]], dtype=torch.float64)
AXES = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.6, 0.8]], dtype=torch.float64)
LONG, SHORT, WEIGHTS = 1.0, 0.04, torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def exact() -> Mixture:
    """Three long thin clusters."""
    one, other = torch.full((1,), LONG, dtype=torch.float64), torch.tensor(SHORT, dtype=torch.float64)
    parts = tuple(Moments(mean, axis[:, None], one, other) for mean, axis in zip(MEANS, AXES, strict=True))
    return Mixture(parts, WEIGHTS, (4, 5, 6))


def oracle(path: rg.paths.Path, labelled: bool = False) -> rg.oracles.GaussianMixture:
    found = exact().denoiser(path)
    return found if labelled else rg.oracles.GaussianMixture(path, MEANS, found.covariances, WEIGHTS)


@pytest.fixture(scope="module")
def digits() -> rg.denoisers.AbstractDenoiser:
    return rg.load("digits8-flow")


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return digits8("train")[0]


def test_a_fit_finds_the_mixture_that_made_the_data():
    path = rg.paths.EDM()
    truth = oracle(path)
    fit = Mixture.of(truth.sample(4000, seed=1), 3, 1)
    order = [int((torch.stack([one.mean for one in fit.parts]) - mean).norm(dim=1).argmin()) for mean in MEANS]
    assert sorted(order) == [0, 1, 2]
    for k, mean, axis, weight in zip(order, MEANS, AXES, WEIGHTS, strict=True):
        part = fit.parts[k]
        assert float((part.mean - mean).norm()) < 0.1
        assert float(fit.weights[k]) == pytest.approx(float(weight), abs=0.03)
        assert abs(float(part.basis[:, 0] @ axis)) > 0.995
        assert float(part.variances[0]) == pytest.approx(LONG, rel=0.15)
        assert float(part.rest) == pytest.approx(SHORT, rel=0.15)
    data = truth.sample(500, seed=2)
    gaussian = Moments.of(truth.sample(4000, seed=1))
    for sigma in (0.1, 0.5, 2.0):
        assert explained(truth, fit, data, sigma) > 0.998
        assert explained(truth, gaussian, data, sigma) < 0.97
    assert departure(truth, fit, data, 0.995) < departure(truth, gaussian, data, 0.995) / 10


def test_weights_count_items():
    items = torch.randn(40, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.arange(40) % 3
    one, other = Moments.of(items, 2, counts.double()), Moments.of(items.repeat_interleave(counts, 0), 2)
    assert torch.allclose(one.mean, other.mean)
    ratio = one.variances / other.variances  # the same but for the degrees of freedom
    assert torch.allclose(ratio, ratio[:1].expand(2))
    assert 1.0 < float(ratio[0]) < 1.05
    assert torch.allclose((one.basis * other.basis).sum(0).abs(), torch.ones(2, dtype=torch.float64))
    same = Moments.of(items, 2, torch.ones(40))
    assert torch.allclose(same.variances, Moments.of(items, 2).variances)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_where_the_fit_is_the_truth_the_network_is_spared(path_name, path_called):
    path = path_called(path_name)
    truth = oracle(path)
    den = stand_in(truth, Mixture(exact().parts, WEIGHTS), 0.5)
    plan = rg.plan("dpmpp_2m", path, nfe=12, grid="log_snr")
    other = rg.sample(truth, plan, n=20, seed=3, dtype=torch.float64)
    record = rg.record(den, plan, n=20, seed=3, dtype=torch.float64)
    assert torch.allclose(record.samples, other, rtol=0, atol=1e-10)
    wrong = stand_in(truth, Mixture(exact().parts, WEIGHTS.flip(0)), 0.5)
    assert (rg.sample(wrong, plan, n=20, seed=3, dtype=torch.float64) - other).abs().max() > 0.1


def test_what_was_spared_is_counted():
    path = rg.paths.EDM()
    network = rg.Denoiser(lambda x, t: x * 0.0, path, "data", (3,))
    plan = rg.plan("ddim", path, nfe=12, grid="karras")
    above = sum(row.time is not None and path.sigma(row.time) > 1.0 for row in plan.rows)
    record = rg.record(stand_in(network, exact(), 1.0), plan, n=2)
    assert record.ledger.evaluations == {"mixture": above, "network": 12 - above}
    assert 0 < above < 12


def test_classes_have_parts_of_their_own():
    """Fitted by label, and asked by a label whose null value is the network's."""
    path = rg.paths.EDM()
    truth = oracle(path, labelled=True)
    draws = truth.sample(3000, seed=4)
    near = torch.cdist(draws, MEANS).argmin(1) + 4
    fit = Mixture.of(draws, 1, 1, labels=near)
    assert fit.labels == (4, 5, 6)
    network = rg.Denoiser(lambda x, t, label: x * 0.0, path, "data", (3,), conditions={"label": 9})
    den = stand_in(network, fit, 0.1)
    x = 3.0 * torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    own, closed = torch.tensor([4, 5, 6, 9, 9, 4]), torch.tensor([4, 5, 6, -1, -1, 4])
    made = den.predict(x, 1.0, {"label": own}).data
    assert torch.equal(made, fit.denoiser(path).predict(x, 1.0, {"label": closed}).data)
    assert float((made - truth.predict(x, 1.0, {"label": closed}).data).abs().max()) < 0.2


def test_items_at_levels_of_their_own_are_answered_each_by_its_own():
    path = rg.paths.EDM()
    den = stand_in(rg.Denoiser(lambda x, t: x * 0.0 + 7.0, path, "data", (3,)), exact(), 1.0)
    x, t = torch.ones(2, 3, dtype=torch.float64), torch.tensor([2.0, 0.5])
    made = den.predict(x, t).data
    assert torch.allclose(made[0], den.closed.predict(x[:1], 2.0).data[0])
    assert made[1].tolist() == [7.0, 7.0, 7.0]


def test_a_mixture_answers_for_a_network_of_digits_further_down(digits, pixels):
    """Sixteen Gaussians explain 99% of the score to half the level, and most samples stay near; few end as others."""
    data, gaussian = pixels[:128], Moments.of(pixels)
    fit = Mixture.of(pixels, 16, 16, rounds=10)
    one, many = (departure(digits, which, data) for which in (gaussian, fit))
    assert many < 0.7 * one
    assert [explained(digits, which, data, 0.3) > 0.93 for which in (gaussian, fit)] == [False, True]
    plan = rg.plan("heun", digits, nfe=35, grid="karras", start=80.0)
    full = rg.sample(digits, plan, n=32, seed=1)

    def gap(den: rg.denoisers.AbstractDenoiser, of: rg.Plan) -> float:
        return float((rg.sample(den, of, n=32, seed=1) - full).flatten(1).pow(2).mean(1).sqrt().median() / pixels.std())

    near, far = gap(stand_in(digits, fit, 0.75), plan), gap(digits, teleport(plan, gaussian, 0.75))
    assert near < 0.07
    assert far > 2.0 * near


def test_an_axis_comes_forth_at_its_own_level(digits, pixels):
    """The variance of the data mean along an axis is half of its last where sigma is the axis's standard deviation."""
    moments = Moments.of(pixels)
    plan = rg.plan("ddim", digits, nfe=40, grid="log_snr", start=40.0)
    levels, means = [], []
    for state in rg.steps(digits, plan, n=128, seed=2):
        if state.row.time is not None and state.prediction is not None:
            levels.append(plan.path.sigma(state.row.time))
            means.append(state.prediction.data)
    spread = (torch.stack(means).flatten(2) @ moments.basis[:, :5]).var(1)
    for axis in range(5):
        reached = spread[:, axis] > 0.5 * spread[-1, axis]
        level = levels[int(reached.int().argmax())]
        assert level == pytest.approx(float(moments.emergence[axis]), rel=0.4)


def test_what_does_not_fit_is_named():
    draws = oracle(rg.paths.EDM()).sample(30)
    with pytest.raises(BadValue, match="components=0"):
        Mixture.of(draws, 0)
    with pytest.raises(BadValue, match="5 samples of rank 2"):
        Mixture.of(draws[:5], 2, 2)
    with pytest.raises(BadValue, match="sigma=0"):
        stand_in(oracle(rg.paths.EDM()), exact(), 0.0)
    with pytest.raises(ShapeError, match="one shape"):
        stand_in(rg.oracles.Gaussian(rg.paths.EDM(), torch.zeros(2), 1.0), exact(), 1.0)
    assert len(Mixture.of(draws, 16, 2).parts) < 6  # no more parts than the items can bear
