"""Multistep consistency sampling: what its rows are, its limits, and that it is exact with a network made for it."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise

TIMES = [1.0, 0.75, 0.5, 0.2]


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_lcm_forgets_the_state(path_name, path_called, mixture):
    path = path_called(path_name)
    times = [t * path.t_max for t in TIMES]
    den, noise = mixture(path), Noise.first(3, seed=4)
    x = start = path.s(times[0]) * Noise.first(3, seed=2).prior((2,), torch.float64)
    for t, t_next in zip(times, times[1:], strict=False):
        eps = noise.draw((2,), (t, t_next), dtype=torch.float64)
        x = path.a(t_next) * den.predict(x, t).data + path.s(t_next) * eps
    plan = rg.plan("lcm", path, grid=times)
    assert torch.allclose(rg.sample(den, plan, x=start, seed=4), den.predict(x, times[-1]).data, rtol=0, atol=1e-10)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_tcd_lies_between_ddim_and_lcm(path_name, path_called):
    path = path_called(path_name)
    for gamma, known in ((0.0, "ddim"), (1.0, "lcm")):
        one, other = (rg.plan(n, path, nfe=6, **o) for n, o in (("tcd", {"gamma": gamma}), (known, {})))
        for a, b in zip(one.rows, other.rows, strict=True):
            for part in ("states", "outputs", "noises"):
                assert getattr(a, part) == pytest.approx(getattr(b, part), rel=1e-9, abs=1e-12)


def test_tcd_is_the_published_step(path_called):
    """Written with x_r of the deterministic step and the forward kernel from r to t', on the VP path."""
    path, gamma = path_called("vp"), 0.3
    row = rg.plan("tcd", path, grid=TIMES, gamma=gamma)[1]
    t, t_next, r = TIMES[1], TIMES[2], (1 - gamma) * TIMES[2]
    x, data, eps = 0.7, -0.4, 1.3
    x_r = path.a(r) * data + path.s(r) * (x - path.a(t) * data) / path.s(t)
    alpha = (path.a(t_next) / path.a(r)) ** 2
    wanted = math.sqrt(alpha) * x_r + math.sqrt(1 - alpha) * eps
    assert row.states[0] * x + row.outputs[0] * data + row.noises[0] * eps == pytest.approx(wanted, rel=1e-9)


def test_with_a_consistency_function_every_step_has_the_law_of_the_data(path_called):
    """For N(0, v) the flow ends at x sqrt(v/(a^2 v + s^2)): with that answer lcm keeps the variance, with D it loses it."""
    path, v, n = path_called("vp"), 0.25, 20_000

    def consistency(x, t):
        a, s = path.a(float(t[0])), path.s(float(t[0]))
        return x * math.sqrt(v / (a * a * v + s * s))

    plan = rg.plan("lcm", path, grid=TIMES)
    x = path.s(1.0) * Noise.first(n, seed=2).prior((1,), torch.float64)
    right = rg.sample(rg.Denoiser(consistency, path, "data", (1,)), plan, x=x, seed=1)
    mean = rg.oracles.Gaussian(path, torch.tensor([0.0]), torch.tensor([v]))
    lost = rg.sample(mean, plan, x=x, seed=1)
    assert float(right.var()) == pytest.approx(v, rel=5 * math.sqrt(2 / n))
    assert float(lost.var()) < 0.5 * v


def test_gamma_has_a_range():
    with pytest.raises(BadValue, match="0 <= gamma <= 1"):
        rg.plan("tcd", rg.paths.VP(), nfe=4, gamma=1.2)
