"""RDDM, ResShift, Resfusion and DiffuseVAE: the published steps, what they equal, and the posterior they sample."""

import math

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Noise
from retrograde.plan import Plan

DOUBLE = torch.float64
X, RESIDUAL, EPS, Z = torch.randn(4, 5, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)


def step(plan: Plan, index: int, x: torch.Tensor, output: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """What one row without history makes."""
    row = plan[index]
    (keep,), (gain,) = row.states, row.outputs
    fresh = row.noises[0] if row.noises else 0.0
    return keep * x + gain * output + fresh * z + row.anchor * y


def moments(plan: Plan, y: float, mean: float, variance: float, x: tuple[float, float]) -> tuple[float, float]:
    """Mean and variance of the last state, for data N(mean, variance) given y and a start of moments `x`."""
    centre, spread = x
    for row in plan.rows:
        a, b, s = plan.path.a(row.time), plan.path.b(row.time), plan.path.s(row.time)
        gain = a * variance / (a * a * variance + s * s)  # the data mean is mean + gain (x - a mean - b y)
        assert plan.basis == "data"
        slope = row.states[0] + row.outputs[0] * gain
        centre = slope * centre + row.outputs[0] * (mean - gain * (a * mean + b * y)) + row.anchor * y
        spread = slope**2 * spread + sum(c * c for c in row.noises)
    return centre, spread


# --------------------------------------------------------------------------------------------------------------- RDDM


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_rddm_is_the_published_step(eta):
    path = rg.paths.ResidualDenoising()
    plan = rg.plan("rddm", path, grid=[1.0, 0.8, 0.5, 0.3, 0.1], eta=eta)
    for i, (t, there) in enumerate(zip(plan.times, plan.times[1:], strict=False)):
        residual, next_residual = path.b(t), path.b(there)
        noise, next_noise = path.s(t), path.s(there)
        data = X - RESIDUAL  # any three of x_t, residual and noise fix the rest
        y = data + RESIDUAL
        x = data + residual * RESIDUAL + noise * EPS
        variance = eta * (noise**2 - next_noise**2) * next_noise**2 / noise**2
        published = x - (residual - next_residual) * RESIDUAL
        published = published - (noise - math.sqrt(next_noise**2 - variance)) * EPS + math.sqrt(variance) * Z
        assert torch.allclose(step(plan, i, x, data, y, Z), published, rtol=0, atol=1e-12)
        if eta == 1.0:
            fresh = noise**2 - next_noise**2
            ancestral = next_noise**2 * x + (fresh * next_residual - next_noise**2 * (residual - next_residual)) * RESIDUAL
            ancestral = (ancestral + fresh * data) / noise**2 + math.sqrt(variance) * Z
            assert torch.allclose(published, ancestral, rtol=0, atol=1e-12)


def test_rddm_over_a_ddpm_schedule_is_ddim_but_not_ddpm(mixture):
    """With eta = 0 and y = 0 it is DDIM to the digit. With eta = 1 its variance is a'^2 times DDPM's: not the same chain."""
    base = rg.paths.VP()
    path = rg.paths.MeanReverting(base, spread=1.0)
    plan, ddim = rg.plan("rddm", path, nfe=12, eta=0.0), rg.plan("ddim", base, nfe=12)
    zero = torch.zeros(4, 2, dtype=DOUBLE)
    samples = rg.sample(mixture(path), plan, seed=1, anchor=zero, dtype=DOUBLE)
    assert torch.allclose(samples, rg.sample(mixture(base), ddim, n=4, seed=1, dtype=DOUBLE), rtol=0, atol=1e-9)
    stochastic, ddpm = rg.plan("rddm", path, nfe=12), rg.plan("ddpm", base, nfe=12)
    for one, other in zip(stochastic.rows[:-1], ddpm.rows[:-1], strict=True):
        assert one.noises[0] == pytest.approx(base.a(one.next_time) * other.noises[0], rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_rddm_samples_the_posterior_of_degraded_data(eta, mixture):
    """A mixture seen through a matrix and noise: with the exact denoiser, more steps come to p(x_0 | y)."""
    path = rg.paths.ResidualDenoising(noise=1.0)
    den = mixture(path).degraded(torch.tensor([[0.9, 0.2], [0.1, 0.6]]), 0.5)
    y = torch.tensor([[0.6, -0.4]], dtype=DOUBLE)
    mean, covariance = (part[0] for part in den.posterior(y))
    errors = []
    for steps in (5, 40):
        plan = rg.plan("rddm", path, nfe=steps, grid="uniform", eta=eta)
        samples = rg.sample(den, plan, n=1500, seed=3, anchor=y[0], dtype=DOUBLE)
        off = torch.cat([(samples.mean(0) - mean), (torch.cov(samples.T) - covariance).flatten()])
        errors.append(float(off.abs().max()))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 4.0 * float(covariance.diagonal().max()) * math.sqrt(2.0 / 1500) + 0.01, errors


def test_its_path_may_be_entered_at_its_very_end_and_no_later():
    path = rg.paths.ResidualDenoising()
    assert rg.plan("rddm", path, grid=[1.0, 0.5]).start == 1.0
    with pytest.raises(BadValue, match="0 < t <= 1"):
        rg.plan("rddm", path, grid=[1.01, 0.5])


def test_the_residual_may_be_removed_first_and_the_noise_after_it(mixture):
    """Path independence: the same denoiser, on a path that shifts to y under full noise, at the same levels s/a."""
    path = rg.paths.ResidualDenoising(noise=0.5)
    turned = rg.paths.MeanReverting(rg.paths.Tabulated((0.0, 0.5, 1.0), (1.0, 1.0, 0.0), (0.0, 0.5, 0.5)), spread=1.0)
    assert [turned.b(t) for t in (0.25, 0.5, 0.75)] == [0.0, 0.0, 0.5]
    den = mixture(path).degraded(torch.tensor([[0.9, 0.2], [0.1, 0.6]]), 0.5)
    y = torch.tensor([[0.6, -0.4], [0.1, 0.9], [-1.0, 0.3]], dtype=DOUBLE)
    for name in ("ddim", "dpmpp_2m"):
        plans = [rg.plan(name, one, nfe=20, grid="log_snr", start=50.0, sigma_min=0.01) for one in (path, turned)]
        one, other = (rg.sample(den, plan, seed=1, anchor=y, dtype=DOUBLE) for plan in plans)
        assert torch.allclose(one, other, rtol=0, atol=1e-9)
    # five even steps in either order end closer to each other than to where they should
    times = [0.95, 0.8, 0.65, 0.5, 0.25]
    y = den.draw(50)[1]
    plans = (
        rg.plan("rddm", turned, grid=times, eta=0.0),
        rg.plan("rddm", path, nfe=5, grid="uniform", eta=0.0),
        rg.plan("dpmpp_2m", path, nfe=100, grid="uniform"),
    )
    turning, direct, fine = (rg.sample(den, plan, seed=1, anchor=y, dtype=DOUBLE) for plan in plans)
    error = min((one - fine).square().mean() for one in (turning, direct))
    assert (turning - direct).square().mean() < 0.5 * error


def networks(path: rg.paths.Path) -> tuple[rg.Denoiser, rg.Denoiser]:
    """One for the residual and one for the noise that do not agree; each is told its own clock, 1000 (1 - a) and 1000 s."""
    weights = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(6), dtype=DOUBLE)

    def made(weight: torch.Tensor):
        return lambda x, told, anchor: torch.tanh(x @ weight + 0.2 * anchor + told[:, None] / 1000)

    clocks = (lambda t: 1000 * path.b(t)), (lambda t: 1000 * path.s(t))
    kinds = zip(weights, ("residual", "noise"), clocks, strict=True)
    first, second = (rg.Denoiser(made(weight), path, kind, (5,), clock=clock) for weight, kind, clock in kinds)
    return first, second


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_two_networks_take_off_residual_and_noise_as_published(eta):
    """The loop with two networks, line by line; either network alone would have gone elsewhere."""
    path = rg.paths.ResidualDenoising(noise=0.3)
    first, second = networks(path)
    den, plan = rg.denoisers.TwoNetworks(first, second), rg.plan("rddm_two", path, grid=[0.95, 0.7, 0.4, 0.1], eta=eta)
    y = torch.stack([X, RESIDUAL])
    made = rg.record(den, plan, seed=1, anchor=y, dtype=DOUBLE)
    noise, x = Noise(1, range(2)), made.trajectory[0]
    for i, (t, there) in enumerate(zip(plan.times, plan.times[1:], strict=False)):
        residual = torch.tanh(x @ first.network.__closure__[0].cell_contents + 0.2 * y + path.b(t))
        eps = torch.tanh(x @ second.network.__closure__[0].cell_contents + 0.2 * y + path.s(t))
        variance = eta * (path.s(t) ** 2 - path.s(there) ** 2) * path.s(there) ** 2 / path.s(t) ** 2
        z = noise.draw((5,), (t, there), 0, DOUBLE)
        x = x - (path.b(t) - path.b(there)) * residual + math.sqrt(variance) * z
        x = x - (path.s(t) - math.sqrt(path.s(there) ** 2 - variance)) * eps
        assert torch.allclose(made.trajectory[i + 1], x, rtol=0, atol=1e-6)
    assert made.ledger.evaluations == {"first:network": 4, "second:network": 4}
    for one in (first, second):
        alone = rg.record(one, plan, seed=1, anchor=y, dtype=DOUBLE).trajectory[-2]
        assert not torch.allclose(alone, made.trajectory[-2], atol=0.01)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_networks_that_agree_make_it_rddm(eta, mixture):
    path = rg.paths.ResidualDenoising()
    den = mixture(path).degraded(torch.tensor([[0.9, 0.2], [0.1, 0.6]]), 0.5)
    y = torch.tensor([[0.6, -0.4], [0.1, 0.9]], dtype=DOUBLE)
    two, one = (rg.plan(name, path, nfe=6, grid="uniform", eta=eta) for name in ("rddm_two", "rddm"))
    wanted = rg.sample(den, one, seed=1, anchor=y, dtype=DOUBLE)
    for each in (den, rg.denoisers.TwoNetworks(den, den)):
        assert torch.allclose(rg.sample(each, two, seed=1, anchor=y, dtype=DOUBLE), wanted, rtol=0, atol=1e-9)


def test_two_networks_are_on_one_path():
    first, _ = networks(rg.paths.ResidualDenoising(noise=0.3))
    _, second = networks(rg.paths.ResidualDenoising(noise=0.4))
    with pytest.raises(BadValue, match="the same path"):
        rg.denoisers.TwoNetworks(first, second)


# ------------------------------------------------------------------------------------------------------------ ResShift


def test_resshift_is_the_published_posterior():
    path = rg.paths.ResidualShift()
    plan = rg.plan("rddm", path, nfe=4, grid="power")
    roots = [0.1 * 9.9 ** ((i / 3) ** 0.3) for i in (3, 2, 1, 0)]
    for i, (root, next_root) in enumerate(zip(roots, roots[1:], strict=False)):
        eta, next_eta = root**2, next_root**2
        shift = eta - next_eta
        published = next_eta / eta * X + shift / eta * EPS + 2.0 * math.sqrt(next_eta / eta * shift) * Z
        assert torch.allclose(step(plan, i, X, EPS, RESIDUAL, Z), published, rtol=0, atol=1e-12)
        assert plan[i].anchor == pytest.approx(0.0, abs=1e-12)  # y cancels
    assert (plan[3].states, plan[3].outputs, plan[3].noises, plan[3].anchor) == ((0.0,), (1.0,), (), 0.0)
    for root, next_root in zip(roots, roots[1:], strict=False):
        # as RDDM writes it, with bbar^2 = kappa^2 abar: its coefficient on the residual vanishes
        residual, next_residual, noise, next_noise = root**2, next_root**2, 4 * root**2, 4 * next_root**2
        on_residual = (noise - next_noise) * next_residual - next_noise * (residual - next_residual)
        assert on_residual == pytest.approx(0.0, abs=1e-12)


def test_resshift_is_what_conditioning_gives():
    """x' given x_t, x_0 and y by the joint Gaussian of the chain x_t = x' + shift (y - x_0) + kappa sqrt(shift) eps."""
    path = rg.paths.ResidualShift(kappa=1.3, least=0.1)
    plan = rg.plan("rddm", path, nfe=7, grid="power")
    for i, (t, there) in enumerate(zip(plan.times, plan.times[1:], strict=False)):
        x_0, y, x_t = 0.7, -0.4, 0.25
        means = [path.a(u) * x_0 + path.b(u) * y for u in (there, t)]
        known, total = path.s(there) ** 2, path.s(there) ** 2 + 1.3**2 * (path.b(t) - path.b(there))
        assert total == pytest.approx(path.s(t) ** 2, rel=1e-10)
        mean = means[0] + known / total * (x_t - means[1])
        row = plan[i]
        assert row.states[0] * x_t + row.outputs[0] * x_0 + row.anchor * y == pytest.approx(mean, abs=1e-10)
        assert row.noises[0] ** 2 == pytest.approx(known - known**2 / total, abs=1e-10)


def test_resshift_comes_to_the_posterior_as_its_ends_close():
    """Gaussian data with y = 0.8 x_0 + 0.5 n: exact moments of the samples, started as published at y + s eps."""
    y = 0.9
    gain = 0.8 / (0.64 + 0.25)
    mean, variance = gain * y, 1.0 - gain * 0.8

    def errors(steps: int, least: float, end: float) -> tuple[float, float]:
        path = rg.paths.ResidualShift(kappa=2.0, least=least, end=end)
        plan = rg.plan("rddm", path, nfe=steps, grid="power", power=1.0)
        got = moments(plan, y, mean, variance, (y, path.s(plan.start) ** 2))
        return abs(got[0] - mean), abs(got[1] - variance)

    closing = [errors(steps, 1e-3, 0.99999) for steps in (100, 400, 1600)]
    assert all(mean_error < 1e-6 for mean_error, _ in closing)
    slope = math.log(closing[0][1] / closing[2][1]) / math.log(16)
    assert slope == pytest.approx(1.0, abs=0.25), closing
    assert closing[2][1] < 0.01 * variance
    # the published ends leave an offset: the last state is decoded to its mean, so that variance is missing
    path = rg.paths.ResidualShift()
    plan = rg.plan("rddm", path, nfe=4, grid="power")
    _, spread = moments(plan, y, mean, variance, (y, path.s(1.0) ** 2))
    assert spread < 0.95 * variance
    assert 1e-4 < errors(15, 0.2, 0.99)[0] < 0.02


# ----------------------------------------------------------------------------------------------------------- Resfusion


def test_resfusion_is_ddpm_with_resnoise(mixture):
    path = rg.paths.residual_noise_linear(12)
    plan = rg.plan("resfusion", path, nfe=5)
    assert plan.times == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    squares = [1.0, *path.base.alphas_cumprod]
    oracle = mixture(path)
    x, y = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(4), dtype=DOUBLE)
    for i, k in enumerate((5, 4, 3, 2, 1)):
        alpha = squares[k] / squares[k - 1]
        prediction = oracle(x, plan.times[i], anchor=y)
        residual, deviation = y - prediction.data, math.sqrt(1 - squares[k])
        resnoise = prediction.noise + (1 - math.sqrt(alpha)) * deviation / (1 - alpha) * residual
        if i < 4:  # from t_max on: there a noise prediction does not tell the data, but resnoise does
            assert torch.allclose(prediction.read("resnoise"), resnoise, atol=1e-12)
        published = (x - (1 - alpha) / deviation * resnoise) / math.sqrt(alpha)
        variance = (1 - squares[k - 1]) / (1 - squares[k]) * (1 - alpha)
        z = torch.randn(3, 2, generator=torch.Generator().manual_seed(k), dtype=DOUBLE) if k > 1 else torch.zeros_like(x)
        assert torch.allclose(step(plan, i, x, prediction.data, y, z), published + math.sqrt(variance) * z, atol=1e-10), k


