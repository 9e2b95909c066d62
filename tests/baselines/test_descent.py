import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde.baselines import unrolled
from retrograde.baselines.gits import FIRST_ITEM

MEANS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
PATHS = [rg.paths.EDM(), rg.paths.VP(), rg.paths.Flow()]


def lesson_of(data, dtype=torch.float64):
    taught, _, _ = unrolled.lessons(data, 8, 8, 0, 24, None)
    return dataclasses.replace(taught, start=taught.start.to(dtype), goal=taught.goal.to(dtype))


@pytest.mark.parametrize("path", PATHS)
def test_gradients_are_those_of_differences(path, monkeypatch):
    monkeypatch.setattr(unrolled, "_STEP", 1e-3)
    data = rg.oracles.GaussianMixture(path, MEANS, 0.2)
    lesson = lesson_of(data)
    level = unrolled.even(data, 4, "karras")

    def loss(level, told, states, outputs):
        base = unrolled.adams_bashforth(level, 3)
        return lesson.errors(unrolled.Table(level, told, base[0] + states, base[1] + outputs)).mean()

    zero = torch.zeros(4, 4, dtype=torch.float64)
    values = [level, level - 0.05, zero, zero.clone()]
    leaves = [value.clone().requires_grad_() for value in values]
    grads = torch.autograd.grad(loss(*leaves), leaves)
    for k, (value, grad) in enumerate(zip(values, grads, strict=True)):
        lower = value.dim() == 1 or torch.ones(4, 4).tril() > 0
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(k), dtype=torch.float64) * lower
        with torch.no_grad():
            above, below = (loss(*(v + h * direction if v is value else v for v in values)) for h in (1e-6, -1e-6))
        expected = float(above - below) / 2e-6
        # an oracle is told nothing: it knows its level
        assert float((grad * direction).sum()) == pytest.approx(expected, rel=5e-3, abs=1e-7)


def test_what_is_told_has_its_own_gradient():
    path = rg.paths.EDM()
    network = lambda x, t: torch.tanh(x) * torch.cos(t)[:, None]  # noqa: E731
    denoiser = rg.Denoiser(network, path, predicts="data", shape=(4,))
    lesson = lesson_of(denoiser)
    level = unrolled.even(denoiser, 3, "karras").clamp(max=0.5)
    table = unrolled.Table(level, level.clone().requires_grad_(), *unrolled.adams_bashforth(level, 2))
    (grad,) = torch.autograd.grad(lesson.errors(table).mean(), table.told)
    for i in range(3):
        moved = [dataclasses.replace(table, told=level + h * torch.eye(3, dtype=torch.float64)[i]) for h in (1e-4, -1e-4)]
        with torch.no_grad():
            above, below = (float(lesson.errors(one).mean()) for one in moved)
        assert float(grad[i]) == pytest.approx((above - below) / 2e-4, rel=2e-2, abs=1e-5)


def test_told_the_level_itself_both_gradients_come_together():
    network = lambda x, t: torch.tanh(x) * torch.cos(t)[:, None]  # noqa: E731
    lesson = lesson_of(rg.Denoiser(network, rg.paths.EDM(), predicts="data", shape=(4,)))
    level = torch.tensor([0.5, -0.3, -1.2], dtype=torch.float64, requires_grad=True)
    told = level.detach().clone().requires_grad_()
    weights = unrolled.adams_bashforth(level.detach(), 2)
    apart = torch.autograd.grad(lesson.errors(unrolled.Table(level, told, *weights)).mean(), (level, told))
    (together,) = torch.autograd.grad(lesson.errors(unrolled.Table(level, level, *weights)).mean(), level)
    assert float(apart[1].abs().min()) > 1e-6
    assert torch.allclose(together, sum(apart), rtol=1e-3)


