"""Volumes from a prior of slices: better than slices alone and than no prior, and the exact limits of the step."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.errors import BadValue, ShapeError
from retrograde.inverse.volume import admm_step, along, along_back
from retrograde.noise import Bulk

DOUBLE, SIDE = torch.float64, 10


def phantom(seed):
    """Three ellipsoids in a cube, [side, 1, side, side]: slices of a volume."""
    g = torch.Generator().manual_seed(seed)
    at = torch.linspace(-1.0, 1.0, SIDE, dtype=DOUBLE)
    grid = torch.stack(torch.meshgrid(at, at, at, indexing="ij"), -1)
    made = -torch.ones(SIDE, SIDE, SIDE, dtype=DOUBLE)
    for _ in range(3):
        centre, radii = (torch.rand(2, 3, generator=g, dtype=DOUBLE) - 0.5) * torch.tensor([[0.9], [0.45]], dtype=DOUBLE)
        inside = ((grid - centre) / (radii + 0.475)).square().sum(-1) < 1.0
        made[inside] += 0.5 + 0.5 * torch.rand((), generator=g, dtype=DOUBLE)
    return made.clamp(-1.0, 1.5)[:, None]


@pytest.fixture(scope="module")
def seen():
    """Two views of every slice of a phantom, and a prior of slices of others."""
    train = torch.cat([phantom(seed) for seed in range(100, 130)])
    chosen = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:120]]
    prior = rg.oracles.GaussianMixture(rg.paths.VP(), chosen, 0.1)
    truth = phantom(0)
    A = operators.Slicewise(operators.radon((1, SIDE, SIDE), views=2), SIDE)
    return prior, truth, operators.measure(A, truth, 0.1)


def figures(x, truth):
    """Mean squared error, and the total variation that the differences between slices miss."""
    return float((x - truth).square().mean()), float((along(x[None]) - along(truth[None])).abs().sum())


def without_prior(measurement, lam, steps=40):
    x = torch.zeros(1, *measurement.operator.shape, dtype=DOUBLE)
    split = x.new_zeros(1, 2, x.shape[1] - 1, *x.shape[2:])
    for _ in range(steps):
        x, split = admm_step(measurement, x, split, lam, 1.0, 10)
    return x[0], split[0]


def test_slices_that_agree_are_nearer_than_slices_alone_and_than_no_prior(seen):
    """And between slices they miss half of the total variation at most; z and w begun anew at every level are worse."""
    prior, truth, measurement = seen
    volumes = inverse.Slices(prior, SIDE)

    def solved(**settings):
        made = inverse.solve(volumes, measurement, "mbir", n=1, nfe=20, dtype=DOUBLE, rho=10.0, **settings)
        return figures(made.samples[0], truth)

    joined, alone = solved(lam=1.0), solved(lam=0.0)
    bare = min(figures(without_prior(measurement, lam)[0], truth)[0] for lam in (0.05, 0.2))
    assert joined[0] < 0.9 * bare
    assert joined[0] < 0.5 * alone[0]
    assert joined[1] < 0.5 * alone[1]
    task = inverse.Task(20, 0, range(1), Bulk(0, range(1)), dtype=DOUBLE)
    posed = inverse.get("mbir").write(volumes, measurement, task, lam=1.0, rho=10.0)

    @dataclasses.dataclass(frozen=True, eq=False)
    class Forgetful(rg.guide.Transform):
        def predict(self, *args, **kwargs):
            return dataclasses.replace(self.inner.predict(*args, **kwargs), carried={})

    *_, last = rg.steps(posed.plan, Forgetful(posed.denoiser), 1, 0, dtype=DOUBLE)
    assert figures(last.x_t[0], truth)[0] > 1.1 * joined[0]


def test_without_a_prior_it_comes_to_the_least_total_variation():
    """The duality gap certifies it: primal |y - A x|^2/2 + lam |D x|_1 against the dual of u = rho w, |u| <= lam."""
    g = torch.Generator().manual_seed(0)
    M = torch.randn(5, 4, dtype=DOUBLE, generator=g)
    A = operators.Slicewise(operators.Matrix(M), 6)
    measurement = operators.measure(A, torch.randn(6, 4, dtype=DOUBLE, generator=g).cumsum(0), 0.1)
    lam = 0.7
    x, split = without_prior(measurement, lam, 120)
    primal = 0.5 * measurement.residual(x[None]).square().sum() + lam * along(x[None]).abs().sum()
    u = split[1:2].clamp(-lam, lam)  # rho = 1
    low = torch.linalg.solve(M.T @ M, (A.adjoint(measurement.y[None]) - along_back(u))[0].T).T[None]
    dual = 0.5 * measurement.residual(low).square().sum() + (u * along(low)).sum()
    assert 0.0 <= float(primal - dual) < 1e-3 * float(primal)
    assert float(along(x[None]).abs().sum()) < 0.9 * float(along(A.pseudo_inverse(measurement.y[None])).abs().sum())


def test_alone_every_slice_is_its_own_problem(seen):
    """lam = 0: to rounding the answer of the same step on each slice, and what y does not say is the network's."""
    prior, _, measurement = seen
    each = measurement.operator.each
    x, t = torch.randn(2, 3, 1, SIDE, SIDE, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)), 0.4
    task = inverse.Task(4, 0, range(2), Bulk(0, range(2)))

    def led(depth, y):
        posed = operators.Measurement(operators.Slicewise(each, depth), y, 0.1)
        return inverse.get("mbir").write(inverse.Slices(prior, depth), posed, task, lam=0.0, products=200).denoiser

    whole = led(3, measurement.y[:3])(x, t).data
    data = prior(x.flatten(0, 1), t).data.reshape(x.shape)
    for k in range(3):
        one = operators.Measurement(operators.Slicewise(each, 1), measurement.y[k : k + 1], 0.1)
        alone, _ = admm_step(one, data[:, k : k + 1], x, 0.0, 10.0, 200)
        assert torch.allclose(whole[:, k : k + 1], alone, rtol=0.0, atol=1e-13)  # sums run in another order
        closed = data[:, k] + each.pseudo_inverse(measurement.y[k : k + 1] - each(data[:, k]))
        assert torch.allclose(whole[:, k], closed, atol=1e-6)


