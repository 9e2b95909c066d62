"""SEEDS-1 against the SDE it solves and the noise it leaves; those of two and three stages are tested with their kin."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

import retrograde as rg


@pytest.mark.parametrize("path_name", ["edm", "vp", "subvp"])
def test_seeds_1_solves_the_sde_whose_noise_mean_stands_still(path_name, path_called):
    """dx = (f x + g^2 E/s) dt + g dw, backwards from t to t': the integrals of its linear solution by quadrature."""
    path = path_called(path_name)
    plan = rg.plan("seeds_1", path, nfe=7, grid="log_snr", start=20.0)
    for row in plan.rows[:-1]:
        t, t_next = row.time, row.next_time

        def decay(tau: float, end: float = t_next) -> float:
            return path.a(end) / path.a(tau)  # exp of the integral of f

        drift = quad(lambda tau: decay(tau) * path.diffusion_squared(tau) / path.s(tau), t, t_next, epsrel=1e-11)[0]
        spread = -quad(lambda tau: decay(tau) ** 2 * path.diffusion_squared(tau), t, t_next, epsrel=1e-11)[0]
        assert row.states == pytest.approx((decay(t),), rel=1e-12)
        assert row.outputs == pytest.approx((drift,), rel=1e-7)
        assert row.noises == pytest.approx((math.sqrt(spread),), rel=1e-7)


def test_the_noise_it_leaves_of_a_point_is_what_it_says():
    path = rg.paths.VP()
    for nfe in (6, 12):
        row = rg.plan("seeds_1", path, nfe=nfe, grid="log_snr", start=20.0)[2]
        h = 0.5 * (path.log_snr(row.next_time) - path.log_snr(row.time))
        left = np.hypot(row.states[0] * path.s(row.time) + row.outputs[0], row.noises[0])
        assert left == pytest.approx(path.s(row.next_time) * math.sqrt(1 + 2 * math.expm1(h) ** 2), rel=1e-10)
        assert row.states[0] * path.a(row.time) == pytest.approx(path.a(row.next_time), rel=1e-12)
