"""Interpolants between two mixtures: the ends of each shape, and every diffusion reaches the data."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import retrograde as rg
from retrograde.denoisers import Coupled
from retrograde.errors import BadValue, UnknownName
from retrograde.paths.two_sided import SHAPES

KINDS = [("linear", "bridge"), ("linear", "parabola"), ("trigonometric", "bridge"), ("encoding_decoding", "sine")]


@pytest.mark.parametrize(("shape", "noise"), KINDS)
def test_the_ends_are_the_two_laws(shape, noise):
    path = rg.paths.Interpolant(shape, noise, t_min=0.01, t_max=0.99)
    assert (path.a(0.0), path.b(0.0), path.s(0.0)) == pytest.approx((1.0, 0.0, 0.0), abs=1e-12)
    assert (path.a(1.0), path.b(1.0), path.s(1.0)) == pytest.approx((0.0, 1.0, 0.0), abs=1e-12)
    levels = [path.sigma(t) for t in np.linspace(0.01, 0.49, 30)]
    assert all(x < y for x, y in zip(levels, levels[1:], strict=False))
    for t in (0.1, 0.3, 0.45):
        assert path.time_of_sigma(path.sigma(t)) == pytest.approx(t, rel=1e-9)
        h = 1e-6
        for value, slope in ((path.a, path.a_dot), (path.b, path.b_dot), (path.s, path.s_dot)):
            for at in (t, 1.0 - t):
                assert slope(at) == pytest.approx((value(at + h) - value(at - h)) / (2 * h), abs=1e-6)
        tensor = torch.tensor([t, 1.0 - t], dtype=torch.float64)
        for function in (path.a, path.b, path.s, path.a_dot, path.b_dot, path.s_dot):
            assert function(tensor).tolist() == pytest.approx([function(t), function(1.0 - t)], abs=1e-12)


def mixtures(path: rg.paths.Path) -> Coupled:
    data = rg.oracles.GaussianMixture(path, torch.tensor([[2.0, 0.0], [-1.0, 1.5]]), torch.tensor([0.1, 0.2]), [0.7, 0.3])
    start = rg.oracles.GaussianMixture(path, torch.tensor([[0.0, -2.0], [0.5, 2.0]]), torch.tensor([0.3, 0.1]))
    return rg.oracles.independent(path, data, start)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("diffusion", [0.0, 0.1, 1.0, 3.0])
def test_every_diffusion_reaches_the_data(diffusion, shape):
    """From one mixture to the other by the flow and by SDEs; no two-sample test at the level of 1% tells them apart."""
    path = rg.paths.Interpolant(shape, "sine" if shape == "encoding_decoding" else "bridge")
    den, n = mixtures(path), 400
    _, start = den.sample(n, seed=1)
    reference, _ = den.sample(n, seed=2)
    name, options = ("interpolant_sde", {"diffusion": diffusion}) if diffusion else ("interpolant_ode", {})
    plan = rg.plan(name, path, nfe=100, grid="uniform", **options)
    samples = rg.sample(den, plan, anchor=start, seed=3, dtype=torch.float64)
    assert rg.quality.mmd_test(samples, reference, seed=0).p_value > 0.01
    assert rg.quality.mmd_test(samples + 0.3, reference, seed=0).p_value < 0.01


def test_a_wrong_score_costs_least_at_a_diffusion_between():
    """With b + db and s + ds the law of the SDE's end obeys KL <= integral of E|db + e ds|^2/(4 e): least at e = |db|/|ds|.

    Gaussians: drifts stay affine, so that mean and variance of the wrong process solve two ODEs.
    """
    path = rg.paths.Interpolant(t_min=0.02, t_max=0.98)
    den = Coupled(path, torch.tensor([[[1.0], [-0.5]]]), torch.diag(torch.tensor([0.5, 0.8]))[None])
    off_b, off_s = 0.3, -0.4

    def affine(t: float, e: float) -> tuple[float, float]:
        """Towards the data dx = (-v + e score) dtau: offset and slope."""
        x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        found = den.predict(x, t)
        drift = -found.velocity + e * found.score
        return float(drift[0]), float(drift[1] - drift[0])

    def end(e: float, wrong: float) -> tuple[float, float]:
        def rates(tau: float, y: np.ndarray) -> list[float]:
            t = path.t_max - tau
            offset, slope = affine(t, e)
            return [offset + slope * y[0] + wrong * (off_b + e * off_s), 2 * slope * y[1] + 2 * e]

        a, b, s = path.a(path.t_max), path.b(path.t_max), path.s(path.t_max)
        begin = [a * 1.0 - b * 0.5, a * a * 0.5 + b * b * 0.8 + s * s]
        return tuple(solve_ivp(rates, (0, path.t_max - path.t_min), begin, rtol=1e-8, atol=1e-10).y[:, -1])

    a, b, s = path.a(path.t_min), path.b(path.t_min), path.s(path.t_min)
    exact = (a - 0.5 * b, a * a * 0.5 + b * b * 0.8 + s * s)
    diffusions = (0.1, 0.3, 0.75, 2.0, 6.0)
    divergences = []
    for e in diffusions:
        assert end(e, 0.0) == pytest.approx(exact, rel=1e-5)  # without error every e keeps the marginal
        mean, variance = end(e, 1.0)
        kl = 0.5 * (exact[1] / variance + (mean - exact[0]) ** 2 / variance - 1 - math.log(exact[1] / variance))
        bound = (path.t_max - path.t_min) * (off_b + e * off_s) ** 2 / (4 * e)
        assert kl <= bound * (1 + 1e-6) + 1e-12
        divergences.append(kl)
    least = int(np.argmin(divergences))
    assert diffusions[least] == pytest.approx(off_b / -off_s)
    assert all(divergences[i] > divergences[least] + 1e-3 for i in (0, 4))


def test_what_is_no_interpolant_is_refused():
    with pytest.raises(UnknownName, match="shape"):
        rg.paths.Interpolant("cubic")
    with pytest.raises(UnknownName, match="noise"):
        rg.paths.Interpolant(noise="white")
    with pytest.raises(BadValue, match="sine"):
        rg.paths.Interpolant("linear", "sine")
    with pytest.raises(BadValue, match="without noise"):
        rg.paths.Interpolant(scale=0.0).time_of_sigma(0.3)
