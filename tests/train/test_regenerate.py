"""Stochastic regeneration: what it is without a first stage, what it adds to an exact one, and where its gradients go."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.errors import BadValue, PlanError, ShapeError
from retrograde.train import loss, regeneration_loss

PATH = rg.paths.OrnsteinUhlenbeck()
SHAPE = (4,)


class Told(nn.Module):
    """A network that only looks at the mean of what it is told beside x_t."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2 * SHAPE[0], SHAPE[0])

    def forward(self, x_t: Tensor, told: Tensor, **beside: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([x_t, torch.stack(list(beside.values())).mean(0)], 1)))


def draws(n: int = 16) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x_0, y, eps = torch.randn(3, n, *SHAPE, generator=torch.Generator().manual_seed(1))
    return x_0, y, torch.linspace(0.05, 0.95, n, dtype=torch.float64), eps


def test_without_a_first_stage_it_is_speech_enhancement_bit_for_bit():
    torch.manual_seed(0)
    network = Told()
    plain = rg.Denoiser(network, PATH, "noise", SHAPE)
    both = rg.Denoiser(network, PATH, "noise", SHAPE, conditions={"noisy": torch.zeros(SHAPE)})
    x_0, y, t, eps = draws()
    found = regeneration_loss(both, lambda y: y, x_0, y, t, eps, share=0.0)
    assert torch.equal(found, 0.5 * loss(plain, x_0, t, eps, anchor=y))
    plan = rg.recipes.sgmse.plan(PATH, nfe=8)
    assert torch.equal(
        rg.sample(both, plan, seed=0, anchor=y, condition={"noisy": y}), rg.sample(plain, plan, seed=0, anchor=y)
    )
    other = rg.sample(both, plan, seed=0, anchor=y, condition={"noisy": y + 1.0})
    assert not torch.allclose(other, rg.sample(plain, plan, seed=0, anchor=y))


def test_the_diffusion_makes_the_variance_that_the_estimate_lacks():
    """x_0 ~ N(0, 1), y = x_0 + n, D(y) = y/2 the exact mean: x_0 given D(y) has variance 1/2, of which D alone has none."""
    eye = torch.eye(128)
    data = rg.oracles.GaussianMixture(PATH, torch.zeros(1, 128), eye[None])
    exact = data.degraded(0.5 * eye, 0.5)  # of D(y) = x_0/2 + n/2
    x_0, estimate = exact.draw(120, seed=0)
    assert float((x_0 - estimate).var()) == pytest.approx(0.5, rel=0.03)
    made = rg.sample(exact, rg.plan("mrs_sde", PATH, nfe=25), seed=0, anchor=estimate, dtype=torch.float64)
    assert float((made - estimate).var()) == pytest.approx(0.5, rel=0.05)
    assert float((made - estimate).mean()) == pytest.approx(0.0, abs=0.02)
    # a run from y itself has to move the mean as well, and what it starts with of y - x_0 stays in it
    direct = data.degraded(eye, 1.0)
    noisy = 2.0 * estimate
    published = rg.sample(direct, rg.plan("mrs_sde", PATH, nfe=25), seed=0, anchor=noisy, dtype=torch.float64)
    slopes = [float(((x - estimate) * estimate).mean() / estimate.square().mean()) for x in (made, published)]
    assert abs(slopes[0]) < 0.03 < 0.1 < slopes[1]


def test_the_best_estimate_is_the_mean_and_gradients_pass_the_anchor():
    x_0, y, t, eps = (one.double() for one in draws())
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    den = rg.Denoiser(Told().double(), PATH, "noise", SHAPE)

    def gradient(**options: Any) -> Tensor | None:
        scale.grad = None
        value = regeneration_loss(den, lambda y: scale * y, x_0, y, t, eps, **options).mean()
        value.backward()
        return None if scale.grad is None else scale.grad.clone()

    alone = gradient(share=1.0)
    assert alone is not None
    assert float(alone) == pytest.approx(float(((0.3 * y - x_0) * y).mean()), rel=1e-5)
    both = gradient(share=0.5)
    assert both is not None
    through = both - 0.5 * alone
    step = 1e-5
    higher, lower = (float(0.25 * loss(den, x_0, t, eps, anchor=(0.3 + d) * y).mean().detach()) for d in (step, -step))
    assert math.isclose(float(through), (higher - lower) / (2 * step), rel_tol=1e-4)
    assert gradient(share=0.5, frozen=True) is None


def test_what_it_cannot_take_is_refused():
    x_0, y, t, eps = draws()
    den = rg.Denoiser(Told(), PATH, "noise", SHAPE)
    with pytest.raises(BadValue, match="share=1.5"):
        regeneration_loss(den, lambda y: y, x_0, y, t, eps, share=1.5)
    with pytest.raises(ShapeError, match="an estimate"):
        regeneration_loss(den, lambda y: y[:, :2], x_0, y, t, eps)
    with pytest.raises(PlanError, match="anchor"):
        regeneration_loss(rg.Denoiser(Told(), rg.paths.VP(), "noise", SHAPE), lambda y: y, x_0, y, t, eps)
