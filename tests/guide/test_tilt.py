"""Guidance by gradients: exact where the classifier or the loss is, and measured where it is not."""

import pytest
import torch

import retrograde as rg
from retrograde.errors import ShapeError

PATH = rg.paths.VP()
KINDS = ("data", "noise", "v", "velocity")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path_name", ["vp", "edm", "flow"])
def test_an_exact_classifier_makes_the_conditional_model(path_name, kind, path_called, labelled, x):
    """p(label | x_t) by Bayes' rule of two log densities; weight w is classifier-free guidance of weight w."""
    path = path_called(path_name)
    den, t = labelled(path, kind), path.time_of_sigma(0.6)
    only = rg.oracles.GaussianMixture(path, den.means[[0, 2]], torch.tensor([0.3, 0.2]))
    for weight in (1.0, 2.5):
        guided = rg.guide.classifier(den, lambda x, t: only.log_prob(x, t) - den.log_prob(x, t), weight)
        expected = rg.guide.cfg(den, weight)(x, t, label=0)
        assert torch.allclose(guided(x, t).value, expected.value, rtol=1e-8, atol=1e-8)


def exact(path: rg.paths.Path, A: torch.Tensor, y: torch.Tensor, noise: float, spread: bool = True):
    """A Gaussian, it given y = A x_0 + noise n, and the loss that says so; without `spread` the usual one."""
    mean = torch.tensor([0.5, -0.3], dtype=torch.float64)
    C = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=torch.float64)
    gain = C @ A.T @ torch.linalg.inv(A @ C @ A.T + noise**2 * torch.eye(len(A), dtype=torch.float64))
    prior = rg.oracles.Gaussian(path, mean, C)
    given = rg.oracles.Gaussian(path, mean + gain @ (y - A @ mean), C - gain @ A @ C)

    def measure(data, t):
        a, s = path.a(t), path.s(t)
        K = a * C @ torch.linalg.inv(a * a * C + s * s * torch.eye(2, dtype=torch.float64))
        left = (C - K @ (a * C)) if spread else torch.zeros(2, 2, dtype=torch.float64)
        metric = torch.linalg.inv(A @ left @ A.T + noise**2 * torch.eye(len(A), dtype=torch.float64))
        miss = y - data @ A.T
        return 0.5 * torch.einsum("ni,ij,nj->n", miss, metric, miss)

    return prior, given, measure


@pytest.mark.parametrize("path_name", ["vp", "edm", "flow"])
def test_an_exact_loss_makes_the_gaussian_given_the_measurement(path_name, path_called, x):
    path = path_called(path_name)
    A, y = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([1.2], dtype=torch.float64)
    prior, given, measure = exact(path, A, y, 0.3)
    guided = rg.guide.loss(prior, measure)
    for sigma in (0.1, 0.6, 3.0):
        t = path.time_of_sigma(sigma)
        assert torch.allclose(guided(x, t).data, given(x, t).data, rtol=1e-7, atol=1e-7)
    naive = rg.guide.loss(prior, exact(path, A, y, 0.3, spread=False)[2])
    assert (naive(x, t).data - given(x, t).data).abs().max() > 0.1


def test_a_run_by_the_exact_loss_is_the_run_of_the_posterior():
    A, y = torch.tensor([[1.0, 0.5]], dtype=torch.float64), torch.tensor([1.2], dtype=torch.float64)
    prior, given, measure = exact(PATH, A, y, 0.3)
    plan = rg.plan("dpmpp_2m", PATH, nfe=8)
    guided = rg.record(rg.guide.loss(prior, measure), plan, n=4, dtype=torch.float64)
    assert torch.allclose(guided.samples, rg.sample(given, plan, n=4, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    assert guided.ledger.nfe == 8
    assert not guided.samples.requires_grad
    assert not guided.means[-1].requires_grad


def test_no_weight_is_the_denoiser_bit_by_bit(labelled):
    den, plan = labelled(PATH), rg.plan("dpmpp_2m", PATH, nfe=6)
    free = rg.sample(den, plan, n=3)
    for make in (rg.guide.classifier, rg.guide.loss):
        assert torch.equal(rg.sample(make(den, lambda x, t: x.square().sum(1), 0.0), plan, n=3), free)


def test_it_nests_with_other_guidance_and_items_have_levels_of_their_own(labelled, x):
    den = labelled(PATH)

    def measure(data, t):
        return data.square().sum(1)

    inner, outer = rg.guide.cfg(rg.guide.loss(den, measure, 0.1), 2.0), rg.guide.loss(rg.guide.cfg(den, 2.0), measure, 0.1)
    for guided in (inner, outer):
        times = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
        together = guided.predict(x, times, {"label": torch.tensor([0, 1, 2])}).data
        for i, t in enumerate(times.tolist()):
            assert torch.allclose(together[i], guided(x[i : i + 1], t, label=i).data[0], rtol=1e-9, atol=1e-9)


def test_gradients_go_through_a_run(labelled):
    guided = rg.guide.loss(labelled(PATH), lambda data, t: data.square().sum(1), 0.1)
    start = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    plan = rg.plan("ddim", PATH, nfe=3)
    (gradient,) = torch.autograd.grad(rg.sample(guided, plan, x=start, gradient="unroll").sum(), start)
    moved = [rg.sample(guided, plan, x=start.detach() + d).sum() for d in (1e-5, -1e-5)]
    assert torch.allclose(gradient.sum(), (moved[0] - moved[1]) / 2e-5, rtol=1e-5)


def test_a_number_for_the_whole_batch_is_refused(labelled, x):
    with pytest.raises(ShapeError, match="one number for each item"):
        rg.guide.loss(labelled(PATH), lambda data, t: data.sum())(x, 0.5)
