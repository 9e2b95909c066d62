"""The oracle between two laws against the definition, and a network with two heads against the oracle."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import Coupled, TwoHeads, on_path
from retrograde.errors import BadValue, PlanError, ShapeError, UnknownName

PATHS = [
    rg.paths.Interpolant(),
    rg.paths.Interpolant("trigonometric", "parabola", 2.0),
    rg.paths.Interpolant("encoding_decoding", "sine"),
]
X = torch.tensor([[0.3, -0.4], [1.1, 0.8], [-0.9, 0.2]], dtype=torch.float64)


def ends(path: rg.paths.Path) -> Coupled:
    """Two components each, drawn independently."""
    data = rg.oracles.GaussianMixture(path, torch.tensor([[1.5, 0.0], [-1.0, 1.0]]), torch.tensor([0.2, 0.3]), [0.7, 0.3])
    start = rg.oracles.GaussianMixture(path, torch.tensor([[0.0, -2.0], [0.5, 2.0]]), torch.tensor([0.4, 0.1]))
    return rg.oracles.independent(path, data, start)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.shape)
def test_the_score_is_the_gradient_of_the_density(path):
    den = ends(path)
    for t in (0.1, 0.45, 0.8):
        x = X.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad(den.log_prob(x, t).sum(), x)
        assert torch.allclose(den.predict(X, t).score, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.shape)
def test_the_density_follows_the_drift(path):
    """The continuity equation dp/dt = -div(p v), pointwise."""
    den, h = ends(path), 1e-5
    for t in (0.2, 0.7):
        change = (den.log_prob(X, t + h).exp() - den.log_prob(X, t - h).exp()) / (2 * h)
        flux = torch.zeros(len(X), dtype=torch.float64)
        for axis in range(2):
            step = torch.zeros(2, dtype=torch.float64)
            step[axis] = h
            up, down = ((den.predict(p, t).velocity[:, axis] * den.log_prob(p, t).exp()) for p in (X + step, X - step))
            flux += (up - down) / (2 * h)
        assert torch.allclose(change, -flux, rtol=1e-5, atol=1e-7)


def test_the_means_are_those_of_the_draws():
    path = PATHS[0]
    den, n, t = ends(path), 300_000, 0.4
    data, start = den.sample(n, seed=1)
    eps = torch.randn(n, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x_t = path.a(t) * data + path.b(t) * start + path.s(t) * eps
    cell = (x_t - torch.tensor([0.4, 0.3])).abs().amax(1) < 0.06
    found = den.predict(x_t[cell], t)
    assert int(cell.sum()) > 300
    for drawn, mean in ((data, found.data), (eps, found.noise)):
        error = (drawn[cell].mean(0) - mean.mean(0)).abs()
        assert bool((error < 4 * drawn[cell].std(0) / math.sqrt(int(cell.sum()))).all())


def test_coupled_ends_are_not_independent_ones():
    """Pairs joined by y = x_0 + m: all of x_t - b m is x_0 and noise."""
    path, d = PATHS[0], 2
    shift, spread = torch.tensor([3.0, -1.0], dtype=torch.float64), 0.5 * torch.eye(d, dtype=torch.float64)
    joint = torch.cat([torch.cat([spread, spread], 1), torch.cat([spread, spread], 1)])[None]
    den = Coupled(path, torch.stack([torch.zeros(d), shift])[None], joint)
    t = 0.3
    plain = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(d), 0.5)
    at = rg.paths.VP().time_of_sigma(path.s(t))
    moved = (X - path.b(t) * shift) * rg.paths.VP().a(at)
    assert torch.allclose(den.predict(X, t).data, plain.predict(moved, at).data, rtol=1e-9)


@pytest.mark.parametrize("path", PATHS, ids=lambda p: p.shape)
@pytest.mark.parametrize("answers", [("velocity", "noise"), ("noise", "velocity"), ("data", "noise"), ("velocity", "data")])
def test_two_heads_tell_everything(answers, path):
    den = ends(path)

    def network(x_t: torch.Tensor, told: torch.Tensor) -> tuple[torch.Tensor, ...]:
        exact = den.predict(x_t, told.double())
        return tuple(exact.read(kind) for kind in answers)

    heads = TwoHeads(network, path, (2,), answers)
    for t in (0.125, 0.875):  # told as float32
        if "velocity" in answers and path.shape == "encoding_decoding" and t > 0.5:
            continue  # there x_t holds no data, and neither does its velocity
        exact, found = den.predict(X, t), heads.predict(X, t)
        for kind in ("data", "noise", "velocity", "score"):
            assert torch.allclose(found.read(kind), exact.read(kind), rtol=1e-6, atol=1e-6), (kind, t)
    batch = torch.tensor([0.125, 0.375, 0.25], dtype=torch.float64)
    assert torch.allclose(heads.predict(X, batch).data, den.predict(X, batch).data, rtol=1e-6, atol=1e-6)


def test_guidance_moves_both_heads():
    path = PATHS[0]

    def network(x_t: torch.Tensor, told: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x_t + label[:, None], 2.0 * x_t - label[:, None]

    den = TwoHeads(network, path, (2,), conditions={"label": 0.0})
    guided = rg.guide.cfg(den, 3.0).predict(X, 0.5, {"label": torch.ones(3)})
    assert torch.allclose(guided.velocity, X + 3.0)
    assert torch.allclose(guided.noise, 2.0 * X - 3.0)


def test_mistakes_are_explained():
    path = PATHS[0]
    with pytest.raises(ShapeError, match="data first|stack"):
        Coupled(path, torch.zeros(1, 2, 2), torch.eye(2)[None])
    with pytest.raises(UnknownName, match="answer"):
        TwoHeads(lambda x, t: (x, x), path, (2,), ("velocity", "eta"))
    with pytest.raises(ShapeError, match="outputs"):
        TwoHeads(lambda x, t: (x, x[:, :1]), path, (2,)).predict(X, 0.5)
    late = TwoHeads(lambda x, t: (x, x), PATHS[2], (2,), ("velocity", "noise")).predict(X, 0.9)
    with pytest.raises(BadValue, match="determine"):
        late.read("data")
    with pytest.raises(BadValue, match="does not know its anchor"):
        on_path(ends(path), rg.paths.VP()).predict(X, 0.5, {"anchor": X})
    with pytest.raises(PlanError, match="anchor"):
        rg.sample(ends(path), rg.plan("interpolant_ode", path, nfe=4), n=3)
