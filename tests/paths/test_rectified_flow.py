"""Rectified flow between two laws, with exact drifts: marginals, transport costs, straightness and what reflow does."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import Coupled
from retrograde.sampling import Recording

PATH = rg.paths.Interpolant(scale=0.0, t_min=1e-4, t_max=1.0)


def mixtures() -> Coupled:
    data = rg.oracles.GaussianMixture(PATH, torch.tensor([[2.0, 0.0], [-1.0, 1.5]]), torch.tensor([0.2, 0.3]), [0.7, 0.3])
    start = rg.oracles.GaussianMixture(PATH, torch.tensor([[0.0, -2.0], [0.5, 2.0]]), torch.tensor([0.3, 0.2]))
    return rg.oracles.independent(PATH, data, start)


def rectified(den: Coupled, start: torch.Tensor, steps: int = 100) -> Recording:
    """Follow the exact drift from the start to the data in even steps of time."""
    plan = rg.plan("interpolant_heun", PATH, nfe=2 * steps - 1, grid="uniform")
    return rg.record(den, plan, anchor=start, dtype=torch.float64)


def reflowed(den: Coupled, shift: torch.Tensor, linear: torch.Tensor) -> Coupled:
    """The coupling of starts y ~ N(nu, S) with where the flow carries them, shift + linear y."""
    d = len(shift)
    nu, spread = den.means[0, 1], den.covariances[0, d:, d:]
    joint = torch.cat(
        [torch.cat([linear @ spread @ linear.T, linear @ spread], 1), torch.cat([spread @ linear.T, spread], 1)]
    )
    return Coupled(PATH, torch.stack([shift + linear @ nu, nu])[None], joint[None])


def test_the_marginals_are_those_of_the_interpolation():
    """At t = 3/4, 1/2 and 1/4 no two-sample test at 1% tells Z_t from X_t, though they are paired otherwise."""
    den, n = mixtures(), 400
    _, start = den.sample(n, seed=1)
    run = rectified(den, start)
    times = [1.0, *(row.next_time for row in run.plan.rows)]
    data, other = den.sample(n, seed=2)
    for t in (0.75, 0.5, 0.25):
        place = max(i for i, at in enumerate(times) if at is not None and math.isclose(at, t))
        x_t = PATH.a(t) * data + PATH.b(t) * other
        assert rg.quality.mmd_test(run.trajectory[place], x_t, seed=0).p_value > 0.01
        assert rg.quality.mmd_test(run.trajectory[place] + 0.3, x_t, seed=0).p_value < 0.01


def test_no_convex_cost_rises():
    """E c(Z_0 - Z_1) for c = |.|, |.|^2 and |.|^4 falls from the independent pairs to those of the flow."""
    den, n = mixtures(), 2000
    data, start = den.sample(n, seed=3)
    carried = rectified(den, start, 40).samples
    for power in (1, 2, 4):
        before, after = ((pair - start).norm(dim=1) ** power for pair in (data, carried))
        spread = math.sqrt(float(before.var() + after.var()) / n)
        assert float(after.mean()) < float(before.mean()) - 3 * spread


@pytest.mark.parametrize("c", [0.25, 4.0])
def test_between_round_gaussians_the_map_is_the_scaling(c):
    """N(0, I) to N(m, c I): Z_0 = m + sqrt(c) Z_1; rectified once more the paths are straight, and one step is exact."""
    m = torch.tensor([1.0, -2.0], dtype=torch.float64)
    joint = torch.block_diag(c * torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    den = Coupled(PATH, torch.stack([m, torch.zeros(2, dtype=torch.float64)])[None], joint[None])
    _, start = den.sample(50, seed=4)
    exact = m + math.sqrt(c) * start
    assert (rectified(den, start, 400).samples - exact).abs().max() < 1e-3
    one_step = rg.plan("interpolant_ode", PATH, nfe=1, grid="uniform")
    assert (rg.sample(den, one_step, anchor=start, dtype=torch.float64) - exact).abs().max() > 0.1
    again = reflowed(den, m, math.sqrt(c) * torch.eye(2, dtype=torch.float64))
    assert (rg.sample(again, one_step, anchor=start, dtype=torch.float64) - exact).abs().max() < 1e-6


def test_reflow_makes_the_paths_straight():
    """Gaussians whose axes differ: E|Z_0 - Z_1 - v|^2 over time falls by far more than 5, the cost does not rise."""
    turn = torch.tensor([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]], dtype=torch.float64)
    spread = turn @ torch.diag(torch.tensor([2.0, 0.1], dtype=torch.float64)) @ turn.T
    joint = torch.block_diag(spread, torch.diag(torch.tensor([0.2, 1.0], dtype=torch.float64)))
    means = torch.tensor([[[1.0, 0.0], [0.0, 0.5]]], dtype=torch.float64)
    den = Coupled(PATH, means, joint[None])
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    ends = rectified(den, corners, 400).samples  # on Gaussians the flow is affine: three points tell all of it
    shift, linear = ends[0], (ends[1:] - ends[0]).T
    again = reflowed(den, shift, linear)
    _, start = den.sample(500, seed=5)

    def crookedness(of: Coupled) -> float:
        run = rectified(of, start, 50)
        whole = run.samples - start
        asked = [(row.time, x) for row, x in zip(run.plan.rows, run.trajectory, strict=False) if row.next_time != row.time]
        # v points from the data to the start
        return float(torch.stack([(whole + of.predict(x, t).velocity).square().sum(1).mean() for t, x in asked]).mean())

    first, second = crookedness(den), crookedness(again)
    assert first > 0.05
    assert second < first / 100
    cost = [(rectified(of, start, 100).samples - start).square().sum(1).mean() for of in (den, again)]
    assert float(cost[1]) <= float(cost[0]) * (1 + 1e-3)  # up to the steps of the integration
    data, _ = den.sample(500, seed=6)
    assert float(cost[0]) < float((data - start).square().sum(1).mean())
