"""DEIS over sigma: weights of rhoAB, the tables of rhoRK, and what the public codes of the same methods compute."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise
from retrograde.recipes.deis import sigma_integrals
from retrograde.recipes.recipe import level

EDM = rg.paths.EDM()
KARRAS = rg.grids.karras(EDM, 12)
START = EDM.sigma_max * Noise.first(3, seed=2).prior((2,), torch.float64)


def test_rhoab_reproduces_polynomials_of_sigma():
    """The weights of k + 1 knots integrate every polynomial of degree k over dsigma, to rounding, on any path."""
    path = rg.paths.VP()
    here, there = level(path, 0.62), level(path, 0.5)
    knots = [level(path, t).sigma for t in (0.62, 0.7, 0.75, 0.83)]
    for degree in range(4):
        weights = sigma_integrals(here, there, knots[: degree + 1])
        for power in range(degree + 1):
            exact = (there.sigma ** (power + 1) - here.sigma ** (power + 1)) / (power + 1)
            got = math.fsum(w * k**power for w, k in zip(weights, knots, strict=False))
            assert got == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("degree", [1, 2, 3])
def test_logrho_integrates_polynomials_of_log_sigma(degree):
    """x'/a' = x/a + the integral over dsigma of the polynomial in log sigma through the last predictions, on any path."""
    path, times = rg.paths.VP(), (0.9, 0.83, 0.75, 0.7, 0.62, 0.5)
    row = rg.plan(f"deis_logrho{degree}", path, grid=times)[4]
    knots = [math.log(level(path, t).sigma) for t in times[4::-1]]
    here, there = level(path, 0.62), level(path, 0.5)
    assert row.states == pytest.approx((path.a(0.5) / path.a(0.62),), rel=1e-12)
    assert len(row.outputs) == degree + 1
    for power in range(degree + 1):
        exact, _ = quad(lambda s, power=power: math.log(s) ** power, here.sigma, there.sigma, epsabs=1e-13)
        got = math.fsum(w * k**power for w, k in zip(row.outputs, knots, strict=False))
        assert got == pytest.approx(path.a(0.5) * exact, rel=1e-9)


def test_rhoab_on_an_even_grid_is_ipndm_and_with_one_knot_ddim():
    grid = np.linspace(10.0, 1.0, 10)
    for degree in (1, 2, 3):
        for one, other in zip(
            rg.plan(f"deis_rhoab{degree}", EDM, grid=grid).rows,
            rg.plan(f"ipndm_{degree + 1}", EDM, grid=grid).rows,
            strict=True,
        ):
            assert one.outputs == pytest.approx(other.outputs, rel=1e-11)
    path = rg.paths.VP()
    first, ddim = rg.plan("deis_rhoab3", path, nfe=8)[0], rg.plan("ddim", path, nfe=8)
    x_t, m = 0.3, -1.2  # the two rows in their own bases, on one state and the data mean m
    t = first.time
    noise = (x_t - path.a(t) * m) / path.s(t)
    assert first.states[0] * x_t + first.outputs[0] * noise == pytest.approx(
        ddim[0].states[0] * x_t + ddim[0].outputs[0] * m
    )


def test_lms_has_the_coefficients_of_k_diffusion():
    """Its quadrature of the Lagrange polynomials over sigma, here with a tight tolerance, on the 12 levels of Karras."""
    for order in (1, 2, 3, 4):
        plan = rg.plan("lms", EDM, grid=KARRAS, order=order)
        for i, row in enumerate(plan.rows[:-1]):
            used = min(i + 1, order)

            def polynomial(tau: float, j: int, i: int = i, used: int = used) -> float:
                return math.prod((tau - KARRAS[i - k]) / (KARRAS[i - j] - KARRAS[i - k]) for k in range(used) if k != j)

            theirs = [quad(polynomial, KARRAS[i], KARRAS[i + 1], args=(j,), epsrel=1e-12)[0] for j in range(used)]
            assert row.outputs == pytest.approx(theirs, rel=1e-9)
    assert rg.plan("lms", EDM, grid=KARRAS) == rg.plan("deis_rhoab3", EDM, grid=KARRAS)
    with pytest.raises(BadValue, match="order=4"):
        rg.plan("lms", EDM, nfe=5, order=5)


def ipndm_v_weights(h: list[float]) -> list[float]:
    """Weights of the public "ipndm_v" for the step h[0] after steps h[1], h[2], ..., newest prediction first."""
    if len(h) == 2:
        return [1 + h[0] / h[1] / 2, -h[0] / h[1] / 2]
    second = (1 - h[0] / (3 * (h[0] + h[1])) * (h[0] * (h[0] + h[1])) / (h[1] * (h[1] + h[2]))) / 2
    c = [1 + h[0] / h[1] / 2 + second, -h[0] / h[1] / 2 - (1 + h[1] / h[2]) * second, second * h[1] / h[2]]
    if len(h) == 3:
        return c
    third = (1 - h[0] / (3 * (h[0] + h[1]))) / 2 + (1 - h[0] / (2 * (h[0] + h[1]))) * h[0] / (6 * (h[0] + h[1] + h[2]))
    third *= h[0] * (h[0] + h[1]) * (h[0] + h[1] + h[2]) / (h[1] * (h[1] + h[2]) * (h[1] + h[2] + h[3]))
    back = h[1] * (h[1] + h[2]) / (h[2] * (h[2] + h[3]))
    c[0] += third
    c[1] -= (1 + h[1] / h[2] + back) * third
    c[2] += (h[1] / h[2] + back * (1 + h[2] / h[3])) * third
    return [*c, -third * back * h[1] / h[2]]


def test_ipndm_v_of_public_codes_is_rhoab_where_it_is_right():
    """Order 2 always, order 3 on even steps, order 4 never: there its third difference is weighed 11/24 instead of 3/8."""
    for order in (2, 3, 4):
        even, uneven = np.linspace(10.0, 1.0, 10), KARRAS
        for grid in (even, uneven):
            row = rg.plan(f"deis_rhoab{order - 1}", EDM, grid=grid)[6]
            steps = [grid[7 - k] - grid[6 - k] for k in range(order)]
            same = row.outputs == pytest.approx([steps[0] * c for c in ipndm_v_weights(steps)], rel=1e-9)
            assert same == (order == 2 or (order == 3 and grid is even)), (order, row.outputs)
    assert ipndm_v_weights([1.0] * 4)[3] == pytest.approx(-11 / 24)
    # on uneven steps its order 4 does not even integrate a constant prediction
    assert abs(sum(ipndm_v_weights([1.0, 2.0, 1.0, 2.0])) - 1.0) > 0.1
    assert sum(ipndm_v_weights([1.0, 2.0, 1.0])) == pytest.approx(1.0)


def slope(den, x: torch.Tensor, sigma: float) -> torch.Tensor:
    return (x - den.predict(x, sigma).data) / sigma


def test_rho_heun_is_heun(mixture):
    plans = [rg.plan(name, EDM, grid=KARRAS) for name in ("rho_heun", "heun")]
    one, other = (rg.sample(mixture(EDM), plan, x=START) for plan in plans)
    assert torch.allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path_name", ["edm", "vp"])
@pytest.mark.parametrize("name", ["rho_midpoint", "rho_kutta3", "rho_rk4"])
def test_rho_runge_kutta_is_the_textbook_method_for_x_over_a(name, path_name, path_called, mixture):
    path, den = path_called(path_name), mixture(EDM)
    grid = [path.time_of_sigma(sigma) for sigma in KARRAS[1:]]
    y, levels = START, KARRAS[1:]
    for s, s_next in zip(levels, levels[1:], strict=False):
        h, middle = s_next - s, (s + s_next) / 2
        k1 = slope(den, y, s)
        k2 = slope(den, y + h / 2 * k1, middle)
        if name == "rho_midpoint":
            y = y + h * k2
        elif name == "rho_kutta3":
            y = y + h / 6 * (k1 + 4 * k2 + slope(den, y + h * (2 * k2 - k1), s_next))
        else:
            k3 = slope(den, y + h / 2 * k2, middle)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(den, y + h * k3, s_next))
    a, plan = path.a(grid[0]), rg.plan(name, path, grid=grid)
    *_, last = rg.steps(plan[: len(plan) - 1], mixture(path), x=a * START)
    assert torch.allclose(last.x_t / path.a(grid[-1]), y, rtol=0, atol=1e-8)


def test_tab3_is_three_times_closer_than_ddim_at_ten_evaluations(mixture):
    path = rg.paths.VP()
    den, x = mixture(path), Noise.first(64, seed=3).prior((2,), torch.float64)
    exact = rg.sample(den, rg.plan("rho_rk4", path, nfe=2001, grid="quadratic"), x=x)
    error = {
        name: float((rg.sample(den, rg.plan(name, path, nfe=10, grid="quadratic"), x=x) - exact).abs().mean())
        for name in ("ddim", "deis_tab3", "deis_rhoab3")
    }
    assert 3.0 * error["deis_tab3"] < error["ddim"]
    assert error["deis_rhoab3"] < 0.5 * error["ddim"]


def test_tab3_is_three_times_closer_than_ddim_on_a_network():
    """Small digits in ten evaluations on the paper's quadratic grid, against a hundred."""
    den = rg.load("digits8-flow")
    fine = rg.sample(den, rg.plan("unipc_3", den, nfe=100, grid="uniform"), n=48, seed=1)
    error = {
        name: float((rg.sample(den, rg.plan(name, den, nfe=10, grid="quadratic"), n=48, seed=1) - fine).pow(2).mean().sqrt())
        for name in ("ddim", "deis_tab3")
    }
    assert 3.0 * error["deis_tab3"] < error["ddim"], error


def test_a_start_of_low_order_caps_the_slope_at_two(mixture):
    """With its own warm-up, of orders 1, 2, 3, tAB3 ends with slope min(r + 1, 2); with exact history it is 4."""
    path = rg.paths.VP()
    den = mixture(path)
    start = torch.tensor([[1.75, -0.7], [-1.05, 1.4]], dtype=torch.float64)

    def end(name: str, n: int) -> torch.Tensor:
        plan = rg.plan(name, path, grid=np.linspace(0.5, 0.1, n + 1).tolist())
        *_, last = rg.steps(plan[: len(plan) - 1], den, x=start)
        return last.x_t

    exact = end("rho_rk4", 800)
    errors = [float((end("deis_tab3", n) - exact).abs().max()) for n in (200, 400)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.25), errors
