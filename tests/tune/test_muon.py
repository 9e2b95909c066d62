import pytest
import torch

from retrograde.tune.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_every_singular_value_comes_near_one(shape):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -1.5, len(s), dtype=torch.float64)) @ v
    made = orthogonal(1e-4 * matrix)
    inside = u.T @ made @ v.T
    assert torch.allclose(inside, torch.diag(inside.diagonal()), atol=1e-9), "the singular vectors stay"
    assert float(inside.diagonal().min()) > 0.6
    assert float(inside.diagonal().max()) < 1.25


def test_nothing_has_no_direction():
    assert torch.equal(orthogonal(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_a_step_is_the_formula():
    weight = torch.ones(4, 2, 1, 1, requires_grad=True)
    gradients = torch.randn(2, 4, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    optimizer, expected, momentum = Muon([weight], decay=0.1), torch.ones(4, 2), torch.zeros(4, 2)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step(0.5)
        assert weight.grad is None
        g = gradient.reshape(4, 2)
        momentum = 0.95 * momentum + g
        expected = expected * (1 - 0.5 * 0.1) - 0.5 * 2**0.5 * orthogonal(g + 0.95 * momentum)
    assert torch.allclose(weight.detach().reshape(4, 2), expected, atol=1e-6)


def test_it_finds_what_the_gradient_hardly_shows():
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0]
    x = torch.randn(512, 24, generator=generator) * torch.logspace(0, -1.5, 24) @ turned
    target = x @ torch.randn(24, 24, generator=generator).T
    left = {name: min(descended(name, rate, x, target) for rate in (0.03, 0.1, 0.3, 1.0)) for name in ("muon", "adam")}
    assert left["muon"] < 0.3 * left["adam"], left


def descended(name, rate, x, target):
    weight = torch.zeros(24, 24, requires_grad=True)
    muon, adam = Muon([weight]), torch.optim.AdamW([weight], weight_decay=0.0)
    for step in range(60):
        (x @ weight.T - target).square().mean().backward()
        course = rate * (1 - step / 60)
        if name == "muon":
            muon.step(course)
        else:
            adam.param_groups[0]["lr"] = course
            adam.step()
            adam.zero_grad()
    return float((x @ weight.detach().T - target).square().mean())
