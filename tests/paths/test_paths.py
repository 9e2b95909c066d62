"""Every registered path: derivatives, inverses, and the same numbers from floats and tensors."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue, UnknownName
from retrograde.paths import Path

pytestmark = pytest.mark.parametrize("name", rg.paths.names())
KINKED = ("tabulated", "vp_discrete")


def inner_times(path: Path, n: int = 23) -> list[float]:
    """Times strictly inside the range, off the knots of piecewise paths."""
    return [path.t_min + (path.t_max - path.t_min) * (i + 0.5) / (n + 0.0137) for i in range(n)]


def test_derivatives_agree_with_finite_differences(name, path_called):
    path = path_called(name)
    for t in inner_times(path):
        h = 1e-6 * min(1.0, t)
        for value, derivative in ((path.a, path.a_dot), (path.s, path.s_dot), (path.b, path.b_dot)):
            numeric = (value(t + h) - value(t - h)) / (2 * h)
            assert derivative(t) == pytest.approx(numeric, rel=2e-5, abs=1e-7), t


def test_derivatives_agree_with_autograd(name, path_called):
    path = path_called(name)
    if name in KINKED:  # autograd does not see through their tables; the finite differences above do
        return
    t = torch.tensor(inner_times(path), dtype=torch.float64, requires_grad=True)
    for value, derivative in ((path.a, path.a_dot), (path.s, path.s_dot)):
        (gradient,) = torch.autograd.grad(value(t).sum(), t)
        assert torch.allclose(gradient, derivative(t), rtol=1e-9, atol=1e-12)


def test_tensors_and_floats_agree(name, path_called):
    path = path_called(name)
    times = inner_times(path)
    t = torch.tensor(times, dtype=torch.float64).reshape(-1, 1)
    for function in (path.a, path.s, path.b, path.a_dot, path.s_dot, path.b_dot, path.sigma, path.log_snr, path.drift):
        many = function(t)
        assert many.shape == t.shape
        assert many.dtype == torch.float64
        single = [function(one) for one in times]
        assert all(isinstance(one, float) for one in single)
        assert many.flatten().tolist() == pytest.approx(single, rel=1e-9, abs=1e-12)
    assert path.a(t.float()).dtype == torch.float32
    sigma = path.sigma(t)
    assert path.time_of_sigma(sigma).flatten().tolist() == pytest.approx(times, rel=1e-7)
    assert path.time_of_log_snr(path.log_snr(t)).flatten().tolist() == pytest.approx(times, rel=1e-7)


def test_the_noise_level_rises_and_inverts(name, path_called):
    path = path_called(name)
    times = [path.t_min, *inner_times(path), path.t_max]
    sigmas = [path.sigma(t) for t in times]
    assert all(x < y for x, y in zip(sigmas, sigmas[1:], strict=False))
    assert path.sigma(path.t_min) > 0.0
    for t, sigma in zip(times, sigmas, strict=True):
        assert path.time_of_sigma(sigma) == pytest.approx(t, rel=1e-7)
        assert path.log_snr(t) == pytest.approx(-2 * math.log(sigma) if sigma < math.inf else -math.inf)
        assert path.time_of_log_snr(path.log_snr(t)) == pytest.approx(t, rel=1e-7)
    assert path.time_of_sigma(math.inf) == path.t_max
    both = path.time_of_sigma(torch.tensor([sigmas[3], math.inf], dtype=torch.float64))
    assert both.tolist() == pytest.approx([times[3], path.t_max])
    for bad in (0.0, -1.0):
        with pytest.raises(BadValue, match="0 < sigma <= inf"):
            path.time_of_sigma(bad)


def test_the_forward_sde_has_the_marginals_of_the_path(name, path_called):
    """d(mean)/dt = f mean and d(var)/dt = 2 f var + g^2 hold for a and s^2."""
    path = path_called(name)
    for t in inner_times(path):
        f, g_squared = path.drift(t), path.diffusion_squared(t)
        assert path.a_dot(t) == pytest.approx(f * path.a(t), rel=1e-9, abs=1e-12)
        s = path.s(t)
        assert 2 * s * path.s_dot(t) == pytest.approx(2 * f * s * s + g_squared, rel=1e-9, abs=1e-12)
        assert g_squared >= 0.0


def test_the_configuration_makes_the_path_again(name, path_called):
    path = path_called(name)
    again = rg.paths.from_config(path.config())
    assert again == path
    assert hash(again) == hash(path)
    assert again.fingerprint == path.fingerprint
    assert (again.t_min, again.t_max) == (path.t_min, path.t_max)


def test_names_and_parameters_are_checked(name, path_called):
    assert rg.paths.get(name) is type(path_called(name))
    with pytest.raises(UnknownName, match=f"did you mean .*'{name}'"):
        rg.paths.get(name + "x")
    with pytest.raises(BadValue, match=r"remove \['speed'\]"):
        rg.paths.from_config(path_called(name).config() | {"speed": 1})


def test_samples_of_the_path_have_its_marginal(name, path_called):
    path = path_called(name)
    t = 0.5 * (path.t_min + path.t_max)
    generator = torch.Generator().manual_seed(0)
    x_0 = 2.0 + 0.5 * torch.randn(40000, generator=generator, dtype=torch.float64)
    x_t = path.a(t) * x_0 + 0.7 * path.b(t) + path.s(t) * torch.randn(40000, generator=generator, dtype=torch.float64)
    variance = path.a(t) ** 2 * 0.25 + path.s(t) ** 2
    mean = 2.0 * path.a(t) + 0.7 * path.b(t)
    assert float(x_t.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / 40000))
    if "score" not in path.identities:  # an oracle of Gaussian noise has nothing to say
        return
    oracle = rg.oracles.Gaussian(path, torch.tensor([2.0]), 0.25)
    points = torch.linspace(float(x_t.min()), float(x_t.max()), 2001, dtype=torch.float64)[:, None]
    anchor = torch.full_like(points, 0.7) if path.anchored else None
    mass = oracle.log_prob(points, t, anchor).exp()
    assert float(torch.trapezoid(mass, points[:, 0])) == pytest.approx(1.0, abs=1e-3)
