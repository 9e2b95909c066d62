"""Where one recipe becomes another, row by row: without noise, after its start, or for predictions that stand still."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import retrograde as rg
from retrograde.noise import Noise
from retrograde.plan import Plan

EDM = rg.paths.EDM()
PATHS = ("edm", "flow", "vp")


def grid_on(path: rg.paths.Path, n: int = 9) -> list[float]:
    """Uneven steps between two levels."""
    return [path.time_of_sigma(10.0 * 0.02 ** (i / n) ** 1.3) for i in range(n + 1)]


def same(one: Plan, other: Plan, first: int = 0) -> None:
    """The rows of two plans from a row on, zeros apart: the start of a method may leave predictions that are not used."""
    assert len(one) == len(other) > first + 1
    for row, wanted in list(zip(one.rows, other.rows, strict=True))[first:]:
        assert (row.time, row.next_time) == (wanted.time, wanted.next_time)
        for part in ("states", "outputs", "noises"):
            a, b = ([c for c in getattr(one, part) if c] for one in (row, wanted))
            assert a == pytest.approx(b, rel=1e-9, abs=1e-12), (part, row, wanted)


@pytest.mark.parametrize("path_name", PATHS)
@pytest.mark.parametrize(
    ("name", "options", "known", "others"),
    [
        ("dpmpp_2m_sde_heun", {}, "mrs_sde", {}),
        ("dpmpp_2m_sde_heun", {"eta": 0.0}, "res_2m", {}),
        ("res_2m_ancestral", {"eta": 0.0}, "res_2m", {}),
        ("seeds_3", {"eta": 0.0}, "dpmpp_3s", {}),
        ("dpm_solver_2m", {"form": "heun"}, "deis_logrho1", {}),
        ("lms", {"order": 3}, "deis_rhoab2", {}),
        ("lms", {}, "deis_rhoab3", {}),
        ("unip_2", {}, "dpmpp_2m", {}),
        ("etdrk_2", {}, "res_2s", {"ratio": 1.0}),
        ("interpolant_ode", {}, "interpolant_sde", {"diffusion": 0.0}),
    ],
)
def test_one_recipe_is_another(name, options, known, others, path_name, path_called):
    path = path_called(path_name)
    same(*(rg.plan(n, path, grid=grid_on(path), **o) for n, o in ((name, options), (known, others))))


@pytest.mark.parametrize("path_name", PATHS)
@pytest.mark.parametrize(
    ("name", "options", "known", "first"),
    [
        ("dpmpp_3m_sde", {"eta": 0.0}, "dpmpp_3m", 2),
        ("pndm", {}, "ipndm_4", 12),
        ("plms", {}, "ipndm_4", 4),
        ("s_pndm", {}, "ipndm_2", 2),
    ],
)
def test_after_its_start_it_is_another(name, options, known, first, path_name, path_called):
    """F-PNDM spends four rows on each of its first three steps, the improved Euler step of the others two on one."""
    path = path_called(path_name)
    one, other = (rg.plan(n, path, grid=grid_on(path), **o) for n, o in ((name, options), (known, {})))
    same(one[first:], other[first - (len(one) - len(other)) :])


@pytest.mark.parametrize(("name", "ancestral"), [("dpm_solver_2", "dpm_2_ancestral"), ("dpmpp_2s", "dpmpp_2s_ancestral")])
@pytest.mark.parametrize("path_name", ["edm", "vp"])
def test_without_noise_an_ancestral_sampler_makes_the_same_states(name, ancestral, path_name, path_called, mixture):
    path = path_called(path_name)
    x = path.s(grid_on(path)[0]) * Noise.first(3, seed=2).prior((2,), torch.float64)
    plans = rg.plan(name, path, grid=grid_on(path)), rg.plan(ancestral, path, grid=grid_on(path), eta=0.0)
    one, other = (rg.sample(mixture(path), plan, x=x) for plan in plans)
    assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_on_a_flow_path_both_ends_of_an_interpolant_are_those_of_heun(mixture):
    path = rg.paths.Flow()
    x = Noise.first(3, seed=2).prior((2,), torch.float64)
    one, other = (rg.sample(mixture(path), rg.plan(n, path, nfe=12), x=x) for n in ("interpolant_heun", "heun"))
    assert torch.allclose(one, other, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["dpm_solver_3m", "dpmpp_3m"])
def test_half_of_the_second_difference_is_half_of_the_integral(name):
    """On 1, u and u^2 of log-SNR, u = (lambda - lambda_n)/h: exact, exact, and exactly half of what is asked."""
    lams = np.array([0.0, 0.7, 1.8, 2.5])
    row = rg.plan(name, EDM, grid=np.exp(-lams))[2]
    h = lams[3] - lams[2]

    def exact(power: int) -> float:  # x' = x - int u^p e^-lambda dlambda, and (s'/s) x + s' int u^p e^lambda dlambda
        sign = -1.0 if name == "dpm_solver_3m" else 1.0
        scale = 1.0 if sign < 0 else math.exp(-lams[3])
        found, _ = quad(lambda lam: ((lam - lams[2]) / h) ** power * math.exp(sign * lam), lams[2], lams[3], epsabs=1e-13)
        return sign * scale * found

    nodes = (lams[2::-1] - lams[2]) / h
    for power, share in ((0, 1.0), (1, 1.0), (2, 0.5)):
        got = sum(c * u**power for c, u in zip(row.outputs, nodes, strict=True))
        assert got == pytest.approx(share * exact(power), rel=1e-9), power


def test_steps_of_no_length_weigh_the_slopes_of_heunpp_evenly():
    """w_2 = sigma'/(2 sigma_0) goes to Heun's 1/2, and both inner slopes of a longer step to 1/3."""
    near = [1.0 - 1e-7 * k for k in range(3)]
    *_, last, _ = rg.plan("heunpp2", EDM, grid=near[:2]).rows
    heun = rg.plan("heun", EDM, grid=near[:2])[-2]
    assert last.outputs == pytest.approx(heun.outputs, rel=1e-6)
    whole = rg.plan("heunpp2", EDM, grid=near)[2]
    assert whole.outputs == pytest.approx([(near[1] - near[0]) / 3] * 3, rel=1e-5)