def test_resfusion_is_what_conditioning_gives():
    """x' given x_t, x_0 and y in the chain x_t = sqrt(alpha) x' + (1 - sqrt(alpha)) (y - x_0) + sqrt(beta) eps."""
    path, (x_0, y, x_t) = rg.paths.residual_noise_linear(12), (0.7, -0.4, 0.25)
    plan = rg.plan("resfusion", path, nfe=5)
    squares = [1.0, *path.base.alphas_cumprod]
    for i, k in enumerate((5, 4, 3, 2)):
        alpha = squares[k] / squares[k - 1]
        there, known = plan.times[i + 1], 1 - squares[k - 1]
        mean, total = path.a(there) * x_0 + path.b(there) * y, alpha * known + 1 - alpha
        gain = math.sqrt(alpha) * known / total
        expected = mean + gain * (x_t - math.sqrt(alpha) * mean - (1 - math.sqrt(alpha)) * (y - x_0))
        row = plan[i]
        assert row.states[0] * x_t + row.outputs[0] * x_0 + row.anchor * y == pytest.approx(expected, abs=1e-10)
        assert row.noises[0] ** 2 == pytest.approx(known - gain * math.sqrt(alpha) * known, abs=1e-10)


def test_a_network_that_predicts_resnoise_starts_where_nothing_is_left_of_the_data(mixture):
    path = rg.paths.residual_noise_linear(12)
    oracle, y = mixture(path, "resnoise"), torch.tensor([[0.3, -0.6], [1.0, 0.2]], dtype=DOUBLE)
    plan = rg.plan("resfusion", path, nfe=5)
    assert path.a(plan.start) == 0.0
    one, other = (rg.sample(den, plan, seed=2, anchor=y, dtype=DOUBLE) for den in (oracle, mixture(path)))
    assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_resfusion_in_five_steps_has_the_mean_of_the_posterior():
    """The start is exact and so is every conditional mean: for Gaussian data only the variance depends on the steps."""
    path, y, mean, variance = rg.paths.residual_noise_linear(12), 0.9, 0.4, 0.3
    plan = rg.plan("resfusion", path, nfe=5)
    got = moments(plan, y, mean, variance, (path.b(1.0) * y, path.s(1.0) ** 2))
    assert got[0] == pytest.approx(mean, abs=1e-12)
    finer = rg.paths.residual_noise_linear(1000)
    many = rg.plan("resfusion", finer, nfe=300)
    last = moments(many, y, mean, variance, (finer.b(many.start) * y, finer.s(many.start) ** 2))
    assert last[1] == pytest.approx(variance, abs=0.01)
    assert abs(got[1] - variance) > 3 * abs(last[1] - variance)


