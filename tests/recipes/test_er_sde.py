"""ER-SDE-Solvers against their formulas with integrals on a fine grid, and their two limits."""

import math

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.errors import UnknownName
from retrograde.noise import Noise

EDM = rg.paths.EDM()
LEVELS = [*rg.grids.karras(EDM, 9), 0.0]
PHI = {"exponential": lambda u: u * (np.exp(u**0.3) + 10.0), "sde": np.square, "ode": lambda u: u}


@pytest.mark.parametrize("scale", PHI)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_er_sde_is_the_loop_with_fine_integrals(order, scale, mixture):
    start = x = 80.0 * Noise.first(3, seed=2).prior((2,), torch.float64)
    den, noise, phi, old = mixture(EDM), Noise.first(3, seed=4), PHI[scale], []
    for sigma, following in zip(LEVELS, LEVELS[1:], strict=False):
        data = den.predict(x, sigma).data
        if following == 0.0:
            x = data
            continue
        r = phi(following) / phi(sigma)
        x = r * x + (1 - r) * data
        u = np.geomspace(following, sigma, 20001)
        knots = [(sigma, data), *old][:order]
        if len(knots) > 1:
            slope = (knots[0][1] - knots[1][1]) / (knots[0][0] - knots[1][0])
            x = x + (following - sigma + phi(following) * np.trapezoid(1 / phi(u), u)) * slope
        if len(knots) > 2:
            before = (knots[1][1] - knots[2][1]) / (knots[1][0] - knots[2][0])
            curve = (slope - before) / ((knots[0][0] - knots[2][0]) / 2)
            x = x + ((following - sigma) ** 2 / 2 + phi(following) * np.trapezoid((u - sigma) / phi(u), u)) * curve
        if scale != "ode":
            draw = noise.draw((2,), (sigma, following), dtype=torch.float64)
            x = x + math.sqrt(following**2 - sigma**2 * r**2) * draw
        old = knots
    made = rg.sample(den, rg.plan(f"er_sde_{order}", EDM, grid=LEVELS[:-1], scale=scale), x=start, seed=4)
    assert torch.allclose(made, x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_of_order_one_they_are_ddim_and_ddpm(path_name, path_called):
    path = path_called(path_name)
    for scale, known in (("ode", "ddim"), ("sde", "ddpm")):
        for one, other in zip(
            rg.plan("er_sde_1", path, nfe=8, scale=scale).rows, rg.plan(known, path, nfe=8).rows, strict=True
        ):
            for part in ("states", "outputs", "noises"):
                assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-9, abs=1e-9)


def test_an_unknown_scale_is_refused():
    with pytest.raises(UnknownName, match="noise scale"):
        rg.plan("er_sde_3", EDM, nfe=5, scale="sd")
