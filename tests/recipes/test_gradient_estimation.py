"""Gradient estimation against its paper and the method it is for one gamma."""

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.noise import Noise

EDM = rg.paths.EDM()
KARRAS = rg.grids.karras(EDM, 12)


def test_it_is_algorithm_2(mixture):
    """Permenter and Yuan, 2023, arXiv 2306.04848, with their gamma = 2, on levels sigma of x = x_0 + sigma eps."""
    den, start = mixture(EDM), EDM.sigma_max * Noise.first(3, seed=2).prior((2,), torch.float64)
    x, old = start, None
    for s, s_next in zip(KARRAS, KARRAS[1:], strict=False):
        eps = den.predict(x, s).noise
        x = x + (s_next - s) * (eps if old is None else 2.0 * eps - old)
        old = eps
    plan = rg.plan("gradient_estimation", EDM, grid=KARRAS)
    *_, last = rg.steps(plan[: len(plan) - 1], den, x=start)
    assert torch.allclose(last.x_t, x, rtol=0, atol=1e-10)


def test_other_gammas_are_known_methods():
    even = np.linspace(10.0, 1.0, 10)
    one, other = (
        rg.plan(*a, grid=even, **o) for a, o in ((("gradient_estimation", EDM), {"gamma": 1.5}), (("ipndm_2", EDM), {}))
    )
    assert all(a.outputs == pytest.approx(b.outputs) for a, b in zip(one.rows, other.rows, strict=True))
    plain = rg.plan("gradient_estimation", EDM, grid=KARRAS, gamma=1.0)
    ddim = rg.plan("ipndm_1", EDM, grid=KARRAS)
    assert all(a.outputs[0] == b.outputs[0] and not any(a.outputs[1:]) for a, b in zip(plain.rows, ddim.rows, strict=True))
