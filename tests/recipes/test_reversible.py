"""Reversible Heun: there and back to rounding, the gradients of the unrolled loop, and memory without steps in it."""

import math
import weakref

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.noise import Brownian, Noise
from retrograde.recipes import reversible

X = torch.tensor([[1.75, -0.7], [-1.05, 1.4], [0.2, 2.25]], dtype=torch.float64)


def plan_of(path: rg.paths.Path, n: int, name: str = "reversible_heun", **options: float) -> rg.Plan:
    times = [path.time_of_sigma(float(s)) for s in np.linspace(2.0, 0.5, n + 1)]
    return rg.recipes.get(name).compile(path, times, **options)[:-1]


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_there_and_back_is_where_it_was(path_name, path_called, mixture):
    den = mixture(path_called(path_name))
    plan = plan_of(den.path, 1000)
    *_, there = rg.run(plan, den, X)
    assert (there.x_t - X).abs().max() > 0.1
    *_, home = rg.run(reversible.back(plan), den, there.x_t, memory=there.memory)
    assert (home.x_t - X).abs().max() < 1e-12
    # Heun's own rule run backwards misses by the error of its steps
    times = [den.path.time_of_sigma(float(s)) for s in np.linspace(2.0, 0.5, 21)]
    *_, away = rg.run(rg.recipes.get("heun").compile(den.path, times)[:-1], den, X)
    again = [
        rg.Row(row.time, row.next_time, row.states, row.outputs, renoise=True)
        for t, t_next in zip(times[::-1], times[-2::-1], strict=False)
        for row in rg.recipes.get("heun").write(den.path, (t, t_next), (2,))
    ]
    *_, near = rg.run(rg.Plan(den.path, again, plan.basis, misses=("point mass",)), den, away.x_t)
    assert 1e-7 < (near.x_t - X).abs().max() < 1e-2


def test_every_state_on_the_way_is_found_again(mixture):
    den = mixture(rg.paths.EDM())
    plan = plan_of(den.path, 12)
    there = [state.x_t for state in rg.run(plan, den, X)]
    *_, last = rg.run(plan, den, X)
    home = [state.x_t for state in rg.run(reversible.back(plan), den, last.x_t, memory=last.memory)]
    solutions = [X, *there[1::2]]
    assert all((one - other).abs().max() < 1e-13 for one, other in zip(solutions[-2::-1], home[1::2], strict=True))


def network(weight: torch.Tensor, path: rg.paths.Path, seen: list | None = None) -> rg.Denoiser:
    def call(x, t):
        made = torch.tanh(x @ weight) * (1 + t.to(x.dtype))[:, None]
        if seen is not None:
            seen.append(weakref.ref(made))
        return made

    return rg.Denoiser(call, path, "data", (2,))