def test_slices_remember_what_each_of_them_would_alone():
    """A momentum of guidance inside `Slices`: a run of volumes is that of their slices, row by row, cut and gone on with."""
    path = rg.paths.VP()
    classes = rg.oracles.GaussianMixture(path, torch.tensor([[-2.0, 0.5], [2.0, 0.0], [0.0, 2.0]]), 0.3, labels=[0, 1, 0])
    guided = rg.guide.apg(classes, 4.0, momentum=-0.6)
    plan, x = rg.plan("ddim", path, nfe=6), torch.randn(2, 3, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    volumes, labels = inverse.Slices(guided, 3), [0, 1]

    def run(den, x, condition):
        *_, last = rg.steps(plan, den, x=x, condition=condition)
        return last

    whole = run(volumes, x, labels)
    alone = run(guided, x.flatten(0, 1), [0, 0, 0, 1, 1, 1]).x_t.reshape(x.shape)
    assert torch.allclose(whole.x_t, alone, rtol=0.0, atol=1e-12)
    assert all(len(kept) == 2 for kept in whole.memory.carried.values())  # one entry for each volume
    forgetful = run(inverse.Slices(rg.guide.apg(classes, 4.0, momentum=0.0), 3), x, labels).x_t
    assert float((forgetful - alone).abs().max()) > 0.01


def test_the_adjoint_of_differences_and_mistakes():
    x, v = torch.randn(2, 4, 3, dtype=DOUBLE), torch.randn(2, 3, 3, dtype=DOUBLE)
    assert torch.allclose((along(x) * v).sum(), (x * along_back(v)).sum())
    prior = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(2), 1.0)
    with pytest.raises(BadValue, match="slice"):
        inverse.Slices(prior, 0)
    with pytest.raises(ShapeError, match="depth"):
        operators.make("slices:blur", (4,))
    volumes = inverse.Slices(prior, 3)
    m = operators.measure(operators.Matrix(torch.eye(6, dtype=DOUBLE), (3, 2)), torch.zeros(3, 2, dtype=DOUBLE), 0.1)
    with pytest.raises(BadValue, match="rho"):
        inverse.solve(volumes, m, "mbir", n=1, nfe=4, rho=0.0)
    assert inverse.solve(volumes, m, "mbir", n=2, nfe=4).ledger.evaluations == {"gaussian": 4}
