"""Low-rank changes with cores made of how an item is degraded: what they begin as, and what the numbers are worth."""

import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.errors import BadValue, ShapeError
from retrograde.train import GuidedRank, LowRank, loss, low_rank, one_step_loss

PATH = rg.paths.VP()
D = 6


class Given(nn.Module):
    """An affine network: to begin with it answers with what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(D, D, bias=False)
        nn.init.eye_(self.layer.weight)

    def forward(self, x_t: Tensor, told: Tensor) -> Tensor:
        return self.layer(x_t)


def small_unet() -> nn.Module:
    torch.manual_seed(0)
    return rg.nets.UNet(shape=(1, 8, 8), channels=(8, 16), classes=0, patch=1, width=16)


def test_it_begins_as_the_network_and_with_cores_of_one_as_a_plain_change():
    network = small_unet()
    for weight in network.parameters():
        nn.init.normal_(weight, std=0.1)
    x, told, d = torch.randn(3, 1, 8, 8), torch.rand(3), torch.rand(3, 2)
    torch.manual_seed(1)
    guided = GuidedRank(network, rank=4)
    assert torch.equal(guided(x, told, degradation=d), network(x, told))
    plain = low_rank(network, rank=4)
    for module in guided.inner.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.up.weight, std=0.2)  # type: ignore[arg-type]
    plain.load_state_dict(guided.inner.state_dict())
    assert torch.allclose(guided(x, told, degradation=d), plain(x, told), atol=1e-6)
    assert not torch.allclose(plain(x, told), network(x, told), atol=1e-2)
    # with cores of their own, an item's answer is its own
    nn.init.normal_(guided.makes.weight, std=0.5)
    whole = guided(x, told, degradation=d)
    assert torch.allclose(whole[1:2], guided(x[1:2], told[1:2], degradation=d[1:2]), atol=1e-5)
    assert not torch.allclose(whole, guided(x, told, degradation=d.flip(1)), atol=1e-2)
    # no core outlives its call
    assert all(torch.equal(one.core, torch.eye(4)[None]) for one in guided.inner.modules() if isinstance(one, LowRank))
    cores = guided.cores(d)
    assert cores.shape == (len(set(guided.places.values())), 3, 4, 4)
    assert not torch.allclose(cores[0], cores[1])
    assert {name for name, one in guided.named_parameters() if one.requires_grad and ".layer." in name} == set()


def fitted(network: nn.Module, told: bool, seed: int = 0) -> tuple[float, float]:
    """Mean squared errors of a restorer fitted to x ~ N(0, C), y = x + d n: with d as it is, and with another item's."""
    scales = torch.linspace(0.3, 1.5, D)

    def draw(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        x, d = scales * torch.randn(n, D, generator=generator), torch.rand(n, 1, generator=generator)
        return x, x + 2.0 * d * torch.randn(n, D, generator=generator), d

    conditions = {"degradation": torch.zeros(1)} if told else {}
    den = rg.Denoiser(network, PATH, "data", (D,), conditions=conditions)
    optimizer = torch.optim.Adam([one for one in network.parameters() if one.requires_grad], lr=1e-2)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(120):
        x, y, d = draw(256, generator)
        t = torch.full((256,), 0.1, dtype=torch.float64)
        value = one_step_loss(den, x, y, t, {"degradation": d} if told else None).mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    x, y, d = draw(4000, torch.Generator().manual_seed(99))
    plan, a = rg.plan("ddim", PATH, grid=[0.1]), PATH.a(0.1)
    with torch.no_grad():
        made = [rg.sample(den, plan, x=a * y, condition={"degradation": one} if told else None) for one in (d, d.roll(1, 0))]
    return tuple(float((one - x).square().mean()) for one in made)  # type: ignore[return-value]


def test_told_how_it_is_degraded_it_restores_better_than_a_plain_change():
    """By 0.98 dB: it comes to the mean of var(x | y, d), the other to the best matrix for all d; told wrong it loses.

    On digits, of which a network sees how noisy they are, less is left to be told.
    """
    torch.manual_seed(0)
    told, swapped = fitted(GuidedRank(Given(), numbers=1, rank=D, alpha=float(D), waves=4, width=32), True)
    plain, _ = fitted(low_rank(Given(), rank=D, alpha=float(D)), False)
    C, d2 = torch.linspace(0.3, 1.5, D).double() ** 2, 4.0 * torch.linspace(0.0, 1.0, 4001).double()[:, None] ** 2
    exact = float((C - C**2 / (C + d2)).mean())
    without = float((C - C**2 / (C + d2.mean())).mean())
    assert plain == pytest.approx(without, rel=0.06)
    assert told == pytest.approx(exact, rel=0.04)
    assert told < 0.85 * plain < plain < swapped


@pytest.mark.parametrize("predicts", ["data", "noise", "v", "edm"])
def test_the_loss_is_the_distance_of_one_answer(predicts):
    x, y = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = torch.full((4,), 0.4, dtype=torch.float64)
    den = rg.Denoiser(lambda x, t: torch.tanh(x), PATH, predicts, (3,))
    said = den(PATH.a(0.4) * y, 0.4).data
    found = one_step_loss(den, x, y, t)
    ratio = found / (said - x).square().mean(1)
    assert torch.allclose(ratio, ratio[:1].expand(4), rtol=1e-5)
    if predicts == "data":
        assert torch.allclose(found, (said - x).square().mean(1))
    eps = torch.randn(4, 3, dtype=torch.float64)
    assert not torch.allclose(found, loss(den, x, t, eps))


def test_mistakes():
    guided = GuidedRank(Given(), numbers=2, rank=2)
    with pytest.raises(ShapeError, match=r"\[n, 2\]"):
        guided(torch.zeros(1, D), torch.zeros(1), degradation=torch.zeros(1, 3))
    with pytest.raises(BadValue, match="numbers=0"):
        GuidedRank(Given(), numbers=0)
    den = rg.Denoiser(Given(), PATH, "data", (D,))
    with pytest.raises(ShapeError, match="scale y up"):
        one_step_loss(den, torch.zeros(2, D), torch.zeros(2, 3), torch.zeros(2))
