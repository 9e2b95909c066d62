"""A compact prior: the published chain of few steps, its exact ends, gradients through all of it, and what is kept."""

import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.errors import ShapeError
from retrograde.noise import Noise
from retrograde.train import compact_path, compact_prior_loss, mean_steps

DOUBLE = torch.float64


class Affine(nn.Module):
    """W [z_t, told, D]."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3 + 1 + 2, 3).double()

    def forward(self, z_t: Tensor, told: Tensor, seen: Tensor) -> Tensor:
        return self.layer(torch.cat([z_t, told.double()[:, None], seen], 1))


def made(steps: int = 4) -> tuple[rg.Denoiser, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    den = rg.Denoiser(Affine(), compact_path(steps), "data", (3,), conditions={"seen": torch.zeros(2, dtype=DOUBLE)})
    z, y = torch.randn(5, 3, dtype=DOUBLE), torch.randn(5, 2, dtype=DOUBLE)
    return den, z, y, torch.randn(5, 2, dtype=DOUBLE)


def restorer(y: Tensor, z: Tensor) -> Tensor:
    return torch.tanh(y + z[:, :2])


def test_the_chain_is_the_published_one_and_is_trained_as_a_whole():
    """Posterior means of q(z_{k-1} | z_k, z_0), written from the betas; its gradient is that of the written loop."""
    den, z, y, x_0 = made()
    network = den.network
    assert isinstance(network, Affine)
    betas = torch.linspace(0.1**0.5, 0.99**0.5, 4, dtype=DOUBLE) ** 2
    bars = torch.cumprod(1.0 - betas, 0)
    state = bars[3].sqrt() * z + (1.0 - bars[3]).sqrt() * Noise(7, range(5)).prior((3,), DOUBLE)
    for k in (3, 2, 1, 0):
        before = bars[k - 1] if k else torch.ones((), dtype=DOUBLE)
        said = network(state, torch.full((5,), den.network_time((k + 1) / 4)), y)
        state = (betas[k] * before.sqrt() * said + (1.0 - before) * (1.0 - betas[k]).sqrt() * state) / (1.0 - bars[k])
    expected = (restorer(y, state) - x_0).abs().mean(1) + 0.5 * (state - z).abs().mean(1)
    found = compact_prior_loss(den, restorer, z, x_0, y, {"seen": y}, weight=0.5, seed=7)
    assert torch.allclose(found, expected, rtol=0.0, atol=1e-12)
    (whole,) = torch.autograd.grad(found.sum(), network.layer.weight)
    (written,) = torch.autograd.grad(expected.sum(), network.layer.weight, retain_graph=True)
    assert torch.allclose(whole, written, rtol=0.0, atol=1e-10)
    # the last evaluation alone would teach something else
    last = network(state.detach(), torch.full((5,), den.network_time(1 / 4)), y)
    (short,) = torch.autograd.grad((restorer(y, last) - x_0).abs().mean(1).sum(), network.layer.weight)
    assert float((short - whole).norm() / whole.norm()) > 0.1


def test_a_denoiser_that_knows_leaves_the_first_stage():
    """Where the answer is z, the run ends at z, and the loss is that of the restorer with the numbers of the truth."""
    _, z, y, x_0 = made()
    told = {"seen": torch.zeros(3, dtype=DOUBLE)}
    knows = rg.Denoiser(lambda z_t, t, seen: seen, compact_path(), "data", (3,), conditions=told)
    found = compact_prior_loss(knows, restorer, z, x_0, y, {"seen": z})
    assert torch.allclose(found, (restorer(y, z) - x_0).abs().mean(1), atol=1e-12)


def test_gradients_reach_what_the_condition_was_made_by():
    den, z, y, x_0 = made()
    extractor = nn.Linear(2, 2).double()
    compact_prior_loss(den, restorer, z, x_0, y, {"seen": extractor(y)}).mean().backward()
    assert extractor.weight.grad is not None
    assert float(extractor.weight.grad.norm()) > 0.0


def test_one_step_is_one_question():
    den, _, y, _ = made(1)
    plan = mean_steps(compact_path(1))
    assert compact_path(1).a(1.0) ** 2 == pytest.approx(0.01)  # it begins at noise, not near z
    assert (plan.nfe, plan.rows[0].outputs, plan.rows[0].noises) == (1, (1.0,), ())
    assert rg.record(den, plan, condition={"seen": y}, n=5, dtype=DOUBLE).ledger.nfe == 1


def test_what_it_cannot_take_is_refused():
    den, z, y, x_0 = made()
    with pytest.raises(ShapeError, match="z of shape"):
        compact_prior_loss(den, restorer, z[:, :2], x_0, y, {"seen": y})
    with pytest.raises(ShapeError, match="restored items"):
        compact_prior_loss(den, lambda y, z: z, z, x_0, y, {"seen": y})