# ---------------------------------------------------------------------------------------------------------- DiffuseVAE


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@pytest.mark.parametrize("nfe", [1, 5, 10, 37])
def test_diffusevae_is_ddpm_moved_by_the_reconstruction(name, nfe, path_called):
    """A network e(x - x_hat) on x_t = a x_0 + x_hat + s eps gives the chain of DDPM plus x_hat; with 0, the chain."""
    base = path_called("vp_discrete")
    path = rg.paths.Offset(base)
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)

    def network(x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x @ weight + told[:, None] / 1000)

    x_hat = torch.tensor([[0.5, -1.0, 0.8], [0.1, 0.9, -0.2]], dtype=DOUBLE)
    den = rg.Denoiser(lambda x, t, anchor: network(x - anchor, t), path, "noise", (3,), discrete=1000)
    plain = rg.Denoiser(network, base, "noise", (3,))
    plans = rg.plan(name, den, nfe=nfe), rg.plan(name, plain, nfe=nfe)
    moved = rg.record(den, plans[0], seed=1, anchor=x_hat, dtype=DOUBLE)
    chain = rg.record(plain, plans[1], n=2, seed=1, dtype=DOUBLE)
    for x, other in zip(moved.trajectory[:-1], chain.trajectory[:-1], strict=True):
        assert (x - x_hat - other).abs().max() < 1e-6
    assert (moved.samples - chain.samples).abs().max() < 1e-6  # x_hat is taken off after the last step
    unmoved = rg.sample(den, plans[0], seed=1, anchor=0 * x_hat, dtype=DOUBLE)
    assert (unmoved - chain.samples).abs().max() < 1e-9  # a row without anchor is folded, so not bit by bit
