"""RED-diff on Gaussian data: where the estimate settles is the solution of a linear system."""

import pytest
import torch

from retrograde import inverse
from retrograde.errors import UnknownName
from retrograde.noise import Bulk


def settled(problem, t, lam, weight, lr=0.02, steps=250, n=128):
    made = inverse.solve(
        problem.prior,
        problem.measurement,
        "reddiff",
        n,
        steps,
        grid=(t,) * steps,
        noise=Bulk,
        dtype=torch.float64,
        lam=lam,
        lr=lr,
        weight=weight,
    )
    assert made.ledger.evaluations == {"gaussian": steps}  # no gradient through the network
    return made.samples.mean(0)


def test_the_estimate_settles_where_the_linear_system_says(gaussian):
    """At one level, repeated: lam w s a (a^2 C + s^2)^-1 (mu - m)/d = A^T (y - A mu)/m, w = sigma or 1."""
    problem = gaussian(scales=(1.0, 0.8, 0.5, 0.4))
    A, y = problem.measurement.linear.matrix(), problem.measurement.y
    mean, C = problem.prior.moments()
    path = problem.prior.path
    t = path.time_of_sigma(1.5)
    a, s = path.a(t), path.s(t)
    for lam, weight in ((6.0, "linear"), (12.0, "constant")):
        w = path.sigma(t) if weight == "linear" else 1.0
        R = lam * w * s * a * torch.linalg.inv(a * a * C + s * s * torch.eye(4)) / 4
        exact = torch.linalg.solve(A.T @ A / 2 + R, A.T @ y / 2 + R @ mean)
        found = settled(problem, t, lam, weight)
        assert float((found - exact).norm() / (exact - mean).norm()) < 0.03


def test_weights_are_known(gaussian):
    problem = gaussian()
    with pytest.raises(UnknownName, match="linear"):
        inverse.solve(problem.prior, problem.measurement, "reddiff", 1, 4, weight="liner")