@pytest.mark.parametrize("name", ["reversible_heun", "reversible_heun_sde"])
@pytest.mark.parametrize("steps", [1, 2, 40])
def test_the_gradient_is_that_of_the_unrolled_loop(steps, name):
    path, noise = rg.paths.VP(), Brownian(1, range(3))
    plan, found = plan_of(path, steps, name), []
    for how in ("unroll", "reversible"):
        weight = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64, requires_grad=True)
        x = X.clone().requires_grad_()
        den = network(weight, path)
        if how == "unroll":
            *_, last = rg.run(plan, den, x, noise=noise, gradient="unroll")
            end = last.x_t
        else:
            end = reversible.solve(plan, den, x, [weight], noise)
        end.pow(3).sum().backward()
        found.append((end.detach(), x.grad, weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
        assert one.abs().max() > 1e-2


def test_its_memory_does_not_grow_with_the_steps():
    """Of the network's outputs at most a few are alive at once, going and coming back, whatever the number of steps."""
    most = []
    for steps in (5, 50):
        seen: list = []
        weight = torch.eye(2, dtype=torch.float64, requires_grad=True)
        alive = []

        def watch(x, t, seen=seen, alive=alive, weight=weight):
            alive.append(sum(ref() is not None for ref in seen))
            made = torch.tanh(x @ weight)
            seen.append(weakref.ref(made))
            return made

        den = rg.Denoiser(watch, rg.paths.VP(), "data", (2,))
        reversible.solve(plan_of(den.path, steps), den, X.clone().requires_grad_(), [weight]).sum().backward()
        most.append(max(alive))
    assert most[0] == most[1] <= 6


def end_of_heun(den: rg.Denoiser, steps: int, x: torch.Tensor) -> torch.Tensor:
    *_, last = rg.run(plan_of(den.path, steps, "heun"), den, x, gradient="unroll")
    return last.x_t


def continuous_adjoint(den: rg.Denoiser, steps: int, weight: torch.Tensor) -> torch.Tensor:
    """The gradient of sum(x^3) at the end in the weight: the flow and its adjoint solved backwards, by Heun's method.

    dy = f dsigma, d(adjoint) = -(df/dy)^T adjoint dsigma, d(gradient) = -(df/dweight)^T adjoint dsigma.
    """
    end = end_of_heun(den, steps, X).detach()

    def slopes(sigma: float, y: torch.Tensor, adjoint: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = y.detach().requires_grad_()
        with torch.enable_grad():
            f = den.predict(y, sigma).noise
            in_y, in_weight = torch.autograd.grad(f, [y, weight], adjoint)
        return f.detach(), -in_y, -in_weight

    held = [end, 3 * end**2, torch.zeros_like(weight)]
    levels = np.linspace(0.5, 2.0, steps + 1).tolist()
    for s, s_next in zip(levels, levels[1:], strict=False):
        h = s_next - s
        first = slopes(s, *held[:2])
        second = slopes(s_next, *(part + h * d for part, d in zip(held[:2], first, strict=False)))
        held = [part + 0.5 * h * (d + e) for part, d, e in zip(held, first, second, strict=True)]
    return held[2]


def test_the_continuous_adjoint_errs_by_the_error_of_the_steps():
    """At four steps by some hundredths, and as h^3: on the way back Heun's h^2 undoes itself. `solve` is exact."""
    path, errors = rg.paths.EDM(), []
    weight = torch.tensor([[0.9, -0.7], [0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    den = network(weight, path)
    for steps in (4, 8, 16):
        (exact,) = torch.autograd.grad(end_of_heun(den, steps, X).pow(3).sum(), weight)
        errors.append(float((continuous_adjoint(den, steps, weight) - exact).abs().max() / exact.abs().max()))
        *_, last = rg.run(plan_of(path, steps), den, X, gradient="unroll")
        (own,) = torch.autograd.grad(last.x_t.pow(3).sum(), weight)
        (solved,) = torch.autograd.grad(reversible.solve(plan_of(path, steps), den, X, [weight]).pow(3).sum(), weight)
        assert float((solved - own).abs().max() / own.abs().max()) < 1e-12
    assert errors[0] > 1e-2
    assert math.log2(errors[0] / errors[2]) / 2 == pytest.approx(3.0, abs=0.4), errors


# ------------------------------------------------------------------------------------------------------------ the SDE


@pytest.mark.parametrize(
    ("path_name", "eta", "source", "steps"),
    [("vp", 1.0, Noise, 300), ("edm", 1.0, Brownian, 50), ("flow", 0.4, Noise, 200), ("vp", 0.0, Noise, 200)],
)
def test_the_sde_goes_back_noise_and_all(path_name, eta, source, steps, path_called, mixture):
    den = mixture(path_called(path_name))
    plan, noise = plan_of(den.path, steps, "reversible_heun_sde", eta=eta), source(7, range(3))
    states = list(rg.run(plan, den, X, noise=noise))
    there = states[-1]
    way_back = rg.run(reversible.back(plan), den, there.x_t, memory=there.memory, noise=reversible.Undone(noise))
    home = [state.x_t for state in way_back]
    assert (home[-1] - X).abs().max() < 1e-12
    solutions = [X, *(state.x_t for state in states[1::2])]
    assert all((one - other).abs().max() < 1e-12 for one, other in zip(solutions[-2::-1], home[1::2], strict=True))
    if eta == 0.0:
        return
    # with noise of its own it ends elsewhere
    *_, lost = rg.run(reversible.back(plan), den, there.x_t, memory=there.memory, noise=Noise(8, range(3)))
    assert (lost.x_t - X).abs().max() > 0.1


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("path_name", ["edm", "vp"])
def test_the_sde_is_the_loop_of_the_book(path_name, eta, path_called, mixture):
    """Both states take the increment, in z = x/(s sigma^eta); the table's second state does not add it again."""
    path = path_called(path_name)
    den, noise = mixture(path), Brownian(3, range(3))
    plan = plan_of(path, 8, "reversible_heun_sde", eta=eta)
    times = [plan.start, *dict.fromkeys(row.next_time for row in plan.rows)]

    def scale(t: float) -> float:
        return path.s(t) * path.sigma(t) ** eta

    z = v = X / scale(times[0])
    mean = den.predict(X, times[0]).data
    for t, t_next in zip(times, times[1:], strict=False):
        h = path.sigma(t_next) ** -(1 + eta) - path.sigma(t) ** -(1 + eta)
        rise = path.sigma(t_next) ** (-2 * eta) - path.sigma(t) ** (-2 * eta)
        increment = math.sqrt(rise) * noise.draw((2,), (t, t_next), dtype=torch.float64)
        v = 2 * z - v + h * mean + increment
        last, mean = mean, den.predict(scale(t_next) * v, t_next).data
        z = z + 0.5 * h * (last + mean) + increment
    *_, made = rg.run(plan, den, X, noise=noise)
    assert torch.allclose(made.x_t, scale(times[-1]) * z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("path_name", ["edm", "flow", "vp"])
def test_its_first_stage_is_a_step_of_ddpm(path_name, path_called):
    path = path_called(path_name)
    times = [path.time_of_sigma(2.0), path.time_of_sigma(0.5)]
    one, other = (rg.recipes.get(name).compile(path, times)[0] for name in ("reversible_heun_sde", "ddpm"))
    for part in ("states", "outputs", "noises"):
        assert getattr(one, part) == pytest.approx(getattr(other, part), rel=1e-12)


def test_its_strong_order_is_one(mixture):
    """On one Brownian path, against a fine run of another method: the noise is additive, so it is 1 and not 1/2."""
    den, x = mixture(rg.paths.VP()), 2.0 * Noise.first(8, seed=2).prior((2,), torch.float64)

    def end(name: str, n: int) -> torch.Tensor:
        times = [den.path.time_of_sigma(2.0 * 0.25 ** (i / n)) for i in range(n + 1)]
        *_, last = rg.steps(rg.recipes.get(name).compile(den.path, times)[:-1], den, x=x, seed=5, noise=Brownian)
        return last.x_t

    exact = end("seeds_2", 256)
    errors = [float((end("reversible_heun_sde", n) - exact).square().mean().sqrt()) for n in (16, 32, 64)]
    assert -np.polyfit(np.log([16, 32, 64]), np.log(errors), 1)[0] == pytest.approx(1.0, abs=0.25), errors


def test_eta_has_a_range():
    with pytest.raises(BadValue, match=r"eta=1\.0"):
        rg.plan("reversible_heun_sde", rg.paths.VP(), nfe=5, eta=1.5)


def test_what_starts_without_signal_does_not_come_back():
    plan = rg.plan("reversible_heun_sde", rg.paths.Flow(), nfe=5)[:-1]
    with pytest.raises(BadValue, match="holds no signal"):
        reversible.back(plan)


def test_only_its_own_plan_without_the_end_goes_back():
    for plan in (rg.plan("heun", rg.paths.EDM(), nfe=5)[:-1], rg.plan("reversible_heun", rg.paths.EDM(), nfe=5)):
        with pytest.raises(BadValue, match="without its end row"):
            reversible.back(plan)
