"""STSL: its trace is that of the exact covariance, without it it is DPS, its moves are those of the written loop."""

import math

import pytest
import torch

import retrograde as rg
from retrograde import inverse
from retrograde.errors import BadValue
from retrograde.inverse.second_order import MOVED
from retrograde.noise import Bulk

DOUBLE = torch.float64


def posed(problem, n, nfe=8, **settings):
    prior, measurement = problem[:2]
    task = inverse.Task(nfe, 0, range(n), Bulk(0, range(n)), dtype=DOUBLE)
    return inverse.get("stsl").write(prior, measurement, task, **settings)


def test_the_trace_is_that_of_the_exact_covariance(mixture):
    """The mean over probes, at one state: within three standard errors of (s^2/a) tr dD/dx; with too long ones it is not."""
    problem, n = mixture(3), 4000
    prior, x = problem[0], torch.tensor([[0.3, -0.5, 0.8, 0.1]], dtype=DOUBLE)
    t = prior.path.time_of_sigma(0.7)
    a, s = prior.path.a(t), prior.path.s(t)
    J = torch.autograd.functional.jacobian(lambda z: prior(z[None], t).data[0], x[0])
    exact = float(s * s / a * J.trace())

    def off(probe):
        refined = posed(problem, n, probe=probe).denoiser
        found = refined.trace(prior(x.expand(n, 4), t), lambda z: prior(z, t), 0)
        return abs(float(found.mean()) - exact) / float(found.std() / math.sqrt(n))

    assert off(0.05) < 3.0
    assert off(3.0) > 6.0


@pytest.mark.parametrize("iterations", [1, 3])
def test_it_is_the_written_loop(mixture, iterations):
    """Steps of the state down the loss at each level, then DPS's row from where they came to; without trace that is DPS."""
    problem = mixture(1)
    prior, measurement = problem[:2]
    path, zeta = prior.path, 0.7
    made = posed(problem, 3, nfe=1 + 4 * iterations, zeta=zeta, lam=0.0, iterations=iterations)
    start = torch.randn(3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(3))
    *_, last = rg.steps(made.plan, made.denoiser, x=start, noise=Bulk)
    x, times, drawn = start, made.plan.times, Bulk(0, range(3))
    assert len(times) == 5
    for i, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
        for k in range(iterations):
            at = x.detach().requires_grad_(True)
            data = prior(at, t).data
            (g,) = torch.autograd.grad(measurement.residual(data).norm(dim=1).sum(), at)
            if k < iterations - 1:
                x = (at - zeta * g).detach()  # the path preserves variance
        ab, ab_next = path.a(t) ** 2, path.a(t_next) ** 2
        alpha = ab / ab_next
        mean = (alpha**0.5 * (1 - ab_next) * at + ab_next**0.5 * (1 - alpha) * data).detach() / (1 - ab)
        eps = drawn.draw((4,), (times[i], times[i + 1]), 0, DOUBLE)
        x = mean + ((1 - ab_next) / (1 - ab) * (1 - alpha)) ** 0.5 * eps - zeta * g
    assert torch.allclose(last.x_t, prior(x, times[-1]).data, atol=1e-9)
    if iterations == 1:
        dps = inverse.solve(prior, measurement, "dps", n=3, nfe=5, noise=Bulk)
        ours = inverse.solve(prior, measurement, "stsl", n=3, nfe=5, noise=Bulk, lam=0.0)
        assert torch.equal(ours.samples, dps.samples)


def test_the_trace_falls_where_it_is_asked_to(mixture):
    problem, n = mixture(3), 400
    prior = problem[0]
    t = prior.path.time_of_sigma(0.7)
    x = prior.path.a(t) * prior.sample(n, 2).double() + prior.path.s(t) * torch.randn(
        n, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)
    )

    def spread(lam):
        refined = posed(problem, n, zeta=0.0, lam=lam).denoiser
        moved = x - (refined.predict(x, t, knobs={"likelihood": -1.0, MOVED: 0.0}).data - prior(x, t).data)
        h = 1e-3
        ahead = [(prior(moved + h * e, t).data - prior(moved, t).data) @ e / h for e in torch.eye(4, dtype=DOUBLE)]
        return float(sum(one.mean() for one in ahead))

    assert spread(0.3) < spread(1e-9) < spread(-0.3)


def test_it_counts_what_it_asks(mixture):
    prior, measurement, _ = mixture(0)
    made = inverse.solve(prior, measurement, "stsl", n=2, nfe=21, iterations=2, begun=True)
    assert made.ledger.evaluations == {"mixture": 21, "mixture:backward": 30}
    # the start has the noise that any run of these items begins with, whatever its rows draw from
    task = inverse.Task(21, 7, range(2), Bulk(7, range(2)), dtype=DOUBLE)
    begun = inverse.get("stsl").write(prior, measurement, task, begun=True)
    path, t = prior.path, begun.plan.start
    plain = rg.record(prior, rg.plan("ddpm", path, grid=begun.plan.times), n=2, seed=7, dtype=DOUBLE, noise=Bulk)
    seen = measurement.linear.pseudo_inverse(measurement.y[None])
    assert torch.allclose(begun.start, path.a(t) * seen + plain.trajectory[0])
    with pytest.raises(BadValue, match="iterations"):
        inverse.solve(prior, measurement, "stsl", n=2, nfe=21, iterations=0)


@pytest.mark.slow
def test_with_as_many_evaluations_it_is_as_near_as_dps(distance):
    """In eight of ten problems, for its rows are fewer: with the same rows the trace does not help (see `stsl`)."""
    dps = [distance(seed, "dps", 300) for seed in range(10)]
    rows = [distance(seed, "dps", 300, 30) for seed in range(10)]
    ours = [distance(seed, "stsl", 300) for seed in range(10)]
    assert sum(one <= other for one, other in zip(ours, dps, strict=True)) >= 8
    assert sum(ours) > sum(rows)
    other = [distance(seed, "stsl", 300, lam=-0.03) for seed in range(10)]
    assert sum(other) < sum(rows)
