"""MRS against its published formulas, with the mean written out, and against DPM-Solver++ on what is left without it."""

import math

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.run import Memory

DOUBLE = torch.float64
X, MU, *OUTPUTS, Z = torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
PATHS = (rg.paths.mean_reverting_cosine(), rg.paths.MeanReverting(), rg.paths.MeanReverting(rg.paths.VPCosine(), spread=1.0))


def made(row: rg.Row, x: torch.Tensor) -> torch.Tensor:
    """What a row makes of a state, the newest outputs, the mean and noise."""
    total = row.states[0] * x + row.anchor * MU
    for coefficient, output in zip(row.outputs, OUTPUTS, strict=False):
        total = total + coefficient * output
    return total + (row.noises[0] * Z if row.noises else 0.0)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.base.name)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_mrs_has_the_published_coefficients(path, order):
    times = [path.t_max, 0.83 * path.t_max, 0.6 * path.t_max, 0.35 * path.t_max, 0.3 * path.t_max]
    a, s = [path.a(t) for t in times], [path.s(t) for t in times]
    lam = [math.log(x / y) for x, y in zip(a, s, strict=True)]
    D, D_before, D_oldest = OUTPUTS
    for name in ("mrs_ode", "mrs_noise", "mrs_sde", "mrs_noise_sde"):
        if order == 3 and name != "mrs_ode":
            continue
        plan = rg.plan(name, path, grid=times, order=order)
        for i in range(1, len(times)):
            h = lam[i] - lam[i - 1]
            r = (lam[i - 1] - lam[i - 2]) / h if i > 1 else math.inf
            slope = 0.0 * D if order == 1 or i == 1 else (D - D_before) / r
            if name == "mrs_ode":
                phi_1 = math.expm1(-h)
                phi_2 = phi_1 / h + 1
                phi_3 = phi_2 / h - 0.5
                curve = 0.0 * D
                if order == 3 and i > 2:
                    r_before = (lam[i - 2] - lam[i - 3]) / h
                    older = (D_before - D_oldest) / r_before
                    curve = (slope - older) / (r + r_before)
                    slope = slope + r / (r + r_before) * (slope - older)
                x = s[i] / s[i - 1] * X - a[i] * (phi_1 * D - phi_2 * slope + phi_3 * curve)
                x = x + MU * (1 - s[i] / s[i - 1] + s[i] * a[i - 1] / s[i - 1] - a[i])
            elif name == "mrs_noise":
                phi_1 = math.expm1(h)
                phi_2 = phi_1 / h - 1
                x = a[i] / a[i - 1] * X - s[i] * (phi_1 * D + phi_2 * slope) + MU * (1 - a[i] / a[i - 1])
            elif name == "mrs_noise_sde":
                phi_1 = math.expm1(h)
                phi_2 = phi_1 / h - 1
                x = a[i] / a[i - 1] * X - 2 * s[i] * (phi_1 * D + phi_2 * slope)
                x = x + s[i] * math.sqrt(math.expm1(2 * h)) * Z + MU * (1 - a[i] / a[i - 1])
            else:
                gone = -math.expm1(-2 * h)
                x = s[i] / s[i - 1] * math.exp(-h) * X + a[i] * gone * D + a[i] * (1 - gone / (2 * h)) * slope
                x = x + s[i] * math.sqrt(gone) * Z
                x = x + MU * (1 - a[i] / a[i - 1] * math.exp(-2 * h) - a[i] * gone)
            assert torch.allclose(made(plan[i - 1], X), x, rtol=0, atol=1e-10), (name, i)


def test_the_mean_is_only_a_shift_of_the_phi_2_form_of_dpm_solver(mixture):
    """Each variant on x equals itself on x - mu over the base, plus mu: to 1e-10, with the same noise."""
    base = rg.paths.VP()
    path = rg.paths.MeanReverting(base, spread=1.0)
    mu = torch.tensor([[0.4, -1.1], [2.0, 0.3]], dtype=DOUBLE)
    for name in ("mrs_ode", "mrs_noise", "mrs_sde", "mrs_noise_sde"):
        plan = rg.plan(name, path, nfe=10, grid="log_snr")
        moved = rg.sample(mixture(path), plan, seed=1, anchor=mu, signal=0 * mu, dtype=DOUBLE)
        plain = rg.sample(mixture(base), rg.plan(name, base, nfe=10, grid="log_snr"), n=2, seed=1, dtype=DOUBLE)
        assert torch.allclose(moved, plain, rtol=0, atol=1e-10), name


