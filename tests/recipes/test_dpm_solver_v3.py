"""DPM-Solver-v3: its limits, its exactness on Gaussian data, its order, and what fitted statistics are worth."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import retrograde as rg
from retrograde.data import digits8
from retrograde.errors import BadValue, ShapeError
from retrograde.noise import Noise
from retrograde.plan import Plan
from retrograde.recipes.dpm_solver_v3 import Statistics, statistics
from retrograde.run import Memory

v3 = rg.recipes.dpm_solver_v3
EDM, VP = rg.paths.EDM(), rg.paths.VP()
MEAN, VARIANCES = torch.tensor([1.0, -0.5, 0.3]), torch.tensor([0.3, 1.0, 2.0])


@pytest.fixture(scope="module")
def gaussian() -> rg.oracles.GaussianMixture:
    return rg.oracles.Gaussian(EDM, MEAN, VARIANCES)


@pytest.fixture(scope="module")
def known(mixture) -> dict[str, tuple[rg.oracles.GaussianMixture, Statistics]]:
    return {path.name: (mixture(path), statistics(mixture(path), mixture(path).sample(512, 1))) for path in (EDM, VP)}


def start(den: rg.oracles.GaussianMixture, n: int) -> Tensor:
    return den.path.s(den.path.t_max) * torch.randn(n, *den.shape, generator=torch.Generator().manual_seed(0)).double()


def before_the_end(plan: Plan, den: rg.oracles.GaussianMixture, x: Tensor) -> Tensor:
    *_, last = rg.steps(plan[: len(plan) - 1], den, x=x)
    return last.x_t


@pytest.mark.parametrize("path_name", ["edm", "vp", "flow"])
def test_constant_statistics_give_the_solvers_it_generalizes(path_name, path_called):
    """(1, 0, 0): exponential Adams methods of the data mean, res_2m and unip_3; (0, -1, 0): those of the noise mean."""
    path = path_called(path_name)
    grid = rg.grids.log_snr(path, 9, sigma_max=20.0)
    plain = {"corrector": False, "lower_order_final": False}
    for order, name in ((1, "ddim"), (2, "res_2m"), (3, "unip_3")):
        made = v3.plan(path, Statistics.constant(1.0, 0.0), grid=grid, order=order, **plain)
        wanted = rg.plan(name, path, grid=grid)
        assert not made.misses
        for row, other in list(zip(made.rows, wanted.rows, strict=True))[2 if order == 3 else 0 :]:
            assert row.states == pytest.approx(other.states, rel=1e-9, abs=1e-12)
            assert row.outputs == pytest.approx(other.outputs, rel=1e-9, abs=1e-12)
    x, e, e_last = (torch.randn(4, generator=torch.Generator().manual_seed(k)).double() for k in range(3))
    row = v3.plan(path, Statistics.constant(0.0, -1.0), grid=grid, order=2, **plain)[4]
    levels = [rg.recipes.level(path, t) for t in grid[3:6]]
    h, h_last = levels[2].lam - levels[1].lam, levels[1].lam - levels[0].lam
    a, s = levels[2].a, levels[2].s
    wanted = a / levels[1].a * x - s * math.expm1(h) * e - s * (math.expm1(h) / h - 1.0) * (e - e_last) * h / h_last
    before = torch.randn(4, generator=torch.Generator().manual_seed(3)).double()
    means = [(state - at.s * eps) / at.a for state, eps, at in ((x, e, levels[1]), (before, e_last, levels[0]))]
    made = sum(c * v for cs, vs in ((row.states, (x, before)), (row.outputs, means)) for c, v in zip(cs, vs, strict=False))
    assert torch.allclose(made, wanted, rtol=1e-9, atol=1e-10)


def test_the_corrector_keeps_what_the_statistics_leave(mixture):
    """The published loop, its cached state and prediction rewritten after each correction, with constant statistics."""
    den, grid = mixture(EDM), rg.grids.karras(EDM, 8)
    l, s = 0.6, -0.3  # noqa: E741
    plan = v3.plan(EDM, Statistics.constant(l, s), grid=grid, order=2, pseudo_corrector=True)
    lam = [-math.log(t) for t in grid]
    x = x_0 = start(den, 3)
    kept: list[tuple[float, Tensor, Tensor]] = []  # level, state, noise

    def step(i: int, j: int, nodes: list[int]) -> Tensor:
        """From level i to level j; integrals of the constant statistics by trapezoids, as published."""
        u = torch.linspace(lam[i], lam[j], 20001, dtype=torch.float64)
        weight = torch.exp((l + s) * (u - lam[i]))
        f = [grid[k] * kept[k][2] - l * kept[k][1] for k in nodes]
        g = [math.exp(-s * (lam[k] - lam[i])) * part for k, part in zip(nodes, f, strict=True)]
        x_next = kept[i][1] - torch.trapezoid(weight, u) * g[0]
        if len(nodes) > 1:
            differences = [(g[k + 1] - g[k]) / (lam[nodes[k + 1]] - lam[nodes[k]]) for k in range(len(nodes) - 1)]
            x_next = x_next - torch.trapezoid(weight * (u - lam[i]), u) * differences[0]
        if len(nodes) > 2:
            second = 2.0 * (differences[0] - differences[1]) / (lam[nodes[0]] - lam[nodes[2]])
            x_next = x_next - torch.trapezoid(weight * (u - lam[i]) ** 2 / 2, u) * second
        return math.exp(-l * (lam[j] - lam[i])) * x_next

    used = 0
    for i in range(len(grid) - 1):
        kept.append((lam[i], x, den.predict(x, grid[i]).noise))
        if i > 0:
            left = grid[i] * kept[i][2] - l * x
            corrected = step(i - 1, i, [i - 1, i, *range(i - 2, i - used - 1, -1)])
            kept[i] = (lam[i], corrected, (left + l * corrected) / grid[i])
        used = min(2, i + 1, len(grid) - 1 - i)
        x = step(i, i + 1, [i - k for k in range(used)])
    assert torch.allclose(before_the_end(plan, den, x_0), x, rtol=0, atol=1e-6)


def test_statistics_of_a_gaussian_are_the_closed_forms(gaussian):
    found = statistics(gaussian, gaussian.sample(64, 1), levels=60)
    square = torch.exp(-2.0 * found.lams)[:, None]
    l = square / (square + VARIANCES)  # noqa: E741
    slope = -2.0 * square * VARIANCES / (square + VARIANCES) ** 2
    assert torch.allclose(found.l, l, atol=1e-12)
    assert not found.s.any()  # f is the constant -l m: there is nothing to regress on
    assert torch.allclose(found.b, -slope * MEAN, atol=1e-3)  # the slope of a spline through 60 levels


def test_one_step_is_exact_for_a_gaussian(gaussian):
    plan = v3.plan(EDM, statistics(gaussian, gaussian.sample(16, 1), levels=500), nfe=2)
    x = start(gaussian, 5)
    exact = gaussian.flow(x, EDM.t_max, plan.times[-1])
    assert float((before_the_end(plan, gaussian, x) - exact).abs().max()) < 1e-7
    for name in ("dpmpp_3m", "unipc_3", "ddim"):
        other = rg.plan(name, EDM, nfe=2, grid="log_snr")
        assert float((before_the_end(other, gaussian, x) - exact).abs().max()) > 0.1


def test_the_regression_is_on_the_derivative_along_the_flow(known):
    """s and b at one level from f' by automatic differentiation in state and level."""
    den, found = known["edm"]
    k = 70
    t, x_0 = float(torch.exp(-found.lams[k])), den.sample(512, 1)
    x = x_0 + t * Noise.first(512, 0).draw((2,), (-33.0, -33.0), dtype=torch.float64)

    def f(lam: Tensor, y: Tensor) -> Tensor:
        mean = den.predict(y, torch.exp(-lam).expand(len(y))).data
        return (1.0 - found.at("l", lam)) * y - mean

    lam = found.lams[k].clone()
    mean = den.predict(x, t).data
    h = 1e-5
    ahead, back = f(lam + h, x + h * (mean - x)), f(lam - h, x - h * (mean - x))
    slope, value = (ahead - back) / (2 * h), f(lam, x)
    s = ((value * slope).mean(0) - value.mean(0) * slope.mean(0)) / value.var(0, correction=0)
    assert torch.allclose(found.s[k], s, rtol=1e-4)
    assert torch.allclose(found.b[k], slope.mean(0) - s * value.mean(0), rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_order_holds_with_fitted_statistics(order, known):
    """Uneven grids, exact history; orders 2 and 3 with l, s, b and the shift all at work."""
    den, found = known["edm"]
    x = torch.tensor([[1.75, -0.7], [-1.05, 1.4], [0.2, 2.25]], dtype=torch.float64)

    def slope(log_sigma: float, y: np.ndarray) -> np.ndarray:
        y_t = torch.from_numpy(y.reshape(-1, 2))
        return (y_t - den.predict(y_t, math.exp(log_sigma)).data).numpy().ravel()

    flow = solve_ivp(
        slope, (math.log(2.0), math.log(0.5)), x.numpy().ravel(), "DOP853", rtol=1e-12, atol=1e-13, dense_output=True
    )
    errors = []
    for n in (24, 48, 96):
        places = np.concatenate([[0.0], np.cumsum(1.0 + np.arange(n) % 2)])
        grid = (2.0 * 0.25 ** (places / places[-1])).tolist()
        plan = v3.plan(EDM, found, grid=grid, order=order, corrector=False, lower_order_final=False)
        exact = [torch.from_numpy(flow.sol(math.log(t)).reshape(-1, 2)) for t in grid]
        k = order - 1
        outputs = tuple(den.predict(exact[j], grid[j]).data for j in range(k))[::-1]
        memory = Memory(tuple(exact[: k + 1])[::-1], outputs)
        *_, last = rg.run(plan[k : len(plan) - 1], den, exact[k], memory=memory if k else None)
        errors.append(float((last.x_t - exact[-1]).abs().max()))
    assert -np.polyfit(np.log([24, 48, 96]), np.log(errors), 1)[0] == pytest.approx(order, abs=0.25), errors


@pytest.mark.parametrize("path_name", ["edm", "vp"])
def test_fitted_statistics_win_at_small_budgets(path_name, known):
    """Nearer to the fine flow than DPM-Solver++(3M) and UniPC on the same grid, at five to ten evaluations."""
    den, found = known[path_name]
    fine = rg.sample(den, rg.plan("unipc_3", den, nfe=400, grid="log_snr"), n=64, seed=3, dtype=torch.float64)

    def error(plan: Plan) -> float:
        return float((rg.sample(den, plan, n=64, seed=3, dtype=torch.float64) - fine).pow(2).mean().sqrt())

    wins = 0
    for nfe in range(5, 11):
        others = [rg.plan(name, den, nfe=nfe, grid="log_snr") for name in ("dpmpp_3m", "unipc_3")]
        ours = error(v3.plan(den, found, nfe=nfe))
        constant = error(v3.plan(den, Statistics.constant(1.0, 0.0), nfe=nfe))
        wins += ours < min(map(error, others)) and ours < constant
    assert wins >= 4


def test_coefficients_are_per_element_and_travel_with_the_plan(tmp_path):
    den = rg.load("digits8-flow")
    data = digits8("train")[0][:48].reshape(48, *den.shape).float()
    found = statistics(den, data, levels=16, batch_size=48)
    assert found.l.shape == (16, *den.shape)
    found.save(tmp_path / "statistics.safetensors")
    again = Statistics.load(tmp_path / "statistics.safetensors")
    assert all(torch.equal(getattr(again, name), getattr(found, name)) for name in ("lams", "l", "s", "b"))
    plan = v3.plan(den, found, nfe=6)
    assert plan[2].outputs[0].shape == den.shape
    assert plan[2].shift is not None
    assert plan.misses == ("point mass",)
    plan.save(tmp_path / "plan.json")
    loaded = Plan.load(tmp_path / "plan.json")
    assert loaded == plan == v3.plan(den, again, nfe=6)
    fine = rg.sample(den, rg.plan("dpmpp_3m", den, nfe=60), n=12, seed=1)

    def error(plan: Plan) -> float:
        return float((rg.sample(den, plan, n=12, seed=1) - fine).pow(2).mean().sqrt())

    assert torch.equal(rg.sample(den, loaded, n=2), rg.sample(den, plan, n=2))
    assert error(plan) < min(error(rg.plan(name, den, nfe=6, grid="log_snr")) for name in ("dpmpp_3m", "unipc_3"))


def test_a_network_of_discrete_times_is_asked_at_its_own(path_called, mixture):
    path = path_called("vp_discrete")
    exact = mixture(path, "noise")
    told = set()

    def network(x: Tensor, index: Tensor) -> Tensor:
        told.add(float(index[0]))
        return exact.predict(x, float(index[0] + 1) / 1000).value

    den, data = rg.Denoiser(network, path, "noise", (2,)), exact.sample(64, 1)
    found, wanted = statistics(den, data, levels=24), statistics(exact, data, levels=24)
    assert all(index == round(index) for index in told)
    for name in ("l", "s", "b"):
        assert float((getattr(found, name) - getattr(wanted, name))[2:-2].abs().max()) < 0.1, name
    plan = v3.plan(den, found, nfe=6)
    assert plan.times == tuple(den.snap(t) for t in plan.times)


def test_every_path_is_sampled_and_what_does_not_fit_is_named(path_called, mixture, known):
    for name in ("flow", "trigonometric", "subvp"):
        den = mixture(path_called(name))
        found = statistics(den, den.sample(32, 1), levels=40)
        assert rg.sample(den, v3.plan(den, found, nfe=6), n=3).isfinite().all()
    den, found = known["edm"]
    with pytest.raises(BadValue, match="sigma from 0.002 to 80"):
        v3.plan(EDM, found, grid=[100.0, 1.0])
    with pytest.raises(BadValue, match="order=4"):
        v3.plan(EDM, found, nfe=5, order=4)
    with pytest.raises(ShapeError, match=r"\[n, 2\]"):
        statistics(den, torch.zeros(4, 3))
    with pytest.raises(BadValue, match="1 items"):
        statistics(den, torch.zeros(1, 2))
    with pytest.raises(BadValue, match="rising"):
        Statistics(torch.tensor([1.0, 0.0]), *(torch.zeros(2) for _ in range(3)))


def test_the_corrector_acts_where_it_is_told_to(known):
    _, found = known["edm"]
    plan = v3.plan(EDM, found, nfe=10, corrected=(0.5, 5.0))
    again = [row.time for row in plan.rows if row.time is not None and row.next_time == row.time]
    assert again
    assert again == [t for t in plan.times[2:] if 0.5 <= t <= 5.0]
    assert not [row for row in v3.plan(EDM, found, nfe=10, corrector=False).rows if row.next_time == row.time]
