"""Replacement of what is known: exact where the rest is independent, and its bias in closed form where it is not."""

import math

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.errors import BadValue, PlanError, ShapeError

DOUBLE = torch.float64
PATH = rg.paths.VE(sigma_min=0.01, sigma_max=100.0)


def pairs(correlation: float, n: int) -> rg.Denoiser:
    """One item of n pairs of standard Gaussians (so many draws at once are quick); the second of each will be known."""
    both = rg.oracles.Gaussian(PATH, torch.zeros(2), torch.tensor([[1.0, correlation], [correlation, 1.0]]))

    def exact(x_t: Tensor, t: Tensor) -> Tensor:
        return both.predict(x_t.flatten(0, 1), float(t[0])).data.reshape(x_t.shape)

    return rg.Denoiser(exact, PATH, "data", (n, 2))


def filled(den: rg.Denoiser, plan: rg.Plan, y: float) -> Tensor:
    """The first of each pair where the second is y."""
    known = torch.tensor([math.nan, y]).expand(1, *den.shape)
    it = rg.controllers.replacement(plan.path, known, torch.tensor([False, True]))
    made = rg.sample(den, plan, seed=1, dtype=DOUBLE, controllers=[it])[0]
    assert torch.equal(made[:, 1], known[0, :, 1].double())
    return made[:, 0]


@pytest.mark.parametrize("name", ["predictor_corrector", "reverse_diffusion", "dpmpp_2m", "heun"])
def test_what_is_independent_of_the_known_is_left_alone(name):
    """Exact: independent coordinates are sampled as without replacement, bit by bit; and all if nothing is known."""
    den, plan = pairs(0.0, 5), rg.plan(name, PATH, nfe=17)
    free = rg.sample(den, plan, seed=1, dtype=DOUBLE)
    assert torch.equal(filled(den, plan, 1.5), free[0, :, 0])
    none = rg.controllers.replacement(den, torch.zeros(1, 5, 2), torch.zeros(2))
    assert torch.equal(rg.sample(den, plan, seed=1, dtype=DOUBLE, controllers=[none]), free)
    tied = pairs(0.8, 5)
    assert not torch.allclose(filled(tied, plan, 1.5), rg.sample(tied, plan, seed=1, dtype=DOUBLE)[0, :, 0])


@pytest.mark.parametrize("correlation", [0.5, 0.8])
def test_the_bias_is_that_of_the_closed_form(correlation):
    """Small steps of the reverse SDE: mean y (1 - sqrt(1 - r^2))/r, not r y; variance (1 - r^2) atanh(r)/r, not 1 - r^2."""
    n, y, r = 40_000, 1.5, correlation
    x = filled(pairs(r, n), rg.plan("reverse_diffusion", PATH, nfe=300, grid="log_snr"), y)
    error = 3.0 * math.sqrt(float(x.var()) / n)
    assert x.mean() == pytest.approx(y * (1.0 - math.sqrt(1.0 - r * r)) / r, abs=error + 0.01)
    assert x.mean() < r * y - 4.0 * error
    assert x.var() == pytest.approx((1.0 - r * r) * math.atanh(r) / r, abs=3.0 * math.sqrt(2.0 / n) + 0.01)
    assert x.var() > (1.0 - r * r) * (1.0 + 3.0 * math.sqrt(2.0 / n))


def test_langevin_steps_at_the_levels_pay_it_back():
    """In the loop of predictor and corrector the mean comes to r y; without corrections it stays a third below."""
    n, y, r = 10_000, 1.5, 0.8
    times = rg.grids.log_snr(PATH, 151)
    predictor = rg.plan("reverse_diffusion", PATH, grid=times)
    loop = rg.plan("predictor_corrector", PATH, grid=times, sigma_data=0.6)
    off = [float(filled(pairs(r, n), plan, y).mean()) - r * y for plan in (predictor, loop)]
    assert off[0] < -0.4
    assert abs(off[1]) < 0.1 * abs(off[0])