def test_order_one_is_a_known_step_and_order_three_is_dpm_solver_3m_after_its_start():
    path = rg.paths.mean_reverting_cosine()
    for name, same in (("mrs_ode", "ddim"), ("mrs_sde", "ddpm"), ("mrs_noise_sde", "seeds_1")):
        one, other = rg.plan(name, path, nfe=8, order=1), rg.plan(same, path, nfe=8)
        for row, equal in zip(one.rows, other.rows, strict=True):
            for part in ("states", "outputs", "noises"):
                assert getattr(row, part) == pytest.approx(getattr(equal, part), rel=1e-9, abs=1e-13)
    two, dpm = rg.plan("mrs_noise", path, nfe=8), rg.plan("dpm_solver_2m", path, nfe=8, form="heun")
    for row, equal in zip(two.rows, dpm.rows, strict=True):
        assert row.outputs == pytest.approx(equal.outputs, rel=1e-9, abs=1e-13)
    three, dpm = rg.plan("mrs_ode", path, nfe=8, order=3), rg.plan("dpmpp_3m", path, nfe=8)
    assert three.rows[2:] == dpm.rows[2:]
    assert three.rows[1] != dpm.rows[1]  # the second step is the phi_2 form there, the midpoint form here


def test_its_orders_on_a_mixture_with_a_fixed_mean(mixture):
    """Slopes 1, 2 and 2 with a smaller constant; with the whole second difference 3, from exact start-up history."""
    path = rg.paths.mean_reverting_cosine()
    den, mu = mixture(path), torch.tensor([[0.4, -1.1], [2.0, 0.3]], dtype=DOUBLE)
    high = path.time_of_sigma(2.0)
    x = path.a(high) * torch.tensor([[0.5, -0.3], [-0.7, 0.8]], dtype=DOUBLE) + path.b(high) * mu
    start_at = x + path.s(high) * torch.tensor([[1.2, -0.4], [-0.3, 0.9]], dtype=DOUBLE)

    def run(name: str, n: int, first: int = 0, state=None, **options):
        levels = 2.0 * 0.25 ** (np.arange(n + 1) / n)
        plan = rg.plan(name, path, grid=[path.time_of_sigma(float(s)) for s in levels], **options)[:-1]
        if state is None:
            *_, last = rg.steps(plan, den, x=start_at, anchor=mu)
            return last.x_t
        *_, last = rg.run(plan[first:], den, state.states[0], memory=state, anchor=mu)
        return last.x_t

    exact = run("rho_rk4", 400)

    def history(n: int) -> Memory:
        """The exact states and data means at the first three times."""
        levels = 2.0 * 0.25 ** (np.arange(3) / n)
        times = [path.time_of_sigma(float(s)) for s in levels]
        states = [start_at]
        for t, t_next in zip(times, times[1:], strict=False):
            fine = [path.time_of_sigma(path.sigma(t) * (path.sigma(t_next) / path.sigma(t)) ** (k / 20)) for k in range(20)]
            plan = rg.plan("rho_rk4", path, grid=[*fine, t_next])[:-1]
            *_, last = rg.steps(plan, den, x=states[-1], anchor=mu)
            states.append(last.x_t)
        means = [den.predict(x, t, {"anchor": mu}).data for x, t in zip(states, times, strict=True)]
        return Memory(tuple(states[::-1]), tuple(means[1::-1]))

    counts = (24, 48, 96)
    for name, options, order in (
        ("mrs_ode", {"order": 1}, 1.0),
        ("mrs_ode", {"order": 2}, 2.0),
        ("mrs_ode", {"order": 3}, 2.0),
        ("unip_3", {}, 3.0),
    ):
        errors = [float((run(name, n, 2, history(n), **options) - exact).abs().max()) for n in counts]
        assert -np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(order, abs=0.25), (name, options, errors)


@pytest.mark.parametrize("name", ["mrs_ode", "mrs_noise", "mrs_sde", "mrs_noise_sde"])
def test_an_order_it_has_not_is_refused(name):
    with pytest.raises(BadValue, match="order=4"):
        rg.plan(name, rg.paths.MeanReverting(), nfe=5, order=4)
