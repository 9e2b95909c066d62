"""Methods that go to and fro, on Gaussian data: the laws of their chains are known, and so is what they miss."""

import math

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.errors import BadValue
from retrograde.noise import Bulk


def solved(problem, method, n=1000, nfe=100, **settings):
    return inverse.solve(
        problem.prior, problem.measurement, method, n, nfe, noise=Bulk, dtype=torch.float64, **settings
    ).samples


def test_daps_is_exact_for_data_of_one_spread_and_too_wide_by_the_flow(gaussian):
    """Where N(D, r^2) is the law of x_0 given x_t, its chain has the law of y at every level; by the flow it has not."""
    problem = gaussian(scales=(1.3,) * 4)
    mean, covariance = problem.errors(solved(problem, "daps", inner=1, spread=1.3))
    assert mean < 0.08
    assert covariance < 0.15
    for biased in ({"inner": 5}, {"inner": 5, "spread": 1.3}):
        assert problem.errors(solved(problem, "daps", n=400, **biased))[1] > 0.3


def test_daps_is_the_published_loop(gaussian):
    """With one evaluation at a level: guess, draw given y, noise to the next level."""
    problem = gaussian(m=2)
    task = inverse.Task(6, 0, range(3), Bulk(0, range(3)), dtype=torch.float64)
    posed = inverse.get("daps").write(problem.prior, problem.measurement, task, inner=1)
    start = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows = [rg.plan("ddim", problem.prior.path, nfe=6).rows[k].time for k in range(6)]
    silent = [row.__class__(**{**row.__dict__, "noises": ()}) for row in posed.plan.rows]
    assert [row.time for row in silent] == pytest.approx(rows)
    path, A, y = posed.plan.path, problem.measurement.linear.matrix(), problem.measurement.y
    x, eye = start, torch.eye(4, dtype=torch.float64)
    for t, t_next in zip(rows, [*rows[1:], None], strict=True):
        sigma = path.sigma(t)
        C = torch.linalg.inv(A.T @ A / problem.measurement.std**2 + eye / sigma**2)
        mean = (problem.prior(x, t).data / sigma**2 + y @ A / problem.measurement.std**2) @ C
        x = mean if t_next is None else path.a(t_next) * mean
        row = posed.plan.rows[rows.index(t)]
        a, s = (1.0, 0.0) if t_next is None else (path.a(t_next), path.s(t_next))
        drawn = row.noises[0](row.noises[0](eye))
        assert torch.allclose(drawn, a**2 * C + s**2 * eye, atol=1e-9)
    made = start
    for row in silent:
        made = row.outputs[0](problem.prior(made, row.time).data) + row.shift
    assert torch.allclose(made, x, atol=1e-9)


def test_split_gibbs_has_the_posterior_of_more_noise(gaussian):
    """At one rho the law is p(x) N(y; A x, std^2 + rho^2 A A^T), up to DDPM's error, which goes with its rows' length."""
    problem = gaussian(scales=(1.0, 0.8, 0.5, 0.3), turned=False)
    A, y, std = problem.measurement.linear.matrix(), problem.measurement.y, problem.measurement.std
    law = problem.prior.posterior(A, y, math.hypot(std, 0.8)).moments()
    found = {}
    for inner in (6, 24):
        x = solved(problem, "pnpdm", nfe=8 * inner, inner=inner, rho=(0.8, 0.8))
        mean = float((x.mean(0) - law[0]).norm() / law[1].trace().sqrt())
        found[inner] = mean, float((torch.cov(x.T) - law[1]).norm() / law[1].norm())
    assert found[24][0] < 0.1
    assert found[24][1] < 0.5 * found[6][1] < 0.5
    assert problem.errors(x)[0] > 0.2  # the posterior itself is another law


def test_repeats_of_repaint_bring_what_is_not_known_to_agree():
    """Of two numbers with correlation r the unknown one has mean y (1 - sqrt(1 - r^2))/r at first, r y with many repeats."""
    r, y = 0.9, 1.5
    prior = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(2), torch.tensor([[1.0, r], [r, 1.0]]))
    seen = operators.Measurement(
        operators.Matrix(torch.tensor([[1.0, 0.0]])), torch.tensor([y]), operators.GaussianNoise(0.0)
    )
    found = {}
    for repeats, nfe in ((1, 100), (8, 800)):
        samples = inverse.solve(prior, seen, "repaint", 600, nfe, noise=Bulk, repeats=repeats).samples
        assert float((samples[:, 0] - y).abs().max()) < 0.1
        found[repeats] = float(samples[:, 1].mean()), float(samples[:, 1].var())
    assert found[1][0] == pytest.approx(y * (1.0 - math.sqrt(1.0 - r * r)) / r, abs=0.08)
    assert found[8][0] == pytest.approx(r * y, abs=0.1)
    assert found[8][1] == pytest.approx(1.0 - r * r, abs=0.06)


def test_mistakes_are_mended(gaussian):
    problem = gaussian()
    with pytest.raises(BadValue, match="inner >= 1"):
        solved(problem, "daps", n=2, inner=0)
    with pytest.raises(BadValue, match="first >= second"):
        solved(problem, "pnpdm", n=2, rho=(0.1, 1.0))
