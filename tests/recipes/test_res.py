"""Exponential methods: their weights integrate polynomials in log-SNR, and their steps are those published."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

EDM = rg.paths.EDM()
KARRAS = rg.grids.karras(EDM, 12)
START = EDM.sigma_max * Noise.first(3, seed=2).prior((2,), torch.float64)
STEP = 2.0  # of log-SNR: far from the limit where phi_2 is phi_1/2


def moment(power: int, h: float = STEP) -> float:
    """The integral of e^(tau - h) (tau/h)^power over one step: power! h phi_(power + 1) at -h."""
    return quad(lambda tau: math.exp(tau - h) * (tau / h) ** power, 0.0, h, epsabs=1e-14)[0]


def last_row(name: str, grid: list[float]) -> tuple[float, ...]:
    """The weights of the last step before the end, oldest first; on the EDM path a = 1."""
    return rg.plan(name, EDM, grid=grid)[-2].outputs[::-1]


@pytest.mark.parametrize(
    ("name", "nodes", "degree"),
    [
        ("res_2s", (0.0, 0.5), 1),
        ("etdrk_2", (0.0, 1.0), 1),
        ("etdrk_3", (0.0, 0.5, 1.0), 2),
        ("dpmpp_3s", (0.0, 1 / 3, 2 / 3), 1),
        ("dpmpp_2s", (0.0, 0.5), 0),
    ],
)
def test_exponential_methods_meet_the_stiff_order_conditions(name, nodes, degree):
    """sum_j b_j c_j^k = k! phi_(k+1)(-h) for k up to the degree, at any step length, and not beyond."""
    row = last_row(name, [1.0, math.exp(-STEP)])
    for power in range(degree + 2):
        got = sum(b * c**power for b, c in zip(row, nodes, strict=True))
        assert (got == pytest.approx(moment(power), rel=1e-9)) == (power <= degree), power


def test_the_inner_points_of_dpmpp_3s_meet_theirs():
    """a_32 c_2 = c_3^2 phi_2(-c_3 h): with b_2 = 0, all that order 3 in the stiff sense asks of the stages."""
    one, two, last = rg.plan("dpmpp_3s", EDM, grid=[1.0, math.exp(-STEP)]).rows[:-1]
    assert one.outputs == pytest.approx((moment(0, STEP / 3),))
    assert two.outputs[0] / 2 == pytest.approx(moment(1, STEP * 2 / 3))
    assert (len(last.outputs), last.outputs[1]) == (3, 0.0)


@pytest.mark.parametrize(("name", "degree"), [("res_2m", 1), ("unip_3", 2), ("dpmpp_2m", 0), ("dpmpp_3m", 1)])
def test_multistep_weights_integrate_polynomials_in_log_snr(name, degree):
    """On uneven steps. `unip_3` is the refined method of order 3; `dpmpp_3m`, with half the second difference, is not."""
    lams = (0.0, 0.7, 1.8, 1.8 + STEP)
    row = last_row(name, [math.exp(-lam) for lam in lams])
    nodes = [(lam - lams[2]) / STEP for lam in lams[3 - len(row) : 3]]
    exact = [sum(b * c**k for b, c in zip(row, nodes, strict=True)) == pytest.approx(moment(k), rel=1e-9) for k in range(4)]
    assert exact == [k <= degree for k in range(4)]


def test_res_2m_is_the_published_step(mixture):
    """Zhang et al., 2023, arXiv 2308.02157, in sigma as public codes have it: b_2 = phi_2/c_2 with c_2 < 0."""
    den, x, old = mixture(EDM), START, None
    for i, (s, s_next) in enumerate(zip(KARRAS, KARRAS[1:], strict=False)):
        mean = den.predict(x, s).data
        h = math.log(s / s_next)
        phi_1 = math.expm1(-h) / -h
        phi_2 = (phi_1 - 1.0) / -h
        b_2 = phi_2 / (-math.log(KARRAS[i - 1] / s) / h) if i else 0.0
        x = math.exp(-h) * x + h * ((phi_1 - b_2) * mean + (b_2 * old if i else 0.0))
        old = mean
    *_, last = rg.steps(rg.plan("res_2m", EDM, grid=KARRAS)[: len(KARRAS) - 1], mixture(EDM), x=START)
    assert torch.allclose(last.x_t, x, rtol=0, atol=1e-9)


def test_dpmpp_3s_is_the_published_step(mixture):
    """Lu et al., 2022, arXiv 2211.01095, third-order single step on VP with r_1 = 1/3, r_2 = 2/3."""
    path = rg.paths.VP()
    den, x = mixture(path), START / EDM.sigma_max
    grid = rg.grids.make(path, 6, "log_snr")

    def at(lam: float) -> tuple[float, float, float]:
        t = path.time_of_log_snr(2.0 * lam)
        return t, path.a(t), path.s(t)

    y = x
    for t, t_next in zip(grid, grid[1:], strict=False):
        lam, h = 0.5 * path.log_snr(t), 0.5 * (path.log_snr(t_next) - path.log_snr(t))
        (t_1, a_1, s_1), (t_2, a_2, s_2), (_, a_3, s_3) = (at(lam + r * h) for r in (1 / 3, 2 / 3, 1.0))
        d = den.predict(y, t).data
        u = s_1 / path.s(t) * y - a_1 * math.expm1(-h / 3) * d
        d_1 = den.predict(u, t_1).data - d
        phi = math.expm1(-2 * h / 3) / (2 * h / 3) + 1
        u = s_2 / path.s(t) * y - a_2 * math.expm1(-2 * h / 3) * d + 2 * a_2 * phi * d_1
        d_2 = den.predict(u, t_2).data - d
        y = s_3 / path.s(t) * y - a_3 * math.expm1(-h) * d + 1.5 * a_3 * (math.expm1(-h) / h + 1) * d_2
    plan = rg.plan("dpmpp_3s", path, grid=grid)
    *_, last = rg.steps(plan[: len(plan) - 1], den, x=x)
    assert torch.allclose(last.x_t, y, rtol=0, atol=1e-9)


@pytest.mark.diffusers
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_dpmpp_3s_agrees_with_diffusers(path_called, mixture):
    """diffusers takes the inner points as steps of orders 1, 2, 3; the second is of its type "heun", the last "midpoint"."""
    import diffusers

    path = path_called("vp_discrete")
    den = mixture(path, "noise")
    outer = [path.sigma(t) for t in np.linspace(0.96, 0.01, 8)]
    sigmas = [outer[0]]
    for high, low in zip(outer, outer[1:], strict=False):
        sigmas += [high * (low / high) ** (k / 3) for k in (1, 2, 3)]
    betas = 1.0 - np.array(path.alphas_cumprod) / np.array([1.0, *path.alphas_cumprod[:-1]])
    made = diffusers.DPMSolverSinglestepScheduler(
        trained_betas=betas.tolist(), lower_order_final=False, solver_order=3, final_sigmas_type="sigma_min"
    )
    made.set_timesteps(len(sigmas) - 1)
    made.sigmas, made.order_list = torch.tensor(sigmas, dtype=torch.float64), [1, 2, 3] * (len(outer) - 1)
    t_0 = path.time_of_sigma(sigmas[0])
    x = start = path.a(t_0) * 0.5 + path.s(t_0) * Noise.first(3, seed=8).prior((2,), torch.float64)
    for i, timestep in enumerate(made.timesteps):
        made.register_to_config(solver_type="heun" if i % 3 == 1 else "midpoint")
        x = made.step(den.predict(x.double(), path.time_of_sigma(sigmas[i])).noise.float(), timestep, x.float()).prev_sample
    plan = rg.plan("dpmpp_3s", path, grid=rg.grids.from_sigmas(path, outer))
    *_, last = rg.steps(plan[: len(plan) - 1], den, x=start)
    assert float((last.x_t - x.double()).abs().max()) < 1e-4 * float(last.x_t.abs().max())


def test_the_place_of_the_inner_point_is_free_within_the_step(mixture):
    """Any ratio has order 2: halving the steps divides the error by four."""
    den, path = mixture(rg.paths.VP()), rg.paths.VP()
    x = Noise.first(16, seed=5).prior((2,), torch.float64)

    def end(n: int, **options: float) -> torch.Tensor:
        grid = [path.time_of_sigma(s) for s in np.geomspace(20.0, 0.3, n + 1)]
        return rg.sample(den, rg.plan("res_2s", path, grid=grid, **options), x=x)

    exact = end(3000)
    for ratio in (0.3, 1.0):
        one, two = (float((end(n, ratio=ratio) - exact).abs().max()) for n in (60, 120))
        assert math.log2(one / two) == pytest.approx(2.0, abs=0.25)
    with pytest.raises(BadValue, match=r"ratio=0\.5"):
        rg.plan("res_2s", path, nfe=5, ratio=0.0)
