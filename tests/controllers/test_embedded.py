"""Adaptive runs: the published loop, an independent integrator, tolerances that are met, and tables that replay."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import retrograde as rg
from retrograde.controllers import DPM_SOLVER, Stalled, adaptive, names
from retrograde.errors import BadType, BadValue, PlanError
from retrograde.noise import Brownian, Remembered
from retrograde.plan import Plan
from retrograde.run import Back

DOUBLE = torch.float64
X = torch.tensor([[1.75, -0.7], [-1.05, 1.4], [0.2, 2.25]], dtype=DOUBLE)


@pytest.fixture
def den(mixture) -> rg.oracles.GaussianMixture:
    return mixture(rg.paths.VP())


# ------------------------------------------------------------------------------------------------------- what it replays


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp", "mean_reverting"])
@pytest.mark.parametrize("pair", names())
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_replaying_the_plan_gives_the_same_samples_bit_by_bit(
    pair, path_name, dtype, path_called, mixture, anchor_for, tmp_path
):
    den = mixture(path_called(path_name))
    it = adaptive(den, pair, rtol=0.05, atol=0.01, h_init=0.9 if adaptive(den, pair).pair.clock == "log_snr" else None)
    options = {"n": 3, "seed": 4, "dtype": dtype} | ({"noise": Brownian} if it.pair.stochastic else {})
    options |= anchor_for(den.path, 3, 2)
    rec = rg.record(den, it.plan, controllers=[it], **options)
    assert torch.equal(rg.sample(den, rec.plan, **options), rec.samples)
    rec.plan.save(tmp_path / "plan.json")
    assert torch.equal(rg.sample(den, Plan.load(tmp_path / "plan.json"), **options), rec.samples)
    # the trajectory is that of the steps that stood
    again = rg.record(den, rec.plan, **options)
    assert len(rec.trajectory) == len(rec.plan) + 1
    assert all(map(torch.equal, again.trajectory, rec.trajectory))
    assert all(map(torch.equal, again.means, rec.means))
    assert rec.plan.recipe == f"adaptive_{pair}@1"
    # the same settings serve the next run from the start: what a run remembers lives in the run
    assert torch.equal(rg.record(den, it.plan, controllers=[it], **options).samples, rec.samples)


def test_its_plan_alone_is_refused_and_the_one_that_ran_is_not(den):
    it = adaptive(den, "dpm_23", rtol=0.05)
    with pytest.raises(PlanError, match="'adaptive'"):
        rg.sample(den, it.plan, n=2)
    ran = rg.record(den, it.plan, n=2, controllers=[it]).plan
    assert not any(row.knobs for row in ran.rows)


def test_two_interleaved_runs_of_one_controller_do_not_meet(den):
    it = adaptive(den, "dpm_23", rtol=0.02)
    alone = [[state.x_t for state in rg.steps(it.plan, den, n=2, seed=seed, controllers=[it])] for seed in (1, 2)]
    one, other = (rg.steps(it.plan, den, n=2, seed=seed, controllers=[it]) for seed in (1, 2))
    for i in range(max(map(len, alone))):
        for run, expected in zip((one, other), alone, strict=True):
            if i < len(expected):
                assert torch.equal(next(run).x_t, expected[i])


def test_rejected_steps_are_paid_and_leave_no_row(den):
    it = adaptive(den, "dpm_23", rtol=1e-3, atol=1e-4, h_init=3.0)
    rec = rg.record(den, it.plan, n=2, seed=1, controllers=[it], dtype=DOUBLE)
    steps = sum(row.time is not None and row.next_time == row.time for row in rec.plan.rows) - 1
    assert rec.plan.nfe == 3 * steps + 1
    # the prediction a step starts with is not paid twice: a rejected step costs two of its three
    rejected, rest = divmod(rec.ledger.nfe - rec.plan.nfe, 2)
    assert (rest, rejected > 1) == (0, True)
    assert rec.ledger.rows > len(rec.plan)


# -------------------------------------------------------------------------------------------------------- what it equals


@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_is_the_published_loop(order, mixture):
    """The adaptive solver of k-diffusion, written out in t = -log sigma for one item, with its step-size rule."""
    den, rtol, atol, h = mixture(rg.paths.EDM()), 0.05, 0.0078, 0.05
    start = 80.0 * X[:1]

    def eps(x, t):
        return den.predict(x, math.exp(-t)).noise

    def sigma(t):
        return math.exp(-t)

    def second(x, s, t, r):
        e, m = eps(x, s), s + r * (t - s)
        u = x - sigma(m) * math.expm1(r * (t - s)) * e
        return x - sigma(t) * math.expm1(t - s) * (e + (eps(u, m) - e) / (2 * r))

    def third(x, s, t):
        h, e, one, two = t - s, eps(x, s), s + (t - s) / 3, s + 2 * (t - s) / 3
        u1 = x - sigma(one) * math.expm1(h / 3) * e
        e1 = eps(u1, one) - e
        u2 = x - sigma(two) * math.expm1(2 * h / 3) * e - 2 * sigma(two) * (math.expm1(2 * h / 3) / (2 * h / 3) - 1) * e1
        return x - sigma(t) * math.expm1(h) * e - 1.5 * sigma(t) * (math.expm1(h) / h - 1) * (eps(u2, two) - e)

    x = before = start
    s, end, taken = -math.log(80.0), -math.log(0.002), []
    while s < end - 1e-5:
        t = min(end, s + h)
        if order == 2:
            low, high = x - sigma(t) * math.expm1(t - s) * eps(x, s), second(x, s, t, 0.5)
        else:
            low, high = second(x, s, t, 1 / 3), third(x, s, t)
        delta = torch.clamp(rtol * torch.maximum(low.abs(), before.abs()), min=atol)
        error = float(((low - high) / delta).norm()) / math.sqrt(x.numel())
        factor = 1 + math.atan((1 / (error + 1e-8)) ** (1 / order) - 1)
        if factor >= 0.81:
            x, before, s = high, low, t
            taken.append(t)
        h *= factor
    it = adaptive(den, f"dpm_{order - 1}{order}")
    rec = rg.record(den, it.plan, x=start, controllers=[it])
    stops = [row.time for row in rec.plan.rows if row.time is not None and row.next_time == row.time]
    assert [-math.log(t) for t in stops[1:]] == pytest.approx(taken, abs=1e-9)
    assert torch.allclose(rec.trajectory[-2], x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("pair", ["dp_54_time", "bs_32_time", "dp_54", "bs_32_sigma"])
@pytest.mark.parametrize("path_name", ["vp", "flow"])
def test_the_probability_flow_ends_where_an_independent_integrator_ends(pair, path_name, path_called, mixture):
    den = mixture(path_called(path_name))
    path = den.path

    def slope(t, x):
        return den.predict(torch.from_numpy(x.reshape(-1, 2)), t).velocity.numpy().ravel()

    t = path.time_of_sigma(10.0), path.t_min
    start = path.a(t[0]) * 10.0 * X
    there = solve_ivp(slope, t, start.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-12).y[:, -1].reshape(-1, 2)
    tolerance = 1e-4 if pair.startswith("bs") else 1e-6
    it = adaptive(den, pair, rtol=tolerance, atol=tolerance, start=10.0)
    rec = rg.record(den, it.plan, x=start, controllers=[it])
    assert np.abs(rec.trajectory[-2].numpy() - there).max() < 20 * tolerance


@pytest.mark.parametrize("pair", ["dpm_12", "dpm_23", "bs_32", "dp_54", "bs_32_time"])
def test_the_error_falls_with_the_tolerance_and_costs_evaluations(pair, den):
    fine = rg.sample(den, rg.plan("unip_3", den.path, nfe=2000, grid="log_snr"), n=3, seed=1, dtype=DOUBLE)
    errors, costs = [], []
    for tolerance in (1e-2, 1e-3, 1e-4):
        it = adaptive(den, pair, rtol=tolerance, atol=tolerance)
        rec = rg.record(den, it.plan, n=3, seed=1, controllers=[it], dtype=DOUBLE)
        errors.append(float((rec.samples - fine).abs().max()))
        costs.append(rec.ledger.nfe)
    assert errors[0] > 2 * errors[1] > 4 * errors[2], errors
    assert errors[2] < 30 * 1e-4
    assert costs[0] < costs[1] < costs[2]
    # the cost grows as the tolerance to the power of -1/q, and little more
    assert costs[2] / costs[0] < 3.0 * 100.0 ** (1.0 / it.pair.q)


def test_the_rule_may_be_chosen(den):
    plans = []
    for rule in (rg.controllers.StepSize(), DPM_SOLVER):
        it = adaptive(den, "dpm_23", step_size=rule)
        plans.append(rg.record(den, it.plan, n=2, controllers=[it], dtype=DOUBLE).plan)
    assert plans[0] != plans[1]


# ------------------------------------------------------------------------------------------------------------ stochastic


@pytest.mark.slow
def test_an_adaptive_sde_converges_to_the_solution_on_its_own_brownian_path(mixture):
    """Strongly: the distance to a fine solution that sees the same path falls with the tolerance; other noise stays far."""
    den = mixture(rg.paths.VP())
    path, x = den.path, 2.0 * torch.randn(24, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    fine = rg.recipes.get("seeds_2").compile(path, [path.time_of_sigma(2.0 * 0.25 ** (i / 512)) for i in range(513)])
    *_, exact = rg.steps(fine[:-1], den, x=x, seed=5, noise=Brownian)
    errors = []
    for tolerance in (0.1, 0.01):
        it = adaptive(den, "sde_12", rtol=tolerance, atol=0.2 * tolerance, start=2.0, end=0.5)
        rec = rg.record(den, it.plan, x=x, seed=5, noise=Brownian, controllers=[it])
        errors.append(float((rec.trajectory[-2] - exact.x_t).square().mean().sqrt()))
    assert errors[0] > 3 * errors[1], errors
    assert errors[1] < 0.01
    other = rg.sample(den, rec.plan, x=x, seed=5)  # the same table on noise of its own
    assert float((other - rec.samples).square().mean().sqrt()) > 10 * errors[0]


def test_an_adaptive_sde_keeps_the_law_of_the_data():
    """Rejection on one Brownian path does not choose the noise: mean and variance of a Gaussian, from 4000 samples."""
    path, n = rg.paths.VP(), 4000
    den = rg.oracles.Gaussian(path, torch.tensor([0.7]), torch.tensor([0.3]))
    it = adaptive(den, "sde_12", rtol=0.05, atol=0.02, h_init=2.0)
    x = torch.randn(n, 1, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))
    rec = rg.record(den, it.plan, x=x, seed=3, noise=Plain, controllers=[it])
    assert rec.ledger.nfe > rec.plan.nfe  # something was rejected
    assert abs(float(rec.samples.mean()) - 0.7) < 4 * math.sqrt(0.3 / n)
    assert abs(float(rec.samples.var()) - 0.3) < 0.3 * (4 * math.sqrt(2 / n) + 0.02)


@dataclasses.dataclass(frozen=True)
class Plain:
    """The Brownian path of one item of n numbers, seen as that of n items: quick to draw."""

    one_path = True

    seed: int
    items: range

    def draw(self, shape, interval, occurrence=0, dtype=DOUBLE, device="cpu"):
        paths = _PATHS.setdefault((self.seed, len(self.items)), Brownian(self.seed, [0]))
        return paths.draw((len(self.items), *shape), interval, occurrence, dtype, device)[0]


_PATHS: dict = {}


# --------------------------------------------------------------------------------------------------------------- refusals


def test_another_plan_is_refused(den):
    it = adaptive(den)
    with pytest.raises(PlanError, match="not the controller's own"):
        rg.sample(den, rg.plan("dpm_solver_3", den.path, nfe=10), controllers=[it])


def test_steps_that_may_be_taken_back_refuse_noise_of_their_own(den):
    it = adaptive(den, "sde_12", rtol=0.05, atol=0.02)
    with pytest.raises(PlanError, match="noise=Brownian") as refused:
        rg.sample(den, it.plan, controllers=[it])
    assert "chooses the noise" in refused.value.allowed
    held = rg.sample(den, it.plan, controllers=[it], noise=lambda seed, items: Remembered(Brownian(seed, items)))
    assert torch.equal(held, rg.sample(den, it.plan, controllers=[it], noise=Brownian))
    # a pair without noise, and what ran, a plain table, may draw what they like
    smooth = adaptive(den, "dpm_23")
    rg.sample(den, smooth.plan, controllers=[smooth])
    rg.sample(den, rg.record(den, it.plan, controllers=[it], noise=Brownian).plan)


def test_a_run_without_an_end_is_stopped(den):
    it = adaptive(den, rtol=0.0, atol=1e-7, most=50)
    with pytest.raises(Stalled, match="50 steps tried"):
        rg.sample(den, it.plan, controllers=[it], dtype=DOUBLE)


def test_settings_are_checked(den):
    for wrong in ({"rtol": -1.0}, {"atol": 0.0}, {"h_init": 0.0}, {"most": 0}):
        with pytest.raises(BadValue):
            adaptive(den, **wrong)
    with pytest.raises(BadType):
        adaptive("vp")


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_sde"])
def test_rows_are_taken_back_to_the_state_that_is_named(name, den):
    """The seam alone: three rows run, then two are taken back and run again, with the noise they had."""
    plan = rg.plan(name, den.path, nfe=8)
    seen: list = []

    class Undo:
        consumes: frozenset[str] = frozenset()

        def rewrite(self, remaining, state):
            if state is not None:
                seen.append(state)
            if len(seen) == 3:
                return Back(seen[0], plan.bind(den).rows[1:])
            return remaining

        def correct(self, state):
            return state.x_t

    rec = rg.record(den, plan, n=2, controllers=[Undo()], dtype=DOUBLE)
    assert torch.equal(rec.samples, rg.sample(den, plan, n=2, dtype=DOUBLE))
    assert rec.plan == plan.bind(den)
    assert (rec.ledger.nfe, rec.ledger.rows, len(rec.trajectory)) == (10, len(plan) + 2, len(plan) + 1)
