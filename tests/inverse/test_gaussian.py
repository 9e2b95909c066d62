"""A Gaussian prior: exact methods have the posterior's mean and covariance, the others show their bias; published loops."""

import math

import pytest
import torch

import retrograde as rg
from retrograde import inverse, operators
from retrograde.noise import Bulk

BIASED = ("dps", "pigdm", "tmpd", "sda", "diffpir", "ddrm", "ddnm")


def linear_run(problem, corners, method, nfe=60, **settings):
    """What a method that is linear in its start makes of the corners: its exact law on Gaussian data."""
    task = inverse.Task(nfe, 0, range(len(corners)), Bulk(0, range(len(corners))), dtype=torch.float64)
    posed = inverse.get(method).write(problem.prior, problem.measurement, task, **settings)
    *_, last = rg.steps(posed.plan, posed.denoiser, x=corners, noise=Bulk)
    return last.x_t


@pytest.mark.parametrize("recipe", ["dpmpp_2m", "heun"])
def test_methods_that_are_exact_have_the_posterior(gaussian, corners, recipe):
    """The errors are those of the steps: they go with the square of their length, on any path."""
    for path in (rg.paths.VP(), rg.paths.EDM()):
        problem = gaussian(path=path)
        start = corners(problem)
        coarse, fine = (problem.errors(linear_run(problem, start, "mmps", n, recipe=recipe)) for n in (60, 240))
        assert max(fine) < 0.005
        assert max(fine) < max(coarse) / 8


def test_the_stochastic_sampler_has_it_too(gaussian):
    problem = gaussian()
    made = inverse.solve(problem.prior, problem.measurement, "mmps", n=2000, nfe=150, dtype=torch.float64, noise=Bulk)
    mean, covariance = problem.errors(made.samples)
    assert mean < 0.08
    assert covariance < 0.12


@pytest.mark.parametrize(
    ("method", "settings"),
    [("tds", {"spread": 1.0}), ("tds", {"twist": "covariance"}), ("mcgdiff", {})],
)
def test_particles_have_it_as_they_grow_in_number(gaussian, method, settings):
    """Mean and covariance; what is left of the latter is DDPM's, which draws too little."""
    problem = gaussian(scales=(1.2, 0.9, 0.7, 0.5))

    def missed(n):
        made = [
            inverse.solve(problem.prior, problem.measurement, method, n, 60, s, noise=Bulk, dtype=torch.float64, **settings)
            for s in range(2)
        ]
        errors = [problem.errors(one.samples) for one in made]
        return [sum(parts) / 2 for parts in zip(*errors, strict=True)]

    few, many = missed(30), missed(600)
    assert many[0] < 0.12
    assert many[1] < 0.3
    assert sum(many) < 0.6 * sum(few)


@pytest.mark.parametrize("method", BIASED)
def test_every_other_method_shows_its_bias(gaussian, corners, method):
    """On data whose covariance is far from the identity the heuristics miss the posterior by far more than the exact one."""
    problem = gaussian(scales=(3.0, 1.0, 0.3, 0.1), m=3, std=0.5)
    if method in ("pigdm", "tmpd", "sda"):  # linear in the start, by a recipe that draws nothing: their exact law
        made = linear_run(problem, corners(problem), method, recipe="dpmpp_2m")
        assert max(problem.errors(linear_run(problem, corners(problem), "mmps", recipe="dpmpp_2m"))) < 0.02
    else:
        made = inverse.solve(
            problem.prior, problem.measurement, method, n=500, nfe=100, dtype=torch.float64, noise=Bulk
        ).samples
    assert bool(made.isfinite().all())
    assert max(problem.errors(made)) > 0.25


def test_pigdm_is_exact_for_data_of_one_spread(gaussian, corners):
    problem = gaussian(scales=(1.3,) * 4)
    mean, covariance = problem.errors(linear_run(problem, corners(problem), "pigdm", recipe="dpmpp_2m", spread=1.3))
    assert mean < 0.01
    assert covariance < 0.01
    mean, covariance = problem.errors(linear_run(problem, corners(problem), "pigdm", recipe="dpmpp_2m", spread=0.5))
    assert max(mean, covariance) > 0.1


def test_row_sums_are_exact_where_the_covariance_is_diagonal(gaussian, corners):
    problem = gaussian(turned=False)
    mean, covariance = problem.errors(linear_run(problem, corners(problem), "tmpd", recipe="dpmpp_2m"))
    assert mean < 0.01
    assert covariance < 0.01


