"""What is particular to each anchored path: the published schedules, and the ends."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch
from scipy.integrate import solve_ivp

import retrograde as rg
from retrograde.errors import BadType, BadValue


def test_the_noise_of_the_speech_path_is_that_of_its_equation():
    """The closed form against the equation of the variance, dv/dt = g^2 - 2 gamma v, to 1e-6."""
    path = rg.paths.OrnsteinUhlenbeck()
    rate = math.log(path.sigma_max / path.sigma_min)

    def slope(t: float, v: float) -> float:
        return (path.sigma_min * (path.sigma_max / path.sigma_min) ** t) ** 2 * 2 * rate - 2 * path.gamma * v

    times = [0.03, 0.2, 0.5, 1.0]
    exact = solve_ivp(slope, (0.0, 1.0), [0.0], t_eval=times, rtol=1e-11, atol=1e-14).y[0]
    for t, v in zip(times, exact, strict=True):
        assert path.s(t) == pytest.approx(math.sqrt(v), rel=1e-6)
        assert path.diffusion_squared(t) == pytest.approx(slope(t, 0.0), rel=1e-9)
        assert path.b_dot(t) - path.drift(t) * path.b(t) == pytest.approx(path.gamma, rel=1e-9)  # drift gamma (y - x)
    assert path.a(1.0) == pytest.approx(math.exp(-1.5))


@pytest.mark.parametrize(("steps", "kappa", "least"), [(4, 2.0, 0.2), (15, 2.0, 0.04), (10, 0.5, 0.1)])
def test_the_steps_of_residual_shift_are_the_published_ones(steps, kappa, least):
    path = rg.paths.ResidualShift(kappa=kappa, least=least)
    times = rg.grids.make(path, steps, "power", power=0.3)[::-1]
    first = min(least / kappa, least)
    growth = (0.99 / first) ** (1 / (steps - 1))
    for i, t in enumerate(times):
        root = first * growth ** ((i / (steps - 1)) ** 0.3 * (steps - 1))
        assert path.b(t) == pytest.approx(root**2, rel=1e-9)
        assert path.a(t) == pytest.approx(1 - root**2, rel=1e-9)
        assert path.s(t) == pytest.approx(kappa * root, rel=1e-9)
    if steps == 4:
        assert [math.sqrt(path.b(t)) for t in (times[0], times[-1])] == pytest.approx([0.1, 0.99])


def test_residual_denoising_is_the_limit_of_the_published_sums():
    path, steps = rg.paths.ResidualDenoising(), 1000
    falling = torch.linspace(0, 1, steps, dtype=torch.float64).flip(0)
    residual = torch.cumsum(falling / falling.sum(), 0)
    noise = (0.01 * torch.cumsum(falling.flip(0) / falling.sum(), 0)).sqrt()
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    assert (path.b(t) - residual).abs().max() < 1 / steps
    assert (path.s(t) - noise).abs().max() < 1.001 * 0.1 / steps
    assert path.a(1.0) == 0.0
    k = torch.arange(1, steps + 1, dtype=torch.float64)
    assert torch.allclose(residual, k * (2 * steps - 1 - k) / (steps * (steps - 1)), atol=1e-12)
    assert torch.allclose(noise**2, 0.01 * k * (k - 1) / (steps * (steps - 1)), atol=1e-14)


def test_the_mean_reverting_schedule_is_that_of_the_restoration_paper():
    path = rg.paths.mean_reverting_cosine()
    steps = 100
    x = torch.linspace(0, steps + 2, steps + 3, dtype=torch.float64)
    cosine = torch.cos((x / (steps + 2) + 0.008) / 1.008 * math.pi / 2) ** 2
    theta = (1 - cosine / cosine[0])[1:-1]
    total = torch.cumsum(theta, 0) - theta[0]
    dt = -math.log(0.005) / total[-1]
    for i in (1, 2, 37, 99, 100):
        assert path.a(i / steps) == pytest.approx(math.exp(-float(total[i] * dt)), rel=1e-9)
        deviation = 50 / 255 * math.sqrt(1 - math.exp(-2 * float(total[i] * dt)))
        assert path.s(i / steps) == pytest.approx(deviation, rel=1e-7)
    assert path.t_max == 1.0
    for t in (0.2, 0.7):
        theta_t = -path.drift(t)
        assert path.b_dot(t) - path.drift(t) * path.b(t) == pytest.approx(theta_t, rel=1e-9)  # drift theta (y - x)
        assert path.diffusion_squared(t) == pytest.approx(2 * path.spread**2 * theta_t, rel=1e-6)


def test_with_spread_one_and_no_anchor_the_mean_reverting_path_is_its_base():
    base = rg.paths.VP()
    path = rg.paths.MeanReverting(base, spread=1.0)
    for t in (0.1, 0.6, 1.0):
        assert (path.a(t), path.s(t), path.sigma(t)) == (base.a(t), base.s(t), base.sigma(t))


def test_residual_noise_ends_where_the_data_vanish():
    path = rg.paths.residual_noise_linear(12)
    assert len(path.base.alphas_cumprod) == 5
    assert path.base.alphas_cumprod[-1] == 0.25
    for one in (path, rg.paths.ResidualNoise(), rg.paths.ResidualNoise(rg.paths.VPCosine())):
        assert one.a(one.t_max) == 0.0
        assert one.b(one.t_max) == pytest.approx(0.5, rel=1e-12)
        assert one.base.a(one.t_max) == pytest.approx(0.5, rel=1e-12)
    betas = torch.linspace(1000 / 12 * 1e-4, 1000 / 12 * 0.02, 12, dtype=torch.float64)
    squares = torch.cumprod(1 - betas, 0)[:4]
    assert list(path.base.alphas_cumprod[:4]) == pytest.approx(squares.tolist(), rel=1e-12)
    # fine lists come close to 1/2 by themselves, and are not bent
    fine = rg.paths.residual_noise_linear(1000)
    assert fine.base.alphas_cumprod[-1] != 0.25
    assert fine.a(fine.t_max) == 0.0
    assert fine.t_max < 1.0


def test_a_base_that_cannot_carry_the_path_is_refused():
    for over in (rg.paths.MeanReverting, rg.paths.ResidualNoise, rg.paths.Offset):
        with pytest.raises(BadType, match="without an anchor"):
            over(rg.paths.ResidualShift())
        with pytest.raises(BadType, match="without an anchor"):
            over("vp")
        with pytest.raises(BadType, match="of Gaussian noise"):
            over(rg.paths.PFGMpp())
    with pytest.raises(BadValue, match=r"a\^2 \+ s\^2 = 1"):
        rg.paths.ResidualNoise(rg.paths.EDM())
    with pytest.raises(BadValue, match="comes down to a = 1/2"):
        rg.paths.ResidualNoise(rg.paths.from_alphas_cumprod([0.9, 0.8]))


def test_the_residual_and_the_data_tell_each_other(mixture):
    y = torch.tensor([[0.4, -1.1]], dtype=torch.float64)
    for path in (rg.paths.ResidualShift(), rg.paths.ResidualNoise(), rg.paths.MeanReverting()):
        prediction = mixture(path)(y, 0.3, anchor=y)
        assert torch.allclose(prediction.read("residual"), y - prediction.data, atol=1e-12)


def test_the_velocity_of_the_mean_reverting_path_tells_the_data(mixture):
    """x_0 = a x_t - (s/spread) v + (1 - a) y, as published."""
    path, t = rg.paths.MeanReverting(), 0.4
    x, y = torch.tensor([[0.3, 0.8], [0.4, -1.1]], dtype=torch.float64).unsqueeze(1)
    prediction = mixture(path)(x, t, anchor=y)
    v = prediction.read("reverting_v")
    data = path.a(t) * x - path.s(t) / path.spread * v + (1 - path.a(t)) * y
    assert torch.allclose(data, prediction.data, atol=1e-12)


def test_the_page_of_paths_shows_the_anchor():
    spec = importlib.util.spec_from_file_location(
        "generated_pages", Path(__file__).parents[2] / "docs" / "_ext" / "generate.py"
    )
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    rows = {row.split("|")[1].strip(" `"): row for row in pages.paths_page().splitlines() if row.startswith("| `")}
    for name in rg.paths.names():
        assert (" y " in rows[name]) == rg.paths.get(name).anchored, name
