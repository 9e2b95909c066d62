"""EVODiff against its loop written out, its limit, its order, and what it does to errors on an exact model."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

import retrograde as rg
from retrograde.controllers import EVODiff, evodiff
from retrograde.errors import BadValue, PlanError

EDM = rg.paths.EDM()


def sample(den: rg.oracles.GaussianMixture, it: EVODiff, n: int = 4, **options) -> Tensor:
    return rg.sample(den, it.plan, n=n, controllers=[it], dtype=torch.float64, **options)


def published(den: rg.oracles.GaussianMixture, x: Tensor, t: list[float]) -> Tensor:
    """The loop of its code on the EDM path, in sigma, and our closing row; items have one channel."""

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(1, keepdim=True)

    def projection(a: Tensor, b: Tensor) -> Tensor:
        return (dot(a, b) / dot(b, b)).clamp(-2, 2)

    def data(x: Tensor, sigma: float) -> Tensor:
        return den.predict(x, sigma).data

    steps = len(t) - 1
    D1, x = data(x, t[0]), x
    x = t[1] / t[0] * x + t[1] * (1 / t[1] - 1 / t[0]) * D1
    D0 = data(x, t[1])
    for i in range(2, steps):
        h, r = 1 / t[i] - 1 / t[i - 1], math.log(t[i - 2] / t[i - 1]) / math.log(t[i - 1] / t[i])
        base = t[i] / t[i - 1] * x + t[i] * h * D0
        w = 0.5 * (1 - ((t[i] + t[-1]) / (t[0] + t[-1])) ** 2)
        b0 = math.sqrt((t[i] / t[i - 1]) / (t[i - 1] / t[i - 2]))
        rho1 = (1 - w) * b0 + w * projection(D0, D1)
        d1 = D0 - rho1 * D1
        r_i = (torch.sigmoid(0.25 * rho1.abs()) * r).clamp(0.25 * r, 1.5 * r)
        x = base + 0.5 * t[i] * h / r_i * d1
        Dt = data(x, t[i])
        rho2 = (1 - w) * b0 + w * projection(Dt, D0)
        d2 = Dt - rho2 * D0
        P, Q = d1 / (r * h), r * d2 / h
        eta = 0.5 * torch.sigmoid((0.5 * projection(P + Q, Q - P)).abs())
        B = -eta / r * d1 + r * (1 - eta) * d2
        star = (projection(x - base - 0.5 * t[i] * h * B / r_i, d1) / (h * t[i])).abs() - 0.5
        if steps > 20:
            agreement = torch.sigmoid(projection(D0, (D0 - D1) / h) * (2 - (t[i] / t[i - 1]) ** 2))
            zeta = torch.sigmoid(-star * agreement)
        else:
            zeta = torch.sigmoid(star)
        x = base + 0.5 * t[i] * h / zeta * B
        D1, D0 = D0, Dt
    q, h = t[-1] / t[-2], 1 / t[-1] - 1 / t[-2]
    c = 1 - 0.5 * math.sqrt(q if q < 0.5 else q - 0.5)
    x = (1 - math.sqrt(t[-1] * t[-2])) * (q * x + t[-1] * h * D0) + 0.5 * t[-1] * h * (D0 - c * D1)
    return data(x, t[-1])


@pytest.mark.parametrize("nfe", [4, 7, 12, 26])
def test_it_is_the_published_loop(nfe, mixture):
    den = mixture(EDM)
    it = evodiff(den, nfe)
    x = EDM.sigma_max * torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double()
    rec = rg.record(den, it.plan, x=x, controllers=[it])
    assert torch.allclose(rec.samples, published(den, x, rg.grids.karras(EDM, nfe)), rtol=0, atol=1e-9)
    assert rec.ledger.nfe == rec.plan.nfe == it.plan.nfe == nfe


@pytest.mark.parametrize("path_name", ["edm", "vp", "flow"])
def test_without_its_weights_it_is_2m(path_name, path_called, mixture):
    den = mixture(path_called(path_name))
    for nfe in (1, 2, 3, 9):
        grid = rg.grids.karras(den.path, nfe, sigma_max=50.0)
        it = evodiff(den, grid=grid, balanced=False, corrected=False, closing=False)
        plain = rg.sample(den, rg.plan("dpmpp_2m", den, grid=grid), n=4, dtype=torch.float64)
        assert torch.allclose(sample(den, it), plain, rtol=0, atol=1e-12)


def test_the_plan_that_ran_replays_and_items_do_not_see_their_batch(mixture):
    den = mixture(EDM)
    it = evodiff(den, 8)
    rec = rg.record(den, it.plan, n=4, controllers=[it])
    assert not [row for row in rec.plan.rows if row.knobs]
    assert torch.equal(rg.sample(den, rec.plan, n=4), rec.samples)
    order = [2, 0, 3, 1]
    turned = rg.sample(den, it.plan, controllers=[it], items=order, n=4)
    assert torch.equal(turned, rec.samples[order])
    assert torch.allclose(sample(den, it, items=[3], n=1), sample(den, it)[3:], rtol=0, atol=1e-12)
    with pytest.raises(PlanError, match="knob 'evodiff'"):
        rg.sample(den, it.plan)


def test_weights_are_per_channel():
    path = rg.paths.EDM()
    points = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    den = rg.oracles.GaussianMixture(path, points, 0.1)
    it = evodiff(den, 6)
    rec = rg.record(den, it.plan, n=3, controllers=[it])
    weighed = [c for row in rec.plan.rows for c in row.outputs if isinstance(c, Tensor)]
    assert weighed
    assert {tuple(c.shape) for c in weighed} == {(3, 2, 1, 1)}


def test_its_order_is_one_where_2m_has_two(mixture):
    """The correction does not tend to the integral: on a smooth exact flow the slope is about one."""
    den, x = mixture(EDM), torch.tensor([[1.75, -0.7], [-1.05, 1.4], [0.2, 2.25]], dtype=torch.float64)

    def slope(log_sigma: float, y: np.ndarray) -> np.ndarray:
        y_t = torch.from_numpy(y.reshape(-1, 2))
        return (y_t - den.predict(y_t, math.exp(log_sigma)).data).numpy().ravel()

    ends = (math.log(2.0), math.log(0.5))
    exact = torch.from_numpy(solve_ivp(slope, ends, x.numpy().ravel(), "DOP853", rtol=1e-12, atol=1e-13).y[:, -1])

    def measured(**options: bool) -> float:
        errors = []
        for n in (40, 80, 160, 320):
            it = evodiff(den, grid=np.geomspace(2.0, 0.5, n + 1).tolist(), closing=False, **options)
            plan = it.plan[: len(it.plan) - 1]
            *_, last = rg.steps(plan, den, x=x, controllers=[it])
            errors.append(float((last.x_t - exact.reshape(-1, 2)).abs().max()))
        return -float(np.polyfit(np.log([40, 80, 160, 320]), np.log(errors), 1)[0])

    assert measured(balanced=False, corrected=False) == pytest.approx(2.0, abs=0.25)
    assert measured() == pytest.approx(1.0, abs=0.3)


def test_on_a_small_network_2m_is_nearer_to_the_flow():
    """What its docstring says of where it was not found to pay."""
    den = rg.load("digits8-flow")
    fine = rg.sample(den, rg.plan("dpmpp_3m", den, nfe=60, start=80.0), n=32, seed=1)

    def error(plan: rg.Plan, **options) -> float:
        return float((rg.sample(den, plan, n=32, seed=1, **options) - fine).pow(2).mean().sqrt())

    it = evodiff(den, 8, sigma_max=80.0)
    plain = rg.plan("dpmpp_2m", den, nfe=8, start=80.0, grid="karras")
    assert 2.0 < error(it.plan, controllers=[it]) / error(plain) < 8.0


def test_what_does_not_fit_is_named(mixture):
    with pytest.raises(BadValue, match="nfe=10"):
        evodiff(EDM)
    with pytest.raises(BadValue, match="falling"):
        evodiff(EDM, grid=[1.0, 2.0])
    saved = dataclasses.replace(evodiff(EDM, 6).plan)
    assert saved == evodiff(EDM, 6).plan
