"""One more step: what an end that still holds signal costs, and the row that pays it back."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.data import digits8
from retrograde.denoisers import on_path
from retrograde.errors import BadValue, PlanError, ShapeError

MEAN, VARIANCE, COUNT = 3.0, 0.25, 4000


def cut(alphas_end: float) -> rg.paths.VPDiscrete:
    """A schedule of 100 steps that ends at alphas_cumprod = alphas_end."""
    return rg.paths.VPDiscrete(tuple(alphas_end ** (i / 100) for i in range(1, 101)))


def gaussian(path: rg.paths.Path) -> rg.oracles.GaussianMixture:
    return rg.oracles.Gaussian(path, torch.tensor([MEAN]), VARIANCE)


def corrected(path: rg.paths.Path) -> tuple[rg.guide.FirstNetwork, rg.Plan]:
    den = rg.guide.first_network(gaussian(path), gaussian(rg.paths.Flow()))
    return den, rg.recipes.one_more_step.plan(rg.plan("dpmpp_2m", path, nfe=60))


def test_it_removes_the_bias_of_an_end_that_holds_signal():
    """On N(m, v): the start x_T, truly N(a m, a^2 v + s^2), is N(0, s^2) without the row and N(a m, s^2) with it."""
    path = cut(0.05)
    a, s = path.a(path.t_max), path.s(path.t_max)
    den, plan = corrected(path)
    assert plan.nfe == 61
    plain = rg.sample(den, plan[1:], n=COUNT, dtype=torch.float64)
    recording = rg.record(den, plan, n=COUNT, dtype=torch.float64)
    error = 3 * math.sqrt(VARIANCE / COUNT)
    assert abs(plain.mean() - MEAN) > 10 * error
    assert abs(recording.samples.mean() - MEAN) < error
    x_T = recording.trajectory[1]
    assert abs(x_T.mean() - a * MEAN) < 3 * s / math.sqrt(COUNT)
    second = float(x_T.square().mean())
    wanted = (a * MEAN) ** 2 + a * a * VARIANCE + s * s
    assert abs(second + a * a * VARIANCE - wanted) < 4 * s * math.sqrt(4 * (a * MEAN) ** 2 + 2 * s * s) / math.sqrt(COUNT)


def test_without_signal_at_the_end_it_changes_nothing_in_law():
    """The bias of the plain start falls with alphas_cumprod at the end as it should; the row has none."""
    for end in (0.05, 1e-3, 1e-6):
        path = cut(end)
        a, s = path.a(path.t_max), path.s(path.t_max)
        den, plan = corrected(path)
        plain, more = (float(rg.sample(den, p, n=COUNT, dtype=torch.float64).mean()) for p in (plan[1:], plan))
        bias = math.sqrt(VARIANCE / (a * a * VARIANCE + s * s)) * a * MEAN
        assert plain - MEAN == pytest.approx(-bias, abs=3 * math.sqrt(VARIANCE / COUNT) + 0.02 * bias)
        assert more == pytest.approx(MEAN, abs=3 * math.sqrt(VARIANCE / COUNT))


@pytest.mark.parametrize("name", ["ddim", "deis_tab2", "heun", "dpm_solver_2"])
def test_the_row_is_the_posterior_in_every_basis(name):
    path = cut(0.05)
    plan = rg.recipes.one_more_step.plan(rg.plan(name, path, nfe=9))
    den = rg.guide.first_network(gaussian(path), gaussian(rg.paths.Flow()))
    first = rg.record(den, plan, n=5, seed=1, dtype=torch.float64).trajectory[1]
    data_basis = rg.recipes.one_more_step.plan(rg.plan("dpmpp_2m", path, nfe=9))
    assert torch.allclose(first, rg.record(den, data_basis, n=5, seed=1, dtype=torch.float64).trajectory[1], atol=1e-9)


def test_the_first_network_follows_its_own_conditions():
    """Only the condition decides what the row adds: bright or dark, with the base network left as it is."""
    path = cut(0.05)
    base = rg.oracles.GaussianMixture(path, torch.tensor([[-2.0], [2.0]]), 0.1)
    told = rg.oracles.GaussianMixture(rg.paths.Flow(), torch.tensor([[-2.0], [2.0]]), 0.1, labels=[0, 1])
    den = rg.guide.first_network(base, told)
    plan = rg.recipes.one_more_step.plan(rg.plan("dpmpp_2m", path, nfe=30))
    share = [float((rg.sample(den, plan, n=1000, condition=label) > 0).float().mean()) for label in (0, 1, None)]
    assert share[0] < 0.4
    assert share[1] > 0.6
    assert abs(share[2] - 0.5) < 0.06


def test_digits_get_their_spread_of_brightness_back_if_the_prompt_tells_it():
    """Digits at five brightnesses, seen by the exact network: base samples are all alike, the row makes them what is asked.

    A first network without the prompt knows one mean for all, so that it moves the brightness and does not spread it.
    """
    path, n = cut(0.05), 200
    images = digits8("train")[0].reshape(-1, 1, 8, 8).double()[:200]
    offsets = torch.linspace(-0.9, 0.9, 5, dtype=torch.float64)
    points = (images + offsets.reshape(5, 1, 1, 1, 1)).flatten(0, 1)
    base = rg.oracles.FiniteData(path, points)
    told = rg.oracles.FiniteData(rg.paths.Flow(), points, labels=torch.arange(5).repeat_interleave(200).tolist())
    den, plan = rg.guide.first_network(base, told), rg.recipes.one_more_step.plan(rg.plan("dpmpp_2m", path, nfe=26))
    asked = [i % 5 for i in range(n)]
    spread = []
    for one, condition in ((plan[1:], None), (plan, asked), (plan, None)):
        brightness = rg.sample(den, one, n=n, condition=condition, dtype=torch.float64).mean((1, 2, 3))
        spread.append(float(brightness.std() / points.mean((1, 2, 3)).std()))
    assert spread[0] < 0.7
    assert spread[1] == pytest.approx(1.0, abs=0.1)
    assert spread[2] < 0.8


def test_a_trained_network_of_digits_is_corrected():
    """On the path cut at 0.05 a run starts without the mean of the digits, which are dark: too bright, and further away."""
    path, den = cut(0.05), rg.load("digits8-flow")
    images = digits8("train")[0].reshape(-1, 1, 8, 8)
    first = rg.oracles.Gaussian(rg.paths.Flow(), images.double().mean(0), 0.1)  # of pure noise it says the mean
    corrected = rg.guide.first_network(on_path(den, path), first)
    plan = rg.recipes.one_more_step.plan(rg.plan("dpmpp_2m", path, nfe=26))
    plain, mended = (rg.sample(corrected, one, n=256) for one in (plan[1:], plan))
    assert plain.mean() - images.mean() > 0.025
    assert (mended.mean() - images.mean()).abs() < 0.015
    distances = [rg.quality.energy_distance(made.double(), images[:500].double()).value for made in (plain, mended)]
    assert distances[1] < 0.7 * distances[0]


def test_what_cannot_be_corrected_is_refused():
    path = cut(0.05)
    with pytest.raises(BadValue, match="pure noise"):
        rg.recipes.one_more_step.plan(rg.plan("euler", rg.paths.Flow(), nfe=5))
    with pytest.raises(BadValue, match="holds signal"):
        rg.guide.first_network(gaussian(path), gaussian(path))
    labelled = rg.oracles.FiniteData(rg.paths.Flow(), torch.zeros(2, 1, 8, 8), labels=[0, 1])
    with pytest.raises(BadValue, match="null values 10 and -1"):
        rg.guide.first_network(rg.load("digits8-flow"), labelled)
    with pytest.raises(ShapeError):
        rg.guide.first_network(gaussian(path), rg.oracles.Gaussian(rg.paths.Flow(), torch.zeros(2), 1.0))
    with pytest.raises(PlanError, match="'first'"):
        rg.sample(gaussian(path), corrected(path)[1])
