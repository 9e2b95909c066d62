"""Tables against the published algorithms: written out from the papers here, and as diffusers has them.

diffusers computes in float32 and reads noise levels s/a from `scheduler.sigmas`; there the levels of our grid are put, so
that both sides ask the same closed-form network at the same places. States are compared before the closing row, which
both sides take to zero noise in the same way.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.noise import Noise
from retrograde.plan import Plan
from retrograde.recipes.deis import lagrange_integrals
from retrograde.recipes.recipe import level

# diffusers warns of its own use of numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning", "ignore:.*algorithm_type.*:FutureWarning")

EDM = rg.paths.EDM()
KARRAS = rg.grids.karras(EDM, 12)


@pytest.fixture
def data(mixture) -> Callable[[Tensor, float], Tensor]:
    """The data mean on the EDM path, and with it every loop of this file."""
    den = mixture(EDM)
    return lambda x, sigma: den.predict(x, sigma).data


@pytest.fixture
def start() -> Tensor:
    return EDM.sigma_max * Noise.first(3, seed=2).prior((2,), torch.float64)


def ours(mixture, name: str, start: Tensor, sigmas: Sequence[float] = KARRAS, seed: int = 0, **options: float) -> Tensor:
    plan = rg.plan(name, EDM, grid=sigmas, **options)
    return rg.sample(mixture(EDM), plan, x=start, seed=seed)


def test_heun_is_the_deterministic_sampler_of_edm(mixture, data, start):
    """Algorithm 1 of Karras et al., 2022, arXiv 2206.00364, with t_N = 0."""
    x, levels = start, [*KARRAS, 0.0]
    for t, t_next in zip(levels, levels[1:], strict=False):
        d = (x - data(x, t)) / t
        x_next = x + (t_next - t) * d
        if t_next != 0.0:
            d_next = (x_next - data(x_next, t_next)) / t_next
            x_next = x + (t_next - t) * 0.5 * (d + d_next)
        x = x_next
    assert torch.allclose(ours(mixture, "heun", start), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("churn", "noise_scale"), [(3.0, 1.0), (40.0, 1.0), (4.0, 1.007), (0.0, 1.0)])
def test_edm_stochastic_is_algorithm_2(churn, noise_scale, mixture, data, start):
    """Algorithm 2 of the same paper on the same draws; S_min = 0.05 keeps its closing step free of churn, as ours is."""
    x, levels, noise = start, [*KARRAS, 0.0], Noise.first(3, seed=9)
    for t, t_next in zip(levels, levels[1:], strict=False):
        gamma = min(churn / len(KARRAS), math.sqrt(2) - 1) if 0.05 <= t <= 50.0 else 0.0
        t_hat = t + gamma * t
        if gamma > 0.0:
            eps = noise_scale * noise.draw((2,), (t, EDM.time_of_sigma((1 + gamma) * t)), dtype=torch.float64)
            x = x + math.sqrt(t_hat**2 - t**2) * eps
        d = (x - data(x, t_hat)) / t_hat
        x_next = x + (t_next - t_hat) * d
        if t_next != 0.0:
            d_next = (x_next - data(x_next, t_next)) / t_next
            x_next = x + (t_next - t_hat) * 0.5 * (d + d_next)
        x = x_next
    made = ours(mixture, "edm_stochastic", start, seed=9, churn=churn, noise_scale=noise_scale)
    assert torch.allclose(made, x, rtol=0, atol=1e-9)


def test_euler_is_euler_in_sigma(mixture, data, start):
    x, levels = start, [*KARRAS, 0.0]
    for t, t_next in zip(levels, levels[1:], strict=False):
        x = x + (t_next - t) * (x - data(x, t)) / t
    for name in ("euler", "ddim", "ipndm_1"):
        assert torch.allclose(ours(mixture, name, start), x, rtol=0, atol=1e-10), name


def test_dpm_solver_2_is_the_midpoint_rule_in_log_sigma(mixture, data, start):
    x, levels = start, [*KARRAS, 0.0]
    for t, t_next in zip(levels, levels[1:], strict=False):
        d = (x - data(x, t)) / t
        if t_next == 0.0:
            x = x - t * d
        else:
            middle = math.sqrt(t * t_next)
            x_middle = x + (middle - t) * d
            x = x + (t_next - t) * (x_middle - data(x_middle, middle)) / middle
    assert torch.allclose(ours(mixture, "dpm_solver_2", start), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_dpmpp_2m_and_its_sde_in_sigma(eta, mixture, data, start):
    """2M and its SDE of Lu et al., 2022, arXiv 2211.01095, written in sigma as k-diffusion does."""
    x, levels, old, h_last = start, [*KARRAS, 0.0], None, 0.0
    noise = Noise.first(3, seed=4)
    for t, t_next in zip(levels, levels[1:], strict=False):
        mean = data(x, t)
        if t_next == 0.0:
            x = mean
            continue
        h = math.log(t / t_next)
        extrapolated = mean if old is None else mean + (mean - old) * h / (2 * h_last)
        x = (t_next / t) * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * extrapolated
        if eta:
            x = x + t_next * math.sqrt(-math.expm1(-2 * eta * h)) * noise.draw((2,), (t, t_next), dtype=torch.float64)
        old, h_last = mean, h
    assert torch.allclose(ours(mixture, "dpmpp_2m_sde", start, seed=4, eta=eta), x, rtol=0, atol=1e-10)
    if eta == 0.0:
        assert torch.allclose(ours(mixture, "dpmpp_2m", start), x, rtol=0, atol=1e-10)


def test_ddim_with_eta_one_is_ddpm(mixture):
    """One step of each from Ho et al., 2020, equation 7 (arXiv 2006.11239) and Song et al., 2020, equation 12 and 16."""
    path = rg.paths.VP()
    grid = rg.grids.uniform(path, 8)
    ancestral, implicit = (rg.plan(name, path, grid=grid, **o) for name, o in (("ddpm", {}), ("ddim", {"eta": 1.0})))
    for one, other in zip(ancestral.rows, implicit.rows, strict=True):
        for part in ("states", "outputs", "noises"):
            assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-9, abs=1e-12)
    for row in ancestral.rows[:-1]:
        alpha_bar, alpha_bar_next = path.a(row.time) ** 2, path.a(row.next_time) ** 2
        alpha = alpha_bar / alpha_bar_next  # of the one forward step between the two
        beta = 1 - alpha
        assert row.states[0] == pytest.approx(math.sqrt(alpha) * (1 - alpha_bar_next) / (1 - alpha_bar))
        assert row.outputs[0] == pytest.approx(math.sqrt(alpha_bar_next) * beta / (1 - alpha_bar))
        variance = (1 - alpha_bar_next) / (1 - alpha_bar) * beta
        assert row.noises[0] ** 2 == pytest.approx(variance)
        # Song's form: sigma_t of equation 16, direction to x_t of equation 12
        assert variance == pytest.approx((1 - alpha_bar_next) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_next))
    one, other = (rg.sample(mixture(path), plan, n=4, dtype=torch.float64) for plan in (ancestral, implicit))
    assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_deis_coefficients_reproduce_polynomials():
    """The weights of k + 1 knots integrate every polynomial of degree k in path time over dsigma exactly."""
    path = rg.paths.VP()
    knots = [0.62, 0.7, 0.75, 0.83]
    here, there = level(path, knots[0]), level(path, 0.5)
    fine = np.linspace(there.t, here.t, 200001)
    sigma = np.array([path.sigma(float(t)) for t in fine])
    for degree in range(4):
        weights = lagrange_integrals(path, here, there, knots[: degree + 1])
        for power in range(degree + 1):
            exact = -np.trapezoid((fine - 0.6) ** power, sigma)
            assert math.fsum(w * (k - 0.6) ** power for w, k in zip(weights, knots, strict=False)) == pytest.approx(
                exact, rel=1e-6, abs=1e-9
            )


def test_ipndm_is_adams_bashforth_on_an_even_grid():
    """Textbook weights, from integrating the interpolation polynomial over the next step of an even grid."""
    sigmas = np.linspace(10.0, 1.0, 10)
    for order in (1, 2, 3, 4):
        nodes = -np.arange(order, dtype=float)  # the newest at 0, the step ends at 1
        moments = 1.0 / (1.0 + np.arange(order))
        weights = np.linalg.solve(np.vander(nodes, increasing=True).T, moments)
        row = rg.plan(f"ipndm_{order}", EDM, grid=sigmas)[6]
        assert row.outputs == pytest.approx(-1.0 * weights)
        # on the EDM path, where time is sigma, DEIS finds the same weights by quadrature
        if order > 1:
            assert rg.plan(f"deis_tab{order - 1}", EDM, grid=sigmas)[6].outputs == pytest.approx(-1.0 * weights)


# ---------------------------------------------------------------------------------------------------------- diffusers


@pytest.fixture
def path(path_called) -> rg.paths.VPDiscrete:
    return path_called("vp_discrete")


def scheduler(path: rg.paths.VPDiscrete, name: str, sigmas: Sequence[float], **config: object):
    """A scheduler of diffusers that steps through the given levels, the last one not being followed by zero."""
    import diffusers

    betas = 1.0 - np.array(path.alphas_cumprod) / np.array([1.0, *path.alphas_cumprod[:-1]])
    made = getattr(diffusers, name)(trained_betas=betas.tolist(), lower_order_final=False, **config)
    made.set_timesteps(len(sigmas) - 1)
    assert len(made.timesteps) == len(sigmas) - 1
    made.sigmas = torch.tensor(sigmas, dtype=torch.float64)
    return made


def drive(made, path: rg.paths.VPDiscrete, den, x: Tensor, noise: Callable[[int], Tensor] | None = None) -> Tensor:
    for i, timestep in enumerate(made.timesteps):
        t = path.time_of_sigma(float(made.sigmas[i]))
        extra = {} if noise is None else {"variance_noise": noise(i)}
        x = made.step(den.predict(x, t).noise.float(), timestep, x.float(), **extra).prev_sample
    return x.double()


def compare(plan: Plan, theirs: Tensor, den, x: Tensor, seed: int = 0) -> None:
    *_, last = rg.steps(plan[: len(plan) - 1], den, seed=seed, x=x)
    scale = float(last.x_t.abs().max())
    assert float((last.x_t - theirs).abs().max()) < 1e-4 * scale


def grid_of(path: rg.paths.VPDiscrete, n: int) -> list[float]:
    """Levels between the 960th and the 10th trained step, uneven in every variable."""
    return [path.sigma(t) for t in np.linspace(0.96, 0.01**0.7, n + 1) ** (1 / 0.7) if t > 0]


def start_on(path: rg.paths.Path, sigma: float) -> Tensor:
    t = path.time_of_sigma(sigma)
    x_0 = torch.tensor([[0.5, -0.3], [-1.0, 1.0], [0.2, 0.8]], dtype=torch.float64)
    return path.a(t) * x_0 + path.s(t) * Noise.first(3, seed=8).prior((2,), torch.float64)


@pytest.mark.diffusers
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_agrees_with_diffusers(order, path, mixture):
    """diffusers walks through the inner points of a step as through steps of orders 1, 2, ...

    Its type "midpoint" is the step of DPM-Solver-2 and the closing one of DPM-Solver-3, whose second stage is its "heun".
    """
    den, outer = mixture(path, "noise"), grid_of(path, 7)
    sigmas = [outer[0]]
    for high, low in zip(outer, outer[1:], strict=False):
        sigmas += [high * (low / high) ** (k / order) for k in range(1, order + 1)]
    made = scheduler(
        path,
        "DPMSolverSinglestepScheduler",
        sigmas,
        algorithm_type="dpmsolver",
        solver_type="midpoint",
        solver_order=order,
        final_sigmas_type="sigma_min",
    )
    made.order_list = list(range(1, order + 1)) * (len(outer) - 1)
    x = start = start_on(path, sigmas[0])
    for i, timestep in enumerate(made.timesteps):
        made.register_to_config(solver_type="heun" if order == 3 and i % 3 == 1 else "midpoint")
        t = path.time_of_sigma(sigmas[i])
        x = made.step(den.predict(x.double(), t).noise.float(), timestep, x.float()).prev_sample
    plan = rg.plan(f"dpm_solver_{order}", path, grid=rg.grids.from_sigmas(path, outer))
    compare(plan, x.double(), den, start)


@pytest.mark.diffusers
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_2s"])
def test_dpmpp_agrees_with_diffusers(name, path, mixture):
    den, sigmas, seed = mixture(path, "noise"), grid_of(path, 12), 6
    outer = sigmas
    config = {"solver_type": "midpoint", "solver_order": 3 if name == "dpmpp_3m" else 2}
    if name == "dpmpp_2s":
        outer, sigmas = sigmas[::2], [sigmas[0]]
        for high, low in zip(outer, outer[1:], strict=False):
            sigmas += [math.sqrt(high * low), low]
        config |= {"final_sigmas_type": "sigma_min"}
        made = scheduler(path, "DPMSolverSinglestepScheduler", sigmas, algorithm_type="dpmsolver++", **config)
        made.order_list = [1, 2] * (len(outer) - 1)
    else:
        kind = "sde-dpmsolver++" if name.endswith("sde") else "dpmsolver++"
        config |= {"final_sigmas_type": "sigma_min", "euler_at_final": False}
        made = scheduler(path, "DPMSolverMultistepScheduler", sigmas, algorithm_type=kind, **config)
    grid = rg.grids.from_sigmas(path, outer)
    plan = rg.plan(name, path, grid=grid)
    noise, start = Noise.first(3, seed), start_on(path, sigmas[0])

    def draw(i: int) -> Tensor:
        return noise.draw((2,), (grid[i], grid[i + 1]))

    compare(plan, drive(made, path, den, start, draw if plan.stochastic else None), den, start, seed)


@pytest.mark.diffusers
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis_agrees_with_diffusers_where_time_is_log_sigma(order, path, mixture):
    """diffusers fits polynomials in log sigma, the paper's code in path time: one formula on the path with t = log sigma."""
    sigmas = grid_of(path, 12)
    made = scheduler(path, "DEISMultistepScheduler", sigmas, solver_order=order)
    start = start_on(path, sigmas[0])
    theirs = drive(made, path, mixture(path, "noise"), start)
    exploding = rg.paths.VE()
    grid = rg.grids.from_sigmas(exploding, sigmas)
    plan = rg.plan("ddim" if order == 1 else f"deis_tab{order - 1}", exploding, grid=grid)
    a, a_end = (path.a(path.time_of_sigma(s)) for s in (sigmas[0], sigmas[-1]))
    compare(plan, theirs / a_end, mixture(exploding), start / a)