def test_a_coordinate_of_another_basis_is_known():
    """Grey of three colours: what a picture has of it stays, and colours that do not depend on grey are left alone."""
    grey = torch.linalg.qr(torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=DOUBLE))[0]
    assert torch.allclose(grey[:, 0].abs(), torch.full((3,), 3**-0.5, dtype=DOUBLE))
    # three colours of two pixels; in the grey basis the coordinates are independent
    whole = torch.kron(grey.contiguous(), torch.eye(2, dtype=DOUBLE))
    covariance = whole @ torch.diag(torch.tensor([2.0, 1.5, 0.3, 0.4, 0.2, 0.1], dtype=DOUBLE)) @ whole.T
    den = rg.oracles.Gaussian(PATH, torch.ones(3, 1, 2), covariance)
    y = den.sample(4, seed=9)
    mask = torch.tensor([True, False, False]).reshape(3, 1, 1)
    it = rg.controllers.replacement(den, y, mask, basis=grey)
    plan = rg.plan("predictor_corrector", PATH, nfe=41)
    coloured, free = (rg.sample(den, plan, n=4, seed=1, dtype=DOUBLE, controllers=c) for c in ([it], []))
    assert torch.allclose(coloured.mean(1), y.mean(1), atol=1e-9)
    turned, alone = (torch.einsum("nkhw,kj->njhw", x, grey) for x in (coloured, free))
    assert torch.allclose(turned[:, 1:], alone[:, 1:], atol=1e-9)
    assert not torch.allclose(turned[:, :1], alone[:, :1], atol=0.1)
    plain = rg.controllers.replacement(den, y, mask, basis=torch.eye(3))
    same = rg.controllers.replacement(den, y, mask)
    one, other = (rg.sample(den, plan, n=4, seed=1, dtype=DOUBLE, controllers=[c]) for c in (plain, same))
    assert torch.allclose(one, other, atol=1e-12)


def test_the_known_part_has_the_noise_of_the_level_reached():
    n = 1000
    y = torch.tensor([[0.0, 2.0]]).expand(n, 2)
    path = rg.paths.VP()
    den = rg.oracles.Gaussian(path, torch.zeros(2), 1.0)
    it = rg.controllers.replacement(path, y, torch.tensor([False, True]))
    states = rg.record(den, rg.plan("reverse_diffusion", path, grid=[1.0, 0.6, 0.3]), n=n, controllers=[it]).trajectory
    for t, x in zip((0.6, 0.3), states[1:], strict=False):
        assert x[:, 1].mean() == pytest.approx(2.0 * path.a(t), abs=4.0 * path.s(t) / math.sqrt(n))
        assert x[:, 1].std() == pytest.approx(path.s(t), rel=4.0 / math.sqrt(2 * n))
        assert torch.corrcoef(x.T)[0, 1].abs() < 4.0 / math.sqrt(n)
    assert torch.corrcoef(torch.stack([states[1][:, 1], states[2][:, 1]]))[0, 1].abs() < 4.0 / math.sqrt(n)


def test_an_item_is_filled_alike_in_any_batch():
    den = rg.oracles.Gaussian(PATH, torch.zeros(2), torch.tensor([[1.0, 0.8], [0.8, 1.0]]))
    plan = rg.plan("ddpm", PATH, nfe=9)
    y, mask = den.sample(4, seed=2), torch.tensor([False, True])
    whole = rg.sample(den, plan, n=4, seed=1, controllers=[rg.controllers.replacement(den, y, mask)])
    it = rg.controllers.replacement(den, y[[3, 1]], mask, items=[3, 1])
    assert torch.equal(rg.sample(den, plan, seed=1, items=[3, 1], controllers=[it]), whole[[3, 1]])


def test_what_does_not_fit_is_refused():
    den, y, mask = rg.oracles.Gaussian(PATH, torch.zeros(2), 1.0), torch.zeros(3, 2), torch.tensor([True, False])
    with pytest.raises(PlanError, match="anchor"):
        rg.controllers.replacement(rg.paths.ResidualShift(), y, mask)
    with pytest.raises(BadValue, match="Gaussian noise"):
        rg.controllers.replacement(rg.paths.PFGMpp(), y, mask)
    with pytest.raises(BadValue, match="orthonormal"):
        rg.controllers.replacement(den, y, mask, basis=2.0 * torch.eye(2))
    with pytest.raises(ShapeError, match=r"\[2, 2\]"):
        rg.controllers.replacement(den, y, mask, basis=torch.eye(3))
    with pytest.raises(ShapeError, match="broadcasts"):
        rg.controllers.replacement(den, y, torch.ones(5))
    with pytest.raises(BadValue, match="one number for each"):
        rg.controllers.replacement(den, y, mask, items=[0])
    it = rg.controllers.replacement(den, y, mask)
    with pytest.raises(ShapeError, match="one y for each item"):
        rg.sample(den, rg.plan("ddim", den, nfe=3), n=2, controllers=[it])
    with pytest.raises(PlanError, match="one on 've'"):
        rg.sample(den, rg.plan("ddim", rg.paths.EDM(sigma_min=0.02), nfe=3), n=3, controllers=[it])
