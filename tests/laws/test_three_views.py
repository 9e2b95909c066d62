"""The variational, the score and the flow view of one process are equal: parameterizations, equations, gradients, flow maps.

After Lai, Song, Kim, Mitsufuji, Ermon, The Principles of Diffusion Models, 2025, arXiv 2510.21890.
"""

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.denoisers import KINDS, Prediction
from retrograde.train.objective import loss

PATHS = ("edm", "flow", "subvp", "trigonometric", "vp", "vp_cosine")
DEFINITIONS = {
    "data": lambda path, t, data, noise: data,
    "noise": lambda path, t, data, noise: noise,
    "score": lambda path, t, data, noise: -noise / path.s(t),
    "v": lambda path, t, data, noise: path.a(t) * noise - path.s(t) * data,
    "velocity": lambda path, t, data, noise: path.a_dot(t) * data + path.s_dot(t) * noise,
}


@pytest.mark.parametrize("path_name", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_one_prediction_is_all_of_them(kind, path_name, path_called, mixture):
    """From any kind to any other and back, and each by its definition from the means of data and noise."""
    path = path_called(path_name)
    for t in (path.t_min + f * (path.t_max - path.t_min) for f in (0.1, 0.5, 0.9)):
        x_t = 1.3 * torch.randn(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        exact = mixture(path).predict(x_t, t)
        value = DEFINITIONS[kind](path, t, exact.data, exact.noise)
        assert torch.allclose(exact.read(kind), value, rtol=1e-10, atol=1e-10)
        for other in KINDS:
            there = Prediction(x_t, t, path, value, kind).read(other)
            back = Prediction(x_t, t, path, there, other).read(kind)
            assert torch.allclose(back, value, rtol=1e-9, atol=1e-9), other


@pytest.mark.parametrize("path_name", PATHS)
def test_densities_follow_the_flow_and_every_sde(path_name, path_called, mixture):
    """Continuity and Fokker-Planck equations, pointwise: dp/dt = -div(u p) and, for any rate e, the same with

    u - e score and + e laplace p: drift f x - (g^2/2 + e) score forward in time is one law for e = 0 (flow), g^2/2 and more.
    """
    path = path_called(path_name)
    den = mixture(path)
    t = 0.5 * (path.t_min + path.t_max) if path_name != "edm" else 1.2
    h = 1e-4
    x = torch.tensor([[0.3, 0.4], [-0.5, 0.2], [0.9, -0.8]], dtype=torch.float64)

    def density(x: torch.Tensor, time: float) -> torch.Tensor:
        return den.log_prob(x, time).exp()

    change = (density(x, t + h) - density(x, t - h)) / (2 * h)
    g_squared, f = path.diffusion_squared(t), path.drift(t)
    for rate in (0.0, 0.5 * g_squared, 2.0 * g_squared):

        def drift(x: torch.Tensor, rate: float = rate) -> torch.Tensor:
            # of an SDE that runs towards noise with diffusion 2 rate: the flow's velocity plus rate times the score
            return f * x - (0.5 * g_squared - rate) * den.predict(x, t).score

        total = torch.zeros(len(x), dtype=torch.float64)
        for axis in range(2):
            step = torch.zeros(2, dtype=torch.float64)
            step[axis] = h
            up, down = x + step, x - step
            flux = [drift(p)[:, axis] * density(p, t) for p in (up, down)]
            total -= (flux[0] - flux[1]) / (2 * h)
            total += rate * (density(up, t) - 2 * density(x, t) + density(down, t)) / h**2
        assert torch.allclose(total, change, rtol=1e-4, atol=1e-5), rate


def test_networks_of_every_kind_learn_by_the_same_gradient():
    """One model of the data mean seen through each parameterization, each trained on its own target: equal gradients."""
    path = rg.paths.VP()
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.SiLU(), torch.nn.Linear(16, 2)).double()

    def seen_as(kind: str) -> rg.Denoiser:
        def network(x_t: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
            data = body(torch.cat([x_t, told.double()[:, None]], dim=1))
            return Prediction(x_t, told.double(), path, data, "data").read(kind)

        return rg.Denoiser(network, path, kind, (2,))

    generator = torch.Generator().manual_seed(1)
    x_0, eps = (torch.randn(4000, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    # times that float32, in which networks are told them, holds exactly
    t = (0.1 + 0.8 * torch.rand(4000, generator=generator)).double()
    gradients = {}
    for kind in KINDS:
        body.zero_grad()
        loss(seen_as(kind), x_0, t, eps, measure="data").mean().backward()
        gradients[kind] = torch.cat([p.grad.flatten() for p in body.parameters()])
    for kind in KINDS[1:]:
        assert torch.allclose(gradients[kind], gradients["data"], rtol=1e-6, atol=1e-9), kind
    body.zero_grad()
    loss(seen_as("noise"), x_0, t, eps).mean().backward()  # its own weight is another objective
    own = torch.cat([p.grad.flatten() for p in body.parameters()])
    assert torch.nn.functional.cosine_similarity(own, gradients["data"], dim=0) < 0.999


def flow_map(den: rg.oracles.GaussianMixture, x: torch.Tensor, t: float, s: float, steps: int = 60) -> torch.Tensor:
    """Psi from t to s by a fine plan of fourth order."""
    path = den.path
    levels = np.geomspace(path.sigma(t), path.sigma(s), steps + 1)
    times = [t, *(path.time_of_sigma(float(level)) for level in levels[1:-1]), s]
    plan = rg.recipes.get("rho_rk4").compile(path, times)
    return rg.sample(den, plan[:-1], x=x)


def test_flow_maps_compose_and_satisfy_both_equations(mixture):
    """Semigroup; Lagrangian d/ds Psi = u(Psi, s); Eulerian d/dt Psi + (dPsi/dx) u(x, t) = 0."""
    den = mixture(rg.paths.VP())
    x = torch.tensor([[0.4, -0.3], [-1.0, 0.7]], dtype=torch.float64)
    t, u, s, h = 0.6, 0.4, 0.25, 1e-3
    whole = flow_map(den, x, t, s)
    assert (flow_map(den, flow_map(den, x, t, u), u, s) - whole).abs().max() < 1e-6
    lagrangian = (flow_map(den, x, t, s + h) - flow_map(den, x, t, s - h)) / (2 * h)
    assert torch.allclose(lagrangian, den.predict(whole, s).velocity, atol=1e-4)
    moved = h * den.predict(x, t).velocity
    eulerian = (flow_map(den, x + moved, t + h, s) - flow_map(den, x - moved, t - h, s)) / (2 * h)
    assert eulerian.abs().max() < 1e-4
    still = (flow_map(den, x, t + h, s) - flow_map(den, x, t - h, s)) / (2 * h)
    assert still.abs().max() > 0.1


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_flow_and_sde_end_in_the_same_law(eta, mixture):
    """A fine deterministic and a fine ancestral run: both samples pass a two-sample test against the data."""
    den = mixture(rg.paths.VP())
    samples = rg.sample(den, rg.plan("ddim", den.path, nfe=150, eta=eta), n=600, seed=1, dtype=torch.float64)
    assert rg.quality.mmd_test(samples, den.sample(600, seed=2), seed=0).p_value > 0.01
    wrong = 1.3 * samples
    assert rg.quality.mmd_test(wrong, den.sample(600, seed=2), seed=0).p_value < 0.01
