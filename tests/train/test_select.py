"""The choice between two quantities to predict: its loss against the published sums, its verdict where it is known."""

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.denoisers import Denoiser
from retrograde.errors import BadType, BadValue
from retrograde.train import mixed_loss, select_objective

DOUBLE = torch.float64
PATH = rg.paths.ResidualDenoising(noise=0.4)


class Mixture(nn.Module):
    """The exact conditional mean of one quantity, plus a weight that may move it away."""

    def __init__(self, exact, path) -> None:
        super().__init__()
        self.exact, self.path = exact, path
        self.moved = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def forward(self, x, told, anchor):
        rows = [self.exact(x[i : i + 1], float(told[i]), anchor=anchor[i : i + 1]) for i in range(len(x))]
        return torch.cat([row.read(self.kind) for row in rows]) + self.moved


def degraded(mixture):
    exact = mixture(PATH).degraded(torch.tensor([[0.9, 0.2], [0.1, 0.6]]), 0.3)
    return exact, *(each.double() for each in exact.draw(64, seed=1))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_loss_is_the_published_one(share):
    """With abar = 1 - a and bbar = s: residual and noise from each other by x = x_in + (abar - 1) res + bbar eps."""
    x_0, y, eps = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    t = torch.tensor([0.1, 0.3, 0.5, 0.8, 0.99], dtype=DOUBLE)
    weight = torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    den = Denoiser(lambda x, told, anchor: torch.tanh(x @ weight + anchor) + told[:, None], PATH, "residual", (4,))
    abar, bbar = (1 - (1 - t) ** 2)[:, None], (0.4 * t)[:, None]
    residual = y - x_0
    x = x_0 + abar * residual + bbar * eps
    out = torch.tanh(x @ weight + y) + t[:, None].float()
    from_noise = y - ((x - abar * y - bbar * out) / (1 - abar)).clamp(-1, 1)
    from_residual = (x - y - (abar - 1) * out) / bbar
    wanted = share * (share * out + (1 - share) * from_noise - residual).abs().mean(1)
    wanted = wanted + (1 - share) * (share * from_residual + (1 - share) * out - eps).abs().mean(1)
    torch.testing.assert_close(mixed_loss(den, x_0, t, eps, share, anchor=y), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["residual", "noise"])
def test_a_network_that_tells_one_quantity_is_trained_on_it(kind, mixture):
    exact, x_0, y = degraded(mixture)
    network = Mixture(exact, PATH)
    network.kind = kind
    found = select_objective(Denoiser(network, PATH, "residual", (2,)), x_0, y, rate=1e-3, batch=32, clip=4.0)
    assert found.predicts == kind
    assert found.shares[0] == 0.5
    assert abs(found.shares[-1] - 0.5) >= 0.01
    assert 11 <= len(found.shares) < 40
    assert all(abs(share - 0.5) < 0.01 for share in found.shares[:-1])


def test_data_and_noise_on_a_path_without_anchor(mixture):
    path = rg.paths.VP()
    den = mixture(path)
    x_0 = den.sample(64, seed=1).double()

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.moved = nn.Parameter(torch.zeros((), dtype=DOUBLE))

        def forward(self, x, told):
            return torch.cat([den(x[i : i + 1], float(told[i])).noise for i in range(len(x))]) + self.moved

    network = Exact()
    asked = Denoiser(network, path, "noise", (2,), clock=lambda t: t)
    found = select_objective(asked, x_0, kinds=("data", "noise"), rate=1e-3, batch=32, clip=4.0)
    assert found.predicts == "noise"


@pytest.mark.parametrize(("task", "kind"), [("deblur", "residual"), ("generate", "noise")])
def test_untrained_networks_choose_as_published(task, kind):
    """Residuals where one restores, noise where one generates."""
    x_0 = rg.data.digits8("train")[0].reshape(-1, 8, 8).float()
    y = torch.zeros_like(x_0) if task == "generate" else 0.5 * x_0 + 0.25 * (x_0.roll(1, 2) + x_0.roll(-1, 2))

    class Perceptron(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(129, 128), nn.SiLU(), nn.Linear(128, 64))

        def forward(self, x, told, anchor):
            return self.layers(torch.cat([x.flatten(1), anchor.flatten(1), told[:, None]], 1)).reshape(x.shape)

    with torch.random.fork_rng():
        torch.manual_seed(0)
        den = Denoiser(Perceptron(), rg.paths.ResidualDenoising(noise=0.1), "residual", (8, 8))
    assert select_objective(den, x_0, y).predicts == kind


def test_it_may_stay_undecided_and_says_so(mixture):
    exact, x_0, y = degraded(mixture)
    network = Mixture(exact, PATH)
    network.kind = "noise"
    found = select_objective(Denoiser(network, PATH, "residual", (2,)), x_0, y, rate=1e-3, steps=3)
    assert found.predicts is None
    assert len(found.shares) == 4


def test_errors():
    x_0 = torch.zeros(4, 2)
    den = Denoiser(lambda x, told, anchor: x, PATH, "residual", (2,))
    with pytest.raises(BadType, match=r"torch\.nn\.Module"):
        select_objective(den, x_0, x_0)
    with pytest.raises(BadValue, match="margin"):
        select_objective(den, x_0, x_0, margin=0.5)
    with pytest.raises(BadValue, match="two different"):
        mixed_loss(den, x_0, torch.full((4,), 0.5), x_0, 0.5, kinds=("noise", "noise"), anchor=x_0)