@pytest.mark.parametrize("path", PATHS)
def test_a_table_and_its_plan_are_one_sampler(path):
    data = rg.oracles.GaussianMixture(path, MEANS, 0.2)
    level = unrolled.even(data, 4, "karras")
    generator = torch.Generator().manual_seed(1)
    states, outputs = (
        w + 0.1 * torch.randn(4, 4, generator=generator, dtype=torch.float64).tril()
        for w in unrolled.adams_bashforth(level, 3)
    )
    table = unrolled.Table(level, level, states, outputs)
    plan = unrolled.as_plan(data, table, "custom@1", {}, None)
    lesson = lesson_of(data)
    made = rg.sample(data, plan, 8, x=lesson.start * path.a(plan.start))
    assert torch.allclose((made - lesson.goal).pow(2).mean(1), lesson.errors(table), rtol=1e-6)


def test_ipndm_as_a_table_is_the_recipe():
    data = rg.oracles.GaussianMixture(rg.paths.VP(), MEANS, 0.2)
    level = unrolled.even(data, 6, "karras")
    plan = unrolled.as_plan(data, unrolled.Table(level, level, *unrolled.adams_bashforth(level, 4)), "custom@1", {}, None)
    recipe = rg.plan("ipndm_4", data, grid=plan.times)
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(rg.sample(data, plan, 8, x=x), rg.sample(data, recipe, 8, x=x), atol=1e-8)


def test_before_it_learns_amed_is_dpm_solver_2_in_sigma():
    """Which steps over the geometric mean of two levels; an odd budget ends with a step of Euler."""
    data = rg.oracles.GaussianMixture(rg.paths.EDM(), MEANS, 0.1)
    plan = rg.baselines.amed(data, 7, steps=1, rate=0.0)
    assert plan.nfe == 7
    sigma = [rg.paths.EDM().sigma(t) for t in (plan.times[0], plan.times[2], plan.times[4], plan.times[6])]
    y = 80.0 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    made = rg.sample(data, plan, 6, x=y)
    for here, there in zip(sigma, sigma[1:], strict=False):
        middle = (here * there) ** 0.5
        inner = y + (middle - here) * (y - data.predict(y, here).data) / here
        y = y + (there - here) * (inner - data.predict(inner, middle).data) / middle
    assert torch.allclose(made, data.predict(y, sigma[-1]).data, rtol=1e-8)


@pytest.mark.parametrize("name", ["ld3", "s4s", "bns", "amed"])
def test_descent_does_not_end_above_its_start(name):
    data = rg.oracles.GaussianMixture(rg.paths.VP(), MEANS, 0.1)
    baseline = getattr(rg.baselines, name)
    begun = baseline(data, 4, steps=1, rate=0.0)
    plan = baseline(data, 4, steps=80)
    assert plan.nfe == 4
    assert plan.report["validation_error"] < 0.95 * begun.report["validation_error"]
    fresh = range(FIRST_ITEM + 1000, FIRST_ITEM + 1128)
    end = rg.sample(data, rg.plan("dpmpp_3m", data, nfe=200), 128, 0, items=fresh)
    error = [float((rg.sample(data, p, 128, 0, items=fresh) - end).pow(2).mean().sqrt()) for p in (plan, begun)]
    assert error[0] < 0.95 * error[1]


def test_a_network_of_discrete_times_is_told_its_own():
    path = rg.paths.VPDiscrete(tuple(torch.linspace(0.9999, 0.98, 200, dtype=torch.float64).cumprod(0).tolist()))
    oracle = rg.oracles.GaussianMixture(path, MEANS, 0.1)
    network = lambda x, k: oracle.predict(x, (k.double() + 1) / 200).noise  # noqa: E731
    denoiser = rg.Denoiser(network, path, predicts="noise", shape=(4,))
    plan = rg.baselines.ld3(denoiser, 4, steps=20)
    assert all(float(row.network_time or 0.0).is_integer() for row in plan.rows)
    assert torch.isfinite(rg.sample(denoiser, plan, 4)).all()