@pytest.mark.diffusers
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("order", [2, 3])
def test_unipc_agrees_with_diffusers(order, corrector, variant, path, mixture):
    den, sigmas = mixture(path, "noise"), grid_of(path, 12)
    disabled = [] if corrector else list(range(len(sigmas)))
    made = scheduler(
        path, "UniPCMultistepScheduler", sigmas, solver_order=order, solver_type=variant, disable_corrector=disabled
    )
    start = start_on(path, sigmas[0])
    name = f"uni{'pc' if corrector else 'p'}_{order}"
    plan = rg.plan(name, path, grid=rg.grids.from_sigmas(path, sigmas), variant=variant)
    compare(plan, drive(made, path, den, start), den, start)


@pytest.mark.diffusers
def test_a_whole_run_agrees_with_diffusers(path, mixture):
    """Untouched schedulers with their own integer timesteps and their closing step to zero, and a network told indices."""
    import diffusers

    betas = 1.0 - np.array(path.alphas_cumprod) / np.array([1.0, *path.alphas_cumprod[:-1]])
    exact = mixture(path, "noise")

    def network(x: Tensor, index: Tensor) -> Tensor:
        return exact.predict(x, float(index[0] + 1) / 1000).value

    den = rg.Denoiser(network, path, "noise", (2,))
    start = start_on(path, path.sigma(1.0))
    for cls, config, name in (
        ("DPMSolverMultistepScheduler", {}, "dpmpp_2m"),
        ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}, "ddim"),
        ("UniPCMultistepScheduler", {"solver_order": 2, "lower_order_final": True}, "unipc_2"),
    ):
        made = getattr(diffusers, cls)(trained_betas=betas.tolist(), **config)
        made.set_timesteps(10)  # divides 1000: otherwise DDIM of diffusers lands beside its own next timestep
        x = start
        for timestep in made.timesteps:
            told = torch.full((3,), float(timestep))
            x = made.step(network(x.double(), told).float(), timestep, x.float()).prev_sample
        grid = [float(timestep + 1) / 1000 for timestep in made.timesteps]
        assert grid[0] == 1.0
        mine = rg.sample(den, rg.plan(name, den, grid=grid), x=start)
        assert float((mine - x.double()).abs().max()) < 1e-4, name
