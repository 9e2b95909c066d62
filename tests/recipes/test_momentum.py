"""Momentum against its recursion written out, its stability against the companion matrix, and what it is for."""

import numpy as np
import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

EDM = rg.paths.EDM()
KARRAS = rg.grids.karras(EDM, 14)
START = EDM.sigma_max * Noise.first(3, seed=2).prior((2,), torch.float64)
BASHFORTH = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


def mixed(order: int, v: list[Tensor], b: float) -> Tensor:
    """The combination of smoothed predictions, newest first (Wizadwongsa et al., 2023, arXiv 2307.11118)."""
    match order:
        case 1:
            return v[0]
        case 2:
            return ((2 + b) * v[0] - (2 - b) * v[1]) / (2 * b)
        case 3:
            return ((18 + 5 * b) * v[0] - (24 - 8 * b) * v[1] + (6 - b) * v[2]) / (12 * b)
        case _:
            return ((46 + 9 * b) * v[0] - (78 - 19 * b) * v[1] + (42 - 5 * b) * v[2] - (10 - b) * v[3]) / (24 * b)


def sample(den, name: str, **options: float) -> Tensor:
    plan = rg.plan(name, EDM, grid=KARRAS, **options)
    *_, last = rg.steps(plan[: len(plan) - 1], den, x=START)
    return last.x_t