def test_jacobian_products_are_as_good_as_the_matrix(gaussian):
    problem = gaussian(m=3)
    x = torch.randn(5, 4, dtype=torch.float64)
    for t in (0.2, 0.9):
        dense = inverse.get("mmps").write(problem.prior, problem.measurement, _task(5)).denoiser(x, t).data
        products = inverse.get("mmps").write(problem.prior, problem.measurement, _task(5), products=3).denoiser(x, t)
        assert torch.allclose(products.data, dense, atol=1e-6)
        assert products.evaluations == {"gaussian": 1, "gaussian:backward": 4}


def test_the_conditioned_denoiser_is_that_of_the_posterior(gaussian):
    """Of Gaussian data the guided data mean is E[x_0 | x_t, y], at every level."""
    problem = gaussian()
    A = problem.measurement.linear.matrix()
    exact = problem.prior.posterior(A, problem.measurement.y, problem.measurement.std)
    x = 2.0 * torch.randn(6, 4, dtype=torch.float64)
    ours = inverse.get("mmps").write(problem.prior, problem.measurement, _task(6)).denoiser
    for t in (0.01, 0.3, 0.99):
        assert torch.allclose(ours(x, t).data, exact(x, t).data, atol=1e-7)


def _task(n, nfe=6):
    return inverse.Task(nfe, 0, range(n), Bulk(0, range(n)), dtype=torch.float64)


def _levels(plan):
    path = plan.path
    return [(path.a(t), path.s(t)) for t in plan.times]


