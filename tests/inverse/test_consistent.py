"""SITCOM on Gaussian data: the state that it comes to is the solution of a linear system."""

import pytest
import torch

import retrograde as rg
from retrograde import inverse
from retrograde.errors import BadValue
from retrograde.noise import Bulk


def posed(problem, n, nfe, **settings):
    task = inverse.Task(nfe, 0, range(n), Bulk(0, range(n)), dtype=torch.float64)
    return inverse.get("sitcom").write(problem.prior, problem.measurement, task, **settings)


def test_the_state_settles_where_the_linear_system_says(gaussian):
    """D(v) = D(x) + J (v - x): v = x + (J^T A^T A J + lam)^-1 J^T A^T (y - A D(x)), and D' = D(v)."""
    problem = gaussian(scales=(1.2, 0.9, 0.7, 0.5))
    prior, A = problem.prior, problem.measurement.linear.matrix()
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = prior.path.time_of_sigma(1.0)
    J = torch.autograd.functional.jacobian(lambda z: prior(z[None], t).data[0], x[0])
    free = prior(x, t).data
    B, lam = A @ J, 0.3
    found = posed(problem, 3, 121, inner=120, lam=lam, lr=0.08, stop=0.0).denoiser(x, t).data
    v = torch.linalg.solve(B.T @ B + lam * torch.eye(4), B.T @ (problem.measurement.y - free @ A.T).T)
    exact = free + (J @ v).T
    assert float((found - exact).norm() / (exact - free).norm()) < 0.02


def test_items_that_agree_stay(gaussian):
    """An item that explains y within the noise is not moved; others are, until they do."""
    problem = gaussian(scales=(1.2, 0.9, 0.7, 0.5))
    prior, m = problem.prior, problem.measurement
    t = prior.path.time_of_sigma(0.05)
    good = m.linear.pseudo_inverse(m.y[None]) + problem.mean - m.linear.pseudo_inverse(m.linear(problem.mean[None]))
    x = prior.path.a(t) * torch.cat([good, good + 0.8])
    agreeing = posed(problem, 2, 41, inner=40, stop=1.0).denoiser
    before, after = prior(x, t).data, agreeing(x, t).data
    assert torch.equal(after[0], before[0])
    misfits = [m.residual(one).square().sum(1) / (2 * m.std**2) for one in (before, after)]
    assert float(misfits[0][1]) > 1.2
    assert float(misfits[1][1]) < 1.2


def test_rows_noise_the_answer_anew(gaussian):
    problem = gaussian()
    made = posed(problem, 2, 30, inner=9)
    assert made.plan.nfe == 3
    for row in made.plan.rows[:-1]:
        assert row.states == (0.0,)
        path = made.plan.path
        assert (row.outputs[0], row.noises[0]) == (path.a(row.next_time), path.s(row.next_time))
    solution = inverse.solve(problem.prior, problem.measurement, "sitcom", n=2, nfe=30)
    assert solution.ledger.evaluations == {"gaussian": 30, "gaussian:backward": 27}
    # what a budget has no room for is not spent on other settings than those that were asked for
    uneven = inverse.solve(problem.prior, problem.measurement, "sitcom", n=2, nfe=39)
    assert torch.equal(uneven.samples, solution.samples)
    assert uneven.ledger.evaluations == solution.ledger.evaluations
    with pytest.raises(BadValue, match="inner"):
        inverse.solve(problem.prior, problem.measurement, "sitcom", n=2, nfe=30, inner=0)
    with pytest.raises(BadValue, match=r"nfe >= 10(.|\n)*inner=7"):
        inverse.solve(problem.prior, problem.measurement, "sitcom", n=2, nfe=8)
    curved = rg.operators.measure(rg.operators.function(torch.tanh, (4,)), torch.zeros(4), 0.1)
    assert inverse.solve(problem.prior, curved, "sitcom", n=2, nfe=20).samples.isfinite().all()
