"""Canvases of windows follow the map of conditions they were given: textures of exact fields, and digits of the network."""

import pytest
import torch
from torch import Tensor, nn

import retrograde as rg
from retrograde.guide import interpolated, windows

WIDTH, CANVAS = 16, 48


def correlated(length: Tensor) -> Tensor:
    """Covariances [n, side, side] of a stationary field along one side, by its length of correlation [n]."""
    place = torch.arange(WIDTH, dtype=torch.float64)
    return torch.exp(-(place[:, None] - place).abs() / length[:, None, None])


def texture(x: Tensor, sigma: Tensor, log_length: Tensor) -> Tensor:
    """The exact data mean of fields whose covariance is that of `correlated` along rows and along columns."""
    values, Q = torch.linalg.eigh(correlated(log_length.double().exp()[:, 0]))
    spread = values[:, :, None] * values[:, None]
    shrink = spread / (spread + sigma.double().reshape(-1, 1, 1) ** 2)
    turned = Q.mT @ x[:, 0].double() @ Q
    return (Q @ (shrink * turned) @ Q.mT)[:, None].to(x.dtype)


def recovered(field: Tensor) -> Tensor:
    """The logarithm of the length of correlation, from how alike neighbours are in each patch [n, side, side]."""
    alike = (field[:, 1:] * field[:, :-1]).mean((1, 2)) + (field[..., 1:] * field[..., :-1]).mean((1, 2))
    return (-1.0 / (0.5 * alike / field.square().mean((1, 2))).clamp(0.01, 0.99).log()).log()


def test_textures_follow_the_map_they_were_given():
    """R^2 of the lengths read off patches of the canvas; of one length everywhere nothing is explained."""
    den = rg.Denoiser(texture, rg.paths.EDM(), "data", (1, WIDTH, WIDTH), conditions={"log_length": torch.zeros(1)})
    given = torch.tensor([[-0.7, 0.0, 1.2], [0.6, -0.4, 0.9], [1.4, 0.3, -0.6]])
    plan = rg.plan("dpmpp_2m", den.path, nfe=20)

    def explained(conditions) -> float:
        canvas = windows(den, CANVAS, CANVAS, conditions)
        made = rg.sample(canvas, plan, n=3, seed=0).double()
        patches = made.unfold(2, WIDTH, WIDTH).unfold(3, WIDTH, WIDTH).reshape(3, 9, WIDTH, WIDTH)
        found = torch.stack([recovered(one) for one in patches])
        wanted = given.flatten().double().expand_as(found)
        return 1.0 - float((found - wanted).square().mean() / wanted.var(correction=0))

    assert explained(interpolated("log_length", given[..., None], CANVAS, CANVAS)) > 0.8
    assert explained(lambda row, column: {"log_length": given.mean()[None]}) < 0.1


class Embedded(nn.Module):
    """A network told a vector in place of a label: its own learned embedding, or something between two of them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, network_time: Tensor, vector: Tensor) -> Tensor:
        with rg.sites.opened(self.network, {"embedding.labels": lambda call: vector}):
            return self.network(x_t, network_time)


@pytest.mark.slow
def test_embeddings_of_digits_make_their_classes_and_lie_on_a_smooth_path():
    """The class is recognized in each of 40 digits and 60 places; from a four to a nine no step of eight is a leap."""
    plain, judge = rg.load("digits"), rg.zoo.classifier()
    assert isinstance(plain, rg.Denoiser)
    assert isinstance(plain.network, nn.Module)
    table = plain.network.get_parameter("embedding.labels.weight").detach()
    settings = (plain.path, plain.predicts, plain.shape, {"vector": table[10]})
    den = rg.Denoiser(Embedded(plain.network), *settings, sigma_data=plain.sigma_data)
    guided, plan, classes = rg.guide.cfg(den, 2.5), rg.plan("dpmpp_2m", plain, nfe=10), torch.arange(40) % 10
    made = rg.sample(guided, plan, n=40, condition={"vector": table[classes]})
    assert torch.allclose(made, rg.sample(rg.guide.cfg(plain, 2.5), plan, n=40, condition=classes), atol=1e-4)
    assert (judge(made).argmax(1) == classes).double().mean() >= 0.95

    def place(row: float, column: float) -> dict[str, Tensor]:
        return {"vector": table[3 + int(column // 28)]}

    wide = rg.sample(windows(guided, 28, 84, place, step=28, moving=False), plan, n=20)
    places = torch.stack(wide.split(28, 3), 1).flatten(0, 1)
    assert (judge(places).argmax(1).view(20, 3) == torch.tensor([3, 4, 5])).double().mean() >= 0.95

    share = torch.linspace(0, 1, 9)[:, None]
    between = ((1 - share) * table[4] + share * table[9]).repeat(10, 1)
    same_noise = [k for k in range(10) for _ in range(9)]
    x = rg.sample(guided, plan, n=90, items=same_noise, condition={"vector": between})
    sure = judge(x).softmax(1).view(10, 9, 10)[..., 4].mean(0)
    assert (sure[1:] <= sure[:-1]).all()
    assert sure[0] > 0.95 > 0.05 > sure[-1]
    x = x.view(10, 9, -1)
    steps, whole = (x[:, 1:] - x[:, :-1]).norm(dim=-1), (x[:, -1] - x[:, 0]).norm(dim=-1)
    assert (steps.amax(1) < 0.75 * whole).all()  # met: 0.3 to 0.63