def _compare(problem, method, loop, n=4, nfe=6, **settings):
    """Run a method, and a loop written as the paper has it, on the same noise."""
    posed = inverse.get(method).write(problem.prior, problem.measurement, _task(n, nfe), **settings)
    start = torch.randn(n, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    *_, last = rg.steps(posed.plan, posed.denoiser, x=start, noise=Bulk)
    drawn = Bulk(0, range(n))
    times = posed.plan.times

    def noise(i):
        return drawn.draw((4,), (times[i], times[i + 1]), 0, torch.float64)

    assert torch.allclose(last.x_t, loop(start, times, noise, problem, posed.plan.path), atol=1e-9)


def test_dps_is_the_published_loop(gaussian):
    def loop(x, times, noise, problem, path):
        m, zeta = problem.measurement, 0.7
        for i, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
            ab, ab_next = path.a(t) ** 2, path.a(t_next) ** 2
            x = x.requires_grad_(True)
            data = problem.prior(x, t).data
            (gradient,) = torch.autograd.grad((m.y - data @ m.linear.matrix().T).norm(dim=1).sum(), x)
            alpha = ab / ab_next
            mean = (alpha**0.5 * (1 - ab_next) * x + ab_next**0.5 * (1 - alpha) * data) / (1 - ab)
            variance = (1 - ab_next) / (1 - ab) * (1 - alpha)
            x = (mean + variance**0.5 * noise(i) - zeta * gradient).detach()
        return problem.prior(x, times[-1]).data

    _compare(gaussian(), "dps", loop, zeta=0.7)


def test_dps_steps_alike_on_every_path(gaussian):
    """The step is one of the variance-preserving state, whatever the path."""
    plans = []
    for path in (rg.paths.VP(), rg.paths.EDM()):
        problem = gaussian(path=path)
        times = [path.time_of_sigma(s) for s in (20.0, 5.0, 1.0, 0.2)]
        task = inverse.Task(4, 0, range(3), Bulk(0, range(3)), times, torch.float64)
        posed = inverse.get("dps").write(problem.prior, problem.measurement, task, zeta=0.3)
        rows = [r.__class__(**{**r.__dict__, "noises": ()}) for r in posed.plan.rows]
        unit = torch.tensor([[1.0, 0.2, -0.5, 0.3]], dtype=torch.float64)
        x = unit * math.hypot(path.a(times[0]), path.s(times[0]))
        for row in rows[:-1]:
            data = posed.denoiser.predict(x, row.time, {}, row.knobs).data
            x = row.states[0] * x + row.outputs[0] * data
        plans.append(x / math.hypot(path.a(times[-1]), path.s(times[-1])))
    assert torch.allclose(plans[0], plans[1], atol=1e-9)


def test_diffpir_is_the_published_loop(gaussian):
    def loop(x, times, noise, problem, path):
        m, A = problem.measurement, problem.measurement.linear.matrix()
        for i, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
            data = problem.prior(x, t).data
            rho = 2.0 * m.std**2 / (path.s(t) / path.a(t)) ** 2
            solved = torch.linalg.solve(A.T @ A + rho * torch.eye(4), (m.y @ A + rho * data).T).T
            eps = (x - path.a(t) * solved) / path.s(t)
            x = path.a(t_next) * solved + path.s(t_next) * (0.6**0.5 * eps + 0.4**0.5 * noise(i))
        t = times[-1]
        rho = 2.0 * m.std**2 / (path.s(t) / path.a(t)) ** 2
        return torch.linalg.solve(A.T @ A + rho * torch.eye(4), (m.y @ A + rho * problem.prior(x, t).data).T).T

    _compare(gaussian(), "diffpir", loop, lam=2.0, zeta=0.4)


def test_ddrm_is_the_published_loop(gaussian):
    def loop(x, times, noise, problem, path):
        m, eta, eta_b = problem.measurement, 0.85, 0.9
        u, s, vh = torch.linalg.svd(m.linear.matrix())
        y = (m.y @ u) / s
        for i, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
            prediction = problem.prior(x, t)
            sigma = path.s(t_next) / path.a(t_next)
            data, eps, z = prediction.data @ vh.T, prediction.noise @ vh.T, noise(i) @ vh.T
            made = data + (1 - eta**2) ** 0.5 * sigma * eps + eta * sigma * z
            for k in range(len(s)):
                if sigma < m.std / s[k]:
                    pull = (1 - eta**2) ** 0.5 * sigma * (y[k] - data[:, k]) * s[k] / m.std
                    made[:, k] = data[:, k] + pull + eta * sigma * z[:, k]
                else:
                    left = (sigma**2 - (eta_b * m.std / s[k]) ** 2) ** 0.5
                    made[:, k] = (1 - eta_b) * data[:, k] + eta_b * y[k] + left * z[:, k]
            x = path.a(t_next) * made @ vh
        return problem.prior(x, times[-1]).data

    _compare(gaussian(), "ddrm", loop, eta_b=0.9, nfe=9)


def test_ddrm_starts_with_what_is_seen(gaussian):
    problem = gaussian(std=0.0)
    task = _task(2000)
    posed = inverse.get("ddrm").write(problem.prior, problem.measurement, task)
    A, path = problem.measurement.linear, problem.prior.path
    a, s = path.a(posed.plan.start), path.s(posed.plan.start)
    left = posed.start - a * A.pseudo_inverse(problem.measurement.y[None])
    assert float(left.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(left.std()) == pytest.approx(s, rel=0.03)


def test_ddnm_is_the_published_loop(gaussian):
    def loop(x, times, noise, problem, path):
        m, eta = problem.measurement, 0.85
        _, s, vh = torch.linalg.svd(m.linear.matrix())
        pinv = torch.linalg.pinv(m.linear.matrix())
        for i, (t, t_next) in enumerate(zip(times, times[1:], strict=False)):
            prediction = problem.prior(x, t)
            a, spread = path.a(t_next), path.s(t_next)
            share, left = torch.zeros(4, dtype=torch.float64), torch.full((4,), eta * spread, dtype=torch.float64)
            for k in range(len(s)):
                size = a * m.std / s[k]
                share[k] = min(1.0, eta * spread / size)
                left[k] = max(0.0, (eta * spread) ** 2 - (share[k] * size) ** 2) ** 0.5
            off = (m.y - prediction.data @ m.linear.matrix().T) @ pinv.T
            data = prediction.data + (off @ vh.T * share) @ vh
            x = a * data + (1 - eta**2) ** 0.5 * spread * prediction.noise + (noise(i) @ vh.T * left) @ vh
        return problem.prior(x, times[-1]).data

    _compare(gaussian(), "ddnm", loop, nfe=9)


def test_ddnm_without_noise_keeps_what_is_seen():
    """Without noise the range of A^T is that of y in every estimate, and the samples measure as y does."""
    prior = rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(1, 4, 4), 1.0)
    A = operators.down((1, 4, 4), 2)
    m = operators.measure(A, torch.rand(1, 4, 4, dtype=torch.float64), 0.0)
    posed = inverse.get("ddnm").write(prior, m, _task(3))
    *_, before, last = rg.steps(posed.plan, posed.denoiser, n=3, noise=Bulk, dtype=torch.float64)
    path, t = posed.plan.path, posed.plan.rows[-1].time
    assert float((A(before.x_t) / path.a(t) - m.y).abs().max()) < 6 * path.sigma(t)
    assert last.x_t.shape == (3, 1, 4, 4)
