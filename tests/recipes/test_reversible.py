"""Reversible Heun: there and back to rounding, the gradients of the unrolled loop, and memory without steps in it."""

import weakref

import numpy as np
import pytest
import torch

import retrograde as rg
from retrograde.errors import BadValue
from retrograde.recipes import reversible

X = torch.tensor([[1.75, -0.7], [-1.05, 1.4], [0.2, 2.25]], dtype=torch.float64)


def plan_of(path: rg.paths.Path, n: int, high: float = 2.0, low: float = 0.5) -> rg.Plan:
    times = [path.time_of_sigma(float(s)) for s in np.linspace(high, low, n + 1)]
    return rg.recipes.get("reversible_heun").compile(path, times)[:-1]


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


@pytest.mark.parametrize("steps", [1, 2, 40])
def test_the_gradient_is_that_of_the_unrolled_loop(steps):
    path = rg.paths.VP()
    plan, found = plan_of(path, steps), []
    for how in ("unroll", "reversible"):
        weight = torch.tensor([[0.3, -0.2], [0.1, 0.4]], dtype=torch.float64, requires_grad=True)
        x = X.clone().requires_grad_()
        den = network(weight, path)
        if how == "unroll":
            *_, last = rg.run(plan, den, x, gradient="unroll")
            end = last.x_t
        else:
            end = reversible.solve(plan, den, x, [weight])
        end.pow(3).sum().backward()
        found.append((end.detach(), x.grad, weight.grad))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-11)
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


def test_only_its_own_plan_without_the_end_goes_back():
    for plan in (rg.plan("heun", rg.paths.EDM(), nfe=5)[:-1], rg.plan("reversible_heun", rg.paths.EDM(), nfe=5)):
        with pytest.raises(BadValue, match="without its end row"):
            reversible.back(plan)
