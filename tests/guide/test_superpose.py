"""Superposition: tracked densities against exact ones, the mixture (OR), equal densities (AND)."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, PlanError, ShapeError
from retrograde.guide import EqualDensity, log_densities, superpose
from retrograde.quality import energy_distance

PATH = rg.paths.EDM()


def model(path, *means, variance=0.15):
    return rg.oracles.GaussianMixture(path, torch.tensor(means), variance)


ONE = model(PATH, [-1.5, 0.0], [0.2, 1.2])
OTHER = model(PATH, [1.5, 0.0], [0.2, -1.2], variance=0.25)


def ended(denoiser, rows, n=200, recipe="reverse_diffusion", last=0.03, **options):
    """The last state whose density is known, of a run that ends at sigma = last."""
    plan = rg.plan(recipe, denoiser.path, grid=rg.grids.get("karras")(denoiser.path, rows, sigma_min=last))
    return list(rg.steps(plan, denoiser, n, **options))[-1]


def test_tracked_densities_near_the_exact_ones_with_the_root_of_the_step():
    """A Gaussian alone is used as a density; the order of its error is one half."""
    den = model(PATH, [0.3, -0.4], variance=0.3)
    errors = []
    for rows in (80, 320):
        state = ended(superpose([den]), rows, last=0.3)
        exact = den.log_prob(state.prediction.x_t, state.prediction.t)
        errors.append(float((log_densities(state)[:, 0] - exact).square().mean().sqrt()))
    assert abs(math.log(errors[0] / errors[1], 4.0) - 0.5) < 0.25


def test_k_is_the_exact_posterior():
    path = rg.paths.VP()
    one, other = (model(path, *d.means.tolist(), variance=v) for d, v in ((ONE, 0.15), (OTHER, 0.25)))
    state = ended(superpose([one, other]), 150)
    x_t, t = state.prediction.x_t, state.prediction.t
    exact = torch.stack([one.log_prob(x_t, t), other.log_prob(x_t, t)], 1).softmax(1)
    k = log_densities(state).softmax(1)
    assert float((k - exact).abs().mean()) < 0.02
    assert exact.min() < 0.01 < 0.99 < exact.max()  # the models are apart there


def test_or_samples_the_mixture_and_averaging_does_not():
    """Against fresh samples of the exact mixture: at the floor; the mean of the scores is far from it."""
    n, means = 400, [*ONE.means.tolist(), *OTHER.means.tolist()]
    variances = torch.tensor([0.15, 0.15, 0.25, 0.25])
    union = rg.oracles.GaussianMixture(PATH, torch.tensor(means), variances)
    target = union.sample(2000, seed=1).float()
    floor = [energy_distance(union.sample(n, seed=2 + i).float(), target).value for i in range(6)]
    plan = rg.plan("reverse_diffusion", PATH, nfe=100)
    found = {
        temperature: energy_distance(rg.sample(superpose([ONE, OTHER], temperature=temperature), plan, n=n), target).value
        for temperature in (1.0, 0.0)
    }
    assert found[1.0] < 1.3 * max(floor)
    assert found[0.0] > 3.0 * max(floor)


@pytest.mark.parametrize(
    ("one", "other", "part"),
    [(ONE, OTHER, 0.1), (model(PATH, [-1.0, 0.3]), model(PATH, [1.0, 0.0]), 0.01)],
    ids=["mixtures", "gaussians"],
)
def test_and_keeps_the_densities_equal(one, other, part):
    """The spread of log q_1 - log q_2, exactly, along the path, against averaging's; see `EqualDensity` for mixtures."""
    plan = rg.plan("reverse_diffusion", PATH, nfe=75, grid="log_snr")
    both = superpose([one, other], temperature=0.0)
    spread, ends = {}, {}
    for name, controllers in (("and", [EqualDensity()]), ("mean", [])):
        apart = []
        for state in rg.steps(plan, both, 48, controllers=controllers):
            if state.t is not None and PATH.sigma(state.t) > 0.05:
                apart.append(one.log_prob(state.x_t, state.t) - other.log_prob(state.x_t, state.t))
        spread[name], ends[name] = float(torch.stack(apart).std()), float(apart[-1].abs().median())
    assert spread["and"] < part * spread["mean"]
    assert ends["and"] < 2.0 * part * ends["mean"]


def test_three_models_and_a_bias():
    third = model(PATH, [0.0, 1.5])
    state = ended(
        superpose([ONE, OTHER, third], temperature=0.0), 100, n=8, controllers=[EqualDensity((0.0, 0.0, 1.0))], last=0.2
    )
    logs = log_densities(state)
    assert torch.allclose(logs[:, 0], logs[:, 1], atol=1e-4)
    assert torch.allclose(logs[:, 0], logs[:, 2] + 1.0, atol=1e-4)
    assert dict(state.ledger.evaluations) == {"mixture:0": 100, "mixture:1": 100, "mixture:2": 100}


def test_one_model_twice_is_that_model_and_conditions_are_bound(labelled):
    den, plan = labelled(PATH), rg.plan("euler_maruyama", PATH, nfe=6)
    alone = rg.sample(den, plan, n=3, condition=1)
    twice = rg.sample(superpose([den, den], conditions=[{"label": 1}, {"label": 1}]), plan, n=3)
    assert torch.allclose(twice, alone, atol=1e-5)
    cut = rg.steps(plan, superpose([den, den], biases=[0.0, -60.0]), 3, condition=1)  # the run's own condition
    assert torch.allclose(list(cut)[-1].x_t, alone, atol=1e-5)
    two = superpose([den, den], conditions=[{"label": 0}, {"label": 1}])
    parts = rg.sample(two, plan, n=4, seed=1, batch_size=3)
    assert torch.equal(parts, rg.sample(two, plan, n=4, seed=1, batch_size=4)) or torch.allclose(
        parts, rg.sample(two, plan, n=4, seed=1), atol=1e-5
    )


def test_mistakes_are_explained(mixture):
    with pytest.raises(BadValue, match="as many of each"):
        superpose([ONE, OTHER], biases=[0.0])
    with pytest.raises(ShapeError, match="one shape"):
        superpose([ONE, rg.oracles.GaussianMixture(PATH, torch.zeros(1, 3), 1.0)])
    with pytest.raises(PlanError, match="fresh noise"):
        rg.sample(superpose([ONE, OTHER], temperature=0.0), rg.plan("ddim", PATH, nfe=3), controllers=[EqualDensity()])
    with pytest.raises(PlanError, match="superposed models"):
        rg.sample(ONE, rg.plan("euler_maruyama", PATH, nfe=3), controllers=[EqualDensity()])
    state = list(rg.steps(rg.plan("ddim", PATH, nfe=3), superpose([ONE]), 1))[-1]
    with pytest.raises(PlanError, match="stochastic"):
        log_densities(state)
    flow = rg.paths.Flow()
    with pytest.raises(BadValue, match="from_noise"):
        superpose([mixture(flow)])(torch.zeros(1, 2), 1.0)
