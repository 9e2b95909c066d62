"""The oracles against autograd, quadrature, brute force and the definition: they judge everything else."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import retrograde as rg
from retrograde.denoisers import KINDS
from retrograde.errors import BadValue, ShapeError, UnknownName

# oracles are exact for Gaussian noise; a path with another law of noise is judged by its own tests
GAUSSIAN = [name for name in rg.paths.names() if "score" in rg.paths.get(name).identities]
DOUBLE = torch.float64
X = torch.tensor([[0.3, -0.8], [1.7, 0.4], [-2.2, 1.1]], dtype=DOUBLE)


def levels(path: rg.paths.Path) -> list[float]:
    return [path.time_of_sigma(s) for s in (0.05, 0.4, 2.0)]


@pytest.mark.parametrize("path_name", GAUSSIAN)
def test_the_score_is_the_gradient_of_log_prob(path_name, path_called, mixture, anchor_for):
    path = path_called(path_name)
    beside = anchor_for(path, *X.shape)
    for t in levels(path):
        x = X.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(mixture(path).log_prob(x, t, **beside).sum(), x)
        for kind in KINDS:
            assert torch.allclose(mixture(path, kind).predict(X, t, beside).score, gradient, rtol=1e-8, atol=1e-8), kind


@pytest.mark.parametrize("path_name", GAUSSIAN)
def test_all_readings_of_all_kinds_agree(path_name, path_called, mixture, anchor_for):
    path = path_called(path_name)
    kinds, beside = (*KINDS, *path.targets), anchor_for(path, *X.shape)
    for t in levels(path):
        exact = {kind: mixture(path, kind).predict(X, t, beside).value for kind in kinds}
        for kind in kinds:
            prediction = mixture(path, kind).predict(X, t, beside)
            for read in kinds:
                assert torch.allclose(prediction.read(read), exact[read], rtol=1e-7, atol=1e-9), (kind, read)
        x_again = path.a(t) * exact["data"] + path.s(t) * exact["noise"] + path.b(t) * beside.get("anchor", 0.0)
        assert torch.allclose(x_again, X, atol=1e-12)


def test_times_may_differ_within_a_batch(mixture, path_called, anchor_for):
    for path_name in GAUSSIAN:
        path = path_called(path_name)
        times, beside = levels(path), anchor_for(path, *X.shape)
        singles = [{name: y[i : i + 1] for name, y in beside.items()} for i in range(3)]
        for kind in (*KINDS, *path.targets):
            den = mixture(path, kind)
            together = den.predict(X, torch.tensor(times, dtype=DOUBLE), beside)
            for i, t in enumerate(times):
                alone = den.predict(X[i : i + 1], t, singles[i])
                for read in KINDS:
                    assert torch.allclose(together.read(read)[i], alone.read(read)[0], rtol=1e-9, atol=1e-12)
            many = den.log_prob(X, torch.tensor(times, dtype=DOUBLE), **beside)
            assert torch.allclose(many[1], den.log_prob(X[1:2], times[1], **singles[1])[0])


@settings(max_examples=25, deadline=None)
@given(
    means=st.lists(st.floats(-2, 2), min_size=1, max_size=4),
    log_variance=st.floats(-3, 1),
    sigma=st.floats(0.05, 5.0),
)
def test_densities_integrate_to_one(means, log_variance, sigma):
    path = rg.paths.VP()
    t = path.time_of_sigma(sigma)
    den = rg.oracles.GaussianMixture(path, torch.tensor(means)[:, None], math.exp(log_variance))
    grid = torch.linspace(-14, 14, 20001, dtype=DOUBLE)
    density = den.log_prob(grid[:, None], t).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1.0, abs=1e-9)
    # the posterior mean, by Bayes on a grid of x_0
    at = torch.tensor([[0.7]], dtype=DOUBLE)
    clean = rg.oracles.GaussianMixture(path, torch.tensor(means)[:, None], math.exp(log_variance)).log_prob(
        grid[:, None], 0.0
    )
    joint = (clean - 0.5 * ((at[0, 0] - path.a(t) * grid) / path.s(t)) ** 2).exp()
    mean = torch.trapezoid(joint * grid, grid) / torch.trapezoid(joint, grid)
    assert float(den.predict(at, t).data) == pytest.approx(float(mean), abs=1e-8)


@pytest.mark.parametrize("noise_std", [0.1, 0.7])
def test_the_posterior_equals_the_conditional_on_a_grid(noise_std, mixture):
    path = rg.paths.EDM()
    den = mixture(path)
    operator, y = torch.tensor([[0.6, -1.1]], dtype=DOUBLE), torch.tensor([0.4], dtype=DOUBLE)
    posterior = den.posterior(operator, y, noise_std)
    axis = torch.linspace(-6, 6, 601, dtype=DOUBLE)
    points = torch.cartesian_prod(axis, axis)
    log_joint = den.log_prob(points, 0.0) - 0.5 * ((points @ operator[0] - y) / noise_std) ** 2
    weights = torch.softmax(log_joint, 0)
    mean = weights @ points
    spread = (points - mean).T @ ((points - mean) * weights[:, None])
    exact_mean, exact_spread = posterior.moments()
    assert torch.allclose(exact_mean, mean, atol=1e-6)
    assert torch.allclose(exact_spread, spread, atol=1e-6)
    area = (axis[1] - axis[0]) ** 2
    assert torch.allclose(posterior.log_prob(points, 0.0).exp() * area, weights, atol=1e-9)


def test_the_flow_of_a_gaussian_is_that_of_the_equation(path_called, anchor_for):
    covariance = torch.tensor([[0.9, 0.4], [0.4, 0.5]])
    for path_name in GAUSSIAN:
        path = path_called(path_name)
        den = rg.oracles.Gaussian(path, torch.tensor([0.5, -1.0]), covariance)
        t, s = path.time_of_sigma(3.0), path.time_of_sigma(0.2)
        edm = rg.oracles.Gaussian(rg.paths.EDM(), torch.tensor([0.5, -1.0]), covariance)

        def slope(sigma: float, y: np.ndarray, edm: rg.oracles.GaussianMixture = edm) -> np.ndarray:
            y_t = torch.from_numpy(y.reshape(-1, 2))
            return edm.predict(y_t, sigma).noise.numpy().ravel()

        beside = anchor_for(path, *X.shape)
        y = beside.get("anchor", torch.zeros_like(X))
        start = ((X - path.b(t) * y) / path.a(t)).numpy().ravel()
        exact = solve_ivp(slope, (3.0, 0.2), start, method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(-1, 2)
        there = path.a(s) * exact + path.b(s) * y.numpy()
        assert np.allclose(den.flow(X, t, s, **beside).numpy(), there, atol=1e-8), path_name
        assert torch.allclose(den.flow(den.flow(X, t, s, **beside), s, t, **beside), X, atol=1e-10)
        to_data, near = den.flow(X, t, None, **beside), path.time_of_sigma(1e-5)
        assert torch.allclose((den.flow(X, t, near, **beside) - path.b(near) * y) / path.a(near), to_data, atol=1e-4)
    with pytest.raises(BadValue, match="a mixture of 2 components"):
        rg.oracles.GaussianMixture(path, torch.zeros(2, 2), 1.0).flow(X, t, s)


def test_finite_data_is_a_softmax_over_the_points():
    path = rg.paths.VP()
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0], [2.0, 2.0]], dtype=DOUBLE)
    den = rg.oracles.FiniteData(path, points)
    for t in (0.02, 0.3, 0.8):
        a, s = path.a(t), path.s(t)
        logits = -0.5 * ((X[:, None] - a * points[None]) ** 2).sum(-1) / s**2
        weights = torch.softmax(logits, dim=1)
        assert torch.allclose(den.predict(X, t).data, weights @ points, atol=1e-10)
        log_prob = torch.logsumexp(logits, 1) - math.log(4) - math.log(2 * math.pi * s**2)
        assert torch.allclose(den.log_prob(X, t), log_prob, atol=1e-8)


@pytest.mark.parametrize("path_name", ["flow", "trigonometric"])
def test_both_ends_are_limits(path_name, path_called, mixture):
    path = path_called(path_name)
    mean, _ = mixture(path).moments()
    for kind in KINDS:
        noisy = mixture(path, kind).predict(X, 1.0)
        near = mixture(path, kind).predict(X, 1.0 - 1e-7)
        assert torch.allclose(noisy.value, near.value, atol=1e-5), kind
        if kind not in ("noise", "score"):
            assert torch.allclose(noisy.data, mean.expand_as(X), atol=1e-9)
        assert torch.allclose(noisy.noise, X, atol=1e-9)
        clean = mixture(path, kind).predict(X, 0.0)
        near = mixture(path, kind).predict(X, 1e-7)
        assert torch.allclose(clean.value, near.value, atol=1e-5), kind
        if kind != "score":
            assert torch.allclose(clean.data, X, atol=1e-9)


def test_a_point_mass_has_finite_predictions_at_its_own_level():
    path = rg.paths.Flow()
    den = rg.oracles.FiniteData(path, torch.tensor([[1.0, -1.0]]))
    x = torch.tensor([[1.0, -1.0]], dtype=DOUBLE)
    assert torch.allclose(den.predict(x, 0.0).data, x)
    assert den.predict(x, 0.0).data.isfinite().all()


def low_rank() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(3, 5, 2, generator=generator, dtype=DOUBLE))[0]
    return basis, torch.tensor([[1.0, 0.3], [0.5, 0.5], [2.0, 0.1]]).double(), torch.tensor([0.05, 0.2, 0.01]).double()


def same(one: rg.oracles.GaussianMixture, other: rg.oracles.GaussianMixture, read: Callable) -> bool:
    return torch.allclose(read(one), read(other), rtol=1e-8, atol=1e-8)


def test_every_form_of_covariance_is_the_same_mixture():
    path = rg.paths.VP()
    generator = torch.Generator().manual_seed(0)
    means, x = torch.randn(3, 5, generator=generator), 2 * torch.randn(6, 5, generator=generator, dtype=DOUBLE)
    thin = rg.oracles.GaussianMixture(path, means, low_rank())
    full = rg.oracles.GaussianMixture(path, means, thin.covariance())
    diagonals = torch.rand(3, 5, generator=generator) + 0.1
    diagonal = rg.oracles.GaussianMixture(path, means, diagonals)
    dense = rg.oracles.GaussianMixture(path, means, torch.diag_embed(diagonals))
    round_ = rg.oracles.GaussianMixture(path, means, 0.7)
    each = rg.oracles.GaussianMixture(path, means, torch.full((3, 5), 0.7))
    for one, other in ((thin, full), (diagonal, dense), (round_, each)):
        for t in (0.05, 0.5, 1.0):
            assert same(one, other, lambda d, t=t: d.predict(x, t).value)
            assert same(one, other, lambda d, t=t: d.predict(x, t).score)
            assert same(one, other, lambda d, t=t: d.log_prob(x, t))
        assert same(one, other, lambda d: d.moments()[1])


@pytest.mark.parametrize("form", ["thin", "full", "diagonal", "round"])
def test_samples_have_the_moments(form):
    path, n = rg.paths.VP(), 200_000
    means = torch.tensor([[1.0, 0, 0, 2, 0], [0, -1, 0, 0, 1], [0.5, 0, 3, 0, 0]])
    covariances = {"thin": low_rank(), "diagonal": torch.rand(3, 5) + 0.1, "round": 0.4}.get(form)
    if form == "full":
        covariances = rg.oracles.GaussianMixture(path, means, low_rank()).covariance()
    den = rg.oracles.GaussianMixture(path, means, covariances, torch.tensor([1.0, 2.0, 3.0]))
    x = den.sample(n, seed=3)
    mean, covariance = den.moments()
    assert torch.allclose(x.mean(0), mean, atol=4 * float(covariance.diagonal().max().sqrt()) / math.sqrt(n))
    assert torch.allclose(x.T.cov(), covariance, atol=0.03)
    assert torch.equal(den.sample(7, seed=3), den.sample(7, seed=3))


def test_labels_restrict_the_components(mixture):
    path = rg.paths.VP()
    means = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    den = rg.oracles.GaussianMixture(path, means, 0.2, torch.tensor([1.0, 2.0, 3.0]), labels=[0, 1, 0])
    own = rg.oracles.GaussianMixture(path, means[[0, 2]], 0.2, torch.tensor([1.0, 3.0]))
    everything = rg.oracles.GaussianMixture(path, means, 0.2, torch.tensor([1.0, 2.0, 3.0]))
    assert torch.allclose(den(X, 0.3, label=0).data, own(X, 0.3).data)
    assert torch.allclose(den(X, 0.3).data, everything(X, 0.3).data)
    mixed = den(X, 0.3, label=torch.tensor([0, -1, 1]))
    assert torch.allclose(mixed.data[0], own(X, 0.3).data[0])
    assert torch.allclose(mixed.data[1], everything(X, 0.3).data[1])


def test_images_keep_their_shape():
    path = rg.paths.Flow()
    den = rg.oracles.GaussianMixture(path, torch.randn(2, 3, 4, 4), 0.5)
    x = torch.randn(5, 3, 4, 4)
    assert den.shape == (3, 4, 4)
    assert den.predict(x, 0.4).velocity.shape == x.shape
    assert den.predict(x, 0.4).value.dtype == torch.float32
    assert den.sample(6).shape == (6, 3, 4, 4)
    assert den.log_prob(x, 0.4).shape == (5,)


def test_mistakes_are_explained():
    path = rg.paths.VP()
    make = rg.oracles.GaussianMixture
    with pytest.raises(ShapeError, match=r"means\[None\]"):
        make(path, torch.zeros(2), 1.0)
    with pytest.raises(BadValue, match="2 positive numbers"):
        make(path, torch.zeros(2, 2), 1.0, torch.tensor([1.0, 0.0]))
    with pytest.raises(BadValue, match="variances >= 0"):
        make(path, torch.zeros(1, 2), torch.tensor([[1.0, -0.1]]))
    with pytest.raises(BadValue, match="orthonormal"):
        make(path, torch.zeros(1, 2), (torch.ones(1, 2, 1), torch.ones(1, 1), torch.ones(1)))
    with pytest.raises(ShapeError, match="covariances of shape"):
        make(path, torch.zeros(2, 3), torch.ones(4))
    with pytest.raises(ShapeError, match="label every component"):
        make(path, torch.zeros(2, 3), 1.0, labels=[1])
    with pytest.raises(UnknownName, match="unknown prediction 'eps'"):
        make(path, torch.zeros(2, 3), 1.0, predicts="eps")
    with pytest.raises(ShapeError, match="reshape it to the means"):
        make(path, torch.zeros(2, 3), 1.0).predict(torch.zeros(1, 2), 0.5)