@pytest.mark.parametrize("beta", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ghvb_is_the_recursion_of_the_paper(order, beta, mixture):
    """v_n = (1-b) v_n-1 + b e_n with v_0 = e_0, its start of lower orders included."""
    den, y, v = mixture(EDM), START, []
    for s, s_next in zip(KARRAS, KARRAS[1:], strict=False):
        e = den.predict(y, s).noise
        v.insert(0, (1 - beta) * v[0] + beta * e if v else e)
        y = y + (s_next - s) * mixed(min(order, len(v)), v, beta)
    assert torch.allclose(sample(den, f"ghvb_{order}", beta=beta), y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", [0.3, 0.8])
@pytest.mark.parametrize("order", [2, 3, 4])
def test_heavy_ball_is_the_recursion_of_the_paper(order, beta, nesterov, mixture):
    den, y, past, v = mixture(EDM), START, [], None
    for s, s_next in zip(KARRAS, KARRAS[1:], strict=False):
        past.insert(0, den.predict(y, s).noise)
        m = sum(c * e for c, e in zip(BASHFORTH[min(order, len(past))], past, strict=False))
        v = m if v is None else (1 - beta) * v + beta * m
        y = y + (s_next - s) * ((1 - beta) * v + beta * m if nesterov else v)
    assert torch.allclose(sample(den, f"hb_{order}", beta=beta, nesterov=nesterov), y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("beta", [0.4, 0.8, 1.0])
def test_heavy_ball_on_data_means_is_its_recursion(beta, mixture):
    """v_n = (1-b) v_n-1 + b (D + (D - D_-1)/(2r)) with v_0 = D_0, x' = (s'/s) x + (1 - s'/s) v."""
    den, x, past, v = mixture(EDM), START, [], None
    for i, (s, s_next) in enumerate(zip(KARRAS, KARRAS[1:], strict=False)):
        past.insert(0, den.predict(x, s).data)
        m = past[0]
        if i:
            h, h_last = np.log(s / s_next), np.log(KARRAS[i - 1] / s)
            m = m + 0.5 * h / h_last * (past[0] - past[1])
        v = m if v is None else (1 - beta) * v + beta * m
        x = s_next / s * x + (1 - s_next / s) * v
    assert torch.allclose(sample(den, "hb_2m", beta=beta), x, rtol=0, atol=1e-9)
    for plain, same in zip(rg.plan("dpmpp_2m", EDM, nfe=9).rows, rg.plan("unip_2", EDM, nfe=9).rows, strict=True):
        assert plain.outputs == pytest.approx(same.outputs, rel=1e-9, abs=1e-12)  # momentum on UniP-2 is this too
    if beta == 1.0:
        assert rg.plan("hb_2m", EDM, nfe=9, beta=1.0) == rg.plan("dpmpp_2m", EDM, nfe=9)


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("beta", [0.4, 0.8, 1.0])
def test_heavy_ball_on_the_corrector_is_its_recursion(beta, divided, mixture):
    """UniC-1 with B = e^-h - 1 averages D and the new D with halves; v_n = (1-b) v_n-1 + b M_n, v_0 = M_0, or of M_n/s'."""
    den, x, v = mixture(EDM), START, None
    mean = den.predict(x, KARRAS[0]).data
    for s, s_next in zip(KARRAS, KARRAS[1:], strict=False):
        predicted = s_next / s * x + (1 - s_next / s) * mean  # the predictor has no momentum
        if s_next == KARRAS[-1]:
            x = predicted  # the corrector would wait for the evaluation at the end
            break
        last, mean = mean, den.predict(predicted, s_next).data
        unit = s_next if divided else 1.0
        m = 0.5 * (last + mean) / unit
        v = m if v is None else (1 - beta) * v + beta * m
        x = s_next / s * x + (1 - s_next / s) * unit * v
    assert torch.allclose(sample(den, "hb_unipc", beta=beta, order=1, divided=divided), x, rtol=0, atol=1e-9)
    # dividing costs the law of the point mass
    misses = rg.plan("hb_unipc", EDM, grid=KARRAS, beta=beta, order=1, divided=divided).misses
    assert bool(misses) == (divided and beta < 1.0)


@pytest.mark.parametrize("path_name", ["edm", "vp", "flow"])
def test_without_momentum_the_corrector_is_that_of_unipc(path_name, path_called):
    path = path_called(path_name)
    for order in (2, 3):
        plain = rg.plan(f"unipc_{order}", path, nfe=12, variant="bh1")
        assert rg.plan("hb_unipc", path, nfe=12, order=order, beta=1.0, variant="bh1") == plain
    with pytest.raises(BadValue, match="order=3"):
        rg.plan("hb_unipc", path, nfe=12, order=4)


@pytest.mark.parametrize("path_name", ["edm", "vp", "flow"])
def test_without_momentum_the_tables_are_those_of_ipndm_bit_by_bit(path_name, path_called):
    path = path_called(path_name)
    for order in (1, 2, 3, 4):
        plain = rg.plan(f"ipndm_{order}", path, nfe=12)
        assert rg.plan(f"ghvb_{order}", path, nfe=12, beta=1.0) == plain
        if order > 1:
            assert rg.plan(f"hb_{order}", path, nfe=12, beta=1.0) == plain
            assert rg.plan(f"hb_{order}", path, nfe=12, beta=1.0, nesterov=True) == plain


def stable(name: str, q: float, **options: float) -> bool:
    """Whether y' = q y over falling sigma decays under steps of length one: roots of the table's own polynomial."""
    row = rg.plan(name, EDM, grid=np.linspace(30.0, 10.0, 21), **options)[12]
    states, outputs = np.zeros(6), np.zeros(6)
    states[: len(row.states)], outputs[: len(row.outputs)] = row.states, row.outputs
    return bool(np.abs(np.roots([1.0, *-(states + q * outputs)])).max() <= 1.0 + 1e-9)


@pytest.mark.parametrize(
    ("order", "limits"), [(1, (2.0, 3.0, 6.0)), (2, (1.0, 1.2, 1.5)), (4, (0.30, 0.35, 0.42))], ids=["1", "2", "4"]
)
def test_the_region_of_stability_grows_as_beta_falls(order, limits):
    for beta, limit in zip((1.0, 0.8, 0.5), limits, strict=True):
        scan = np.arange(0.005, 8.0, 0.005)
        largest = next(q for q in scan if not stable(f"ghvb_{order}", q, beta=beta)) - 0.005
        assert largest == pytest.approx(limit, abs=0.011)


@pytest.mark.parametrize("beta", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_rows_have_the_order_for_every_beta(order, beta):
    """On an even grid the row is exact for y = sigma^p, p = 0..order, and for no higher power."""
    grid = np.linspace(3.0, 1.0, 11)
    row = rg.plan(f"ghvb_{order}", EDM, grid=grid, beta=beta)[7]
    for p in range(order + 2):
        states = sum(c * grid[7 - j] ** p for j, c in enumerate(row.states))
        slopes = sum(c * p * grid[7 - j] ** (p - 1) for j, c in enumerate(row.outputs)) if p else 0.0
        defect = abs(states + slopes - grid[8] ** p)
        assert (defect < 1e-12) == (p <= order), (p, defect)


def test_less_diverges_under_strong_guidance():
    """Two classes, weight 15, eight and ten evaluations: the share of items that end far from their class."""
    means = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
    den = rg.oracles.GaussianMixture(EDM, means, torch.eye(2).expand(2, 2, 2) * 0.05, torch.tensor([0.5, 0.5]))
    one = rg.oracles.GaussianMixture(EDM, means[:1], torch.eye(2)[None] * 0.05, torch.ones(1))

    def saturated(name: str, nfe: int, **options: float) -> float:
        rows = rg.plan(name, EDM, nfe=nfe, **options)
        x = EDM.sigma_max * Noise.first(256, seed=4).prior((2,), torch.float64)
        outputs: list[Tensor] = []
        states = [x]
        for row in rows.rows:
            free, bound = (d.predict(states[0], row.time).read(rows.basis) for d in (den, one))
            outputs.insert(0, free + 15.0 * (bound - free))
            terms = ((row.states, states), (row.outputs, outputs))
            states.insert(0, sum(c * v for cs, vs in terms for c, v in zip(cs, vs, strict=False)))
        away = (states[0] - means[0].double()).norm(dim=1)
        return float((away > 1.5).double().mean())

    for nfe in (8, 10):
        assert saturated("ghvb_4", nfe, beta=0.5) < saturated("ipndm_4", nfe)
        assert saturated("ghvb_2", nfe, beta=0.5) == 0.0 <= saturated("ipndm_2", nfe)
        assert saturated("ghvb_2", nfe, beta=0.5) < saturated("dpmpp_2m", nfe)
        assert saturated("hb_2m", nfe, beta=0.8) < 0.5 * saturated("dpmpp_2m", nfe)


def test_at_fifty_steps_the_fourth_order_loses_no_tenth(mixture):
    """Without guidance; of order 2 it loses more (half again at beta = 0.8), against what the entry of the paper says."""
    den = mixture(EDM)
    fine = rg.sample(den, rg.plan("unipc_3", EDM, nfe=300, grid="log_snr"), n=32, dtype=torch.float64)

    def error(name: str, **options: float) -> float:
        made = rg.sample(den, rg.plan(name, EDM, nfe=50, **options), n=32, dtype=torch.float64)
        return float((made - fine).pow(2).mean().sqrt())

    for beta in (0.5, 0.8):
        assert error("ghvb_4", beta=beta) == pytest.approx(error("ipndm_4"), rel=0.1)
    assert error("ghvb_2", beta=0.8) > 1.2 * error("ipndm_2")


def test_a_plan_cut_at_a_noise_level_puts_its_missing_state_straight_back():
    plan = rg.plan("ghvb_2", EDM, grid=KARRAS)
    lower = plan.from_noise(KARRAS[5])
    assert (lower.start, len(lower[0].states), len(lower[1].states)) == (KARRAS[5], 1, 2)
    # w_-1 becomes the newest prediction, so that the first step is one of Euler's
    assert lower[0].states == pytest.approx((1.0,))
    assert sum(lower[0].outputs) == pytest.approx(KARRAS[6] - KARRAS[5])


@pytest.mark.parametrize("beta", [0.0, 1.2])
def test_beta_outside_its_range_is_named(beta):
    with pytest.raises(BadValue, match=r"beta=0\.8"):
        rg.plan("ghvb_2", EDM, nfe=5, beta=beta)
