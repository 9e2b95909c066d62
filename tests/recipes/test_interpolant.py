"""Steps of stochastic interpolants: their limits are the samplers that are known, and their flow tells densities."""

import dataclasses
import math

import pytest
import torch

import retrograde as rg
from retrograde.denoisers import Coupled
from retrograde.errors import BadValue, UnknownName
from retrograde.noise import Bulk
from retrograde.plan import Plan


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp", "vp_cosine"])
def test_one_sided_it_is_ddim(path_name, path_called, mixture):
    path = path_called(path_name)
    den = mixture(path)
    one, other = (rg.plan(name, path, nfe=12, grid="karras") for name in ("interpolant_ode", "ddim"))
    samples = [rg.sample(den, plan, n=4, seed=1, dtype=torch.float64) for plan in (one, other)]
    assert torch.allclose(*samples, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp", "vp_cosine"])
def test_the_reverse_schedule_is_ddpm(path_name, path_called, mixture):
    """e = g^2/2 is the reverse SDE, and its step the exact posterior; e = 0 is the flow."""
    path = path_called(path_name)
    den = mixture(path)
    for diffusion, name in ((1.0, "ddpm"), (0.0, "interpolant_ode")):
        one = rg.plan("interpolant_sde", path, nfe=12, grid="karras", diffusion=diffusion, schedule="reverse")
        other = rg.plan(name, path, nfe=12, grid="karras")
        samples = [rg.sample(den, plan, n=4, seed=1, dtype=torch.float64) for plan in (one, other)]
        assert torch.allclose(*samples, rtol=0, atol=1e-9), name
        assert one.stochastic == bool(diffusion)


def gaussian_start(path: rg.paths.Path) -> Coupled:
    """Data of two components, started from N(0, I)."""
    data = rg.oracles.GaussianMixture(path, torch.tensor([[1.0, 0.5], [-0.8, 0.9]]), torch.tensor([0.1, 0.3]))
    return rg.oracles.independent(path, data, rg.oracles.Gaussian(path, torch.zeros(2), 1.0))


def test_without_noise_it_is_rectified_flow():
    """gamma = 0 and a Gaussian start: the path, the exact drift and every Euler step are those of the flow path."""
    straight, flow = rg.paths.Interpolant(scale=0.0), rg.paths.Flow(t_max=0.999)
    both, one = (
        gaussian_start(straight),
        rg.oracles.GaussianMixture(flow, torch.tensor([[1.0, 0.5], [-0.8, 0.9]]), torch.tensor([0.1, 0.3])),
    )
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (0.1, 0.5, 0.9):
        assert torch.allclose(both.predict(x, t).velocity, one.predict(x, t).velocity, atol=1e-12)
    times = [0.999 * (1 - i / 20) for i in range(20)]
    plans = [rg.plan(name, path, grid=times) for name, path in (("interpolant_ode", straight), ("ddim", flow))]
    assert [row.states for row in plans[0].rows] == [row.states for row in plans[1].rows]  # bit by bit
    samples = [
        rg.sample(den, plan, x=x, **beside) for den, plan, beside in ((both, plans[0], {"anchor": x}), (one, plans[1], {}))
    ]
    assert torch.allclose(*samples, atol=1e-12)


def test_the_known_start_is_a_bridge(mixture):
    """A denoiser that knows y: the same recipe on the anchored path, with the exact end."""
    path = rg.paths.Interpolant()
    den = mixture(path)
    y = torch.tensor([[0.3, 0.8], [-1.0, 0.1]], dtype=torch.float64)
    fine = rg.plan("dpmpp_3m", path, nfe=200, grid="log_snr")
    for name in ("interpolant_ode", "interpolant_heun"):
        errors = []
        for nfe in (41, 161):
            plan = rg.plan(name, path, nfe=nfe, grid="log_snr")
            errors.append(
                float(
                    (
                        rg.sample(den, plan, anchor=y, seed=1, dtype=torch.float64)
                        - rg.sample(den, fine, anchor=y, seed=1, dtype=torch.float64)
                    )
                    .abs()
                    .max()
                )
            )
        assert errors[1] < errors[0] / 3


def test_the_flow_tells_the_density_of_the_data():
    """log p_data(x) = log p_start(z) + log |det dz/dx| through the plan that runs from data to start, to 1e-3."""
    path = rg.paths.Interpolant(t_min=1e-4, t_max=1 - 1e-4)
    data = rg.oracles.GaussianMixture(path, torch.tensor([[1.5], [-1.0]]), torch.tensor([0.3, 0.2]), [0.7, 0.3])
    start = rg.oracles.GaussianMixture(path, torch.tensor([[0.0], [2.0]]), torch.tensor([0.4, 0.2]))
    den = rg.oracles.independent(path, data, start)
    u = torch.linspace(0.0, torch.pi, 301, dtype=torch.float64)
    times = (path.t_min + (path.t_max - path.t_min) * 0.5 * (1 - torch.cos(u))).tolist()  # fine where s' is large
    rows = rg.recipes.interpolant.interpolant_heun(path, tuple(times), (2,) * 300)
    plan = Plan(
        path, [dataclasses.replace(r, renoise=True) for r in rows], "data+noise", start=times[0], misses=("point mass",)
    )
    x = torch.tensor([[-1.2], [0.2], [1.4], [2.2]], dtype=torch.float64, requires_grad=True)
    z = rg.sample(den, plan, x=x, anchor=x.detach(), gradient="unroll")
    (slope,) = torch.autograd.grad(z.sum(), x)
    flow = rg.paths.Flow(t_min=1e-9)
    ends = [dataclasses.replace(one, path=flow) for one in (data, start)]
    told = ends[1].log_prob(z.detach(), 1e-9) + slope[:, 0].abs().log()
    assert torch.allclose(told, ends[0].log_prob(x.detach(), 1e-9), atol=1e-3)


def test_what_is_no_diffusion_is_refused():
    with pytest.raises(BadValue, match="diffusion >= 0"):
        rg.plan("interpolant_sde", rg.paths.Interpolant(), nfe=4, diffusion=-1.0)
    with pytest.raises(UnknownName, match="schedule"):
        rg.plan("interpolant_sde", rg.paths.Interpolant(), nfe=4, schedule="cosine")


def test_the_squared_schedule_is_that_of_searches_and_keeps_the_law(mixture):
    """e = g^2/2 with g = 3 t^2 on the flow: k = exp(-3 (t^3 - t'^3)/2); on both paths moments are the data's."""
    flow, vp = rg.paths.Flow(), rg.paths.VP()
    plan = rg.plan("interpolant_sde", flow, nfe=10, grid="uniform", diffusion=3.0, schedule="squared")
    for row in plan.rows[:-1]:
        keep = math.exp(-1.5 * (row.time**3 - row.next_time**3))
        assert row.noises[0] == pytest.approx(row.next_time * math.sqrt(1.0 - keep * keep), rel=1e-9)
    none = rg.plan("interpolant_sde", flow, nfe=10, grid="uniform", diffusion=0.0, schedule="squared")
    den = mixture(flow)
    euler = rg.plan("euler", flow, nfe=10, grid="uniform")
    assert torch.allclose(*(rg.sample(den, p, n=4, dtype=torch.float64) for p in (none, euler)), rtol=0, atol=1e-9)
    normal = rg.oracles.Gaussian(flow, torch.tensor([0.5]), 0.25)
    for path in (flow, vp):
        fine = rg.plan("interpolant_sde", path, nfe=100, grid="log_snr", diffusion=3.0, schedule="squared")
        for state in rg.steps(fine, normal, n=2000, noise=Bulk):
            if state.index % 33 == 30 and state.t is not None:
                a, s = path.a(state.t), path.s(state.t)
                spread = math.sqrt(0.25 * a * a + s * s)
                assert abs(float(state.x_t.mean()) - 0.5 * a) < 3.5 * spread / math.sqrt(2000)
                assert abs(float(state.x_t.std()) / spread - 1.0) < 3.5 / math.sqrt(4000)


def test_a_flow_on_another_path_ends_where_it_would(mixture):
    """The interpolant changed for another: a step in log-SNR is the same on both, and fine steps of any kind agree."""
    flow, vp = rg.paths.Flow(), rg.paths.VP()
    den = mixture(flow)
    eps = torch.randn(4, *den.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    sigmas = torch.logspace(math.log10(60.0), -2.0, 241, dtype=torch.float64).tolist()
    ends = []
    for name, path in (("dpmpp_3m", flow), ("dpmpp_3m", vp), ("heun", flow)):
        times = [path.time_of_sigma(sigma) for sigma in sigmas]
        ends.append(rg.sample(den, rg.plan(name, path, grid=times), x=path.s(times[0]) * eps))
    assert torch.allclose(ends[0], ends[1], rtol=0, atol=1e-10)
    assert torch.allclose(ends[0], ends[2], rtol=0, atol=1e-4)
