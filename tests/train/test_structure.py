"""Noise that is other in every part of a picture: its numbers, what a network learns of it, and what it does to digits."""

import math

import pytest
import torch
from torch import Tensor

import retrograde as rg
from retrograde.errors import BadType, BadValue, ShapeError
from retrograde.train import degraded, loss, question, structure, structured_noise

CHAIN = rg.paths.from_alphas_cumprod(torch.cumprod(1.0 - torch.linspace(1e-3, 0.15, 50, dtype=torch.float64), 0).tolist())


def test_a_part_has_the_mean_of_its_rotated_ones():
    masks = torch.zeros(2, 2, 4, 6, dtype=torch.bool)
    masks[0, 0, 1:3, :4], masks[0, 1, 2:, 3:], masks[1, 0] = True, True, True
    found = structure(masks)
    # pairs of ones, 1 + i, turned by p 10000^(-2k/6)
    rows, pairs = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(3.0, dtype=torch.float64)
    turned = torch.view_as_real((1 + 1j) * torch.exp(1j * rows * 10000.0 ** (-2.0 * pairs / 6.0))).reshape(4, 6)
    first, second = (float((turned * masks[0, k]).sum()) / 24.0 for k in (0, 1))
    assert found[0, 0, 1, 0] == pytest.approx(first)
    assert found[0, 0, 2, 3] == pytest.approx(second)  # where both are, the later one
    assert found[0, 0, 0, 0] == 0.0
    assert torch.allclose(found[1], turned.mean().float())
    assert found.shape == (2, 1, 4, 6)


def test_without_structure_the_loss_is_the_same_bit_for_bit():
    den = rg.Denoiser(lambda x, t: torch.tanh(x), CHAIN, "noise", (1, 4, 4))
    x_0, eps, other = torch.randn(3, 8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.arange(1, 9).double() / 10.0
    plain = loss(den, x_0, t, eps)
    assert torch.equal(loss(den, x_0, t, structured_noise(CHAIN, t, eps, torch.zeros(8, 1, 4, 4))), plain)
    moved = loss(den, x_0, t, structured_noise(CHAIN, t, eps, other))
    assert not torch.allclose(moved, plain)
    # the network is asked at x_t = a x_0 + s eps', and has to say eps' = (x_t - a x_0)/s
    noise = structured_noise(CHAIN, t, eps, other)
    k = 20
    beta = 1.0 - CHAIN.alphas_cumprod[k - 1] / CHAIN.alphas_cumprod[k - 2]
    here = structured_noise(CHAIN, torch.full((8,), k / 50.0), eps, other)
    assert torch.allclose(here - eps, math.sqrt(1.0 - CHAIN.alphas_cumprod[k - 1]) * beta * other, atol=1e-6)
    assert torch.equal(question(den, x_0, t, noise).target, noise)


def test_a_linear_network_learns_the_slope_of_unseen_structure():
    """x_0 ~ N(0, 1), E ~ N(0, tau^2): the best slope is s v/(a^2 + s^2 v), v = 1 + phi^2 tau^2."""
    tau, n = 6.0, 400_000
    x_0, eps, drawn = torch.randn(3, n, 1, generator=torch.Generator().manual_seed(3))
    den = rg.Denoiser(lambda x, t: x, CHAIN, "noise", (1,), discrete=50)
    for k in (25, 35):
        t = torch.full((n,), k / 50.0, dtype=torch.float64)
        noise = structured_noise(CHAIN, t, eps, tau * drawn)
        asked = CHAIN.a(k / 50.0) * x_0 + CHAIN.s(k / 50.0) * noise
        slope = float((asked * noise).sum() / asked.square().sum())
        beta = 1.0 - CHAIN.alphas_cumprod[k - 1] / CHAIN.alphas_cumprod[k - 2]
        a, s = CHAIN.a(k / 50.0), CHAIN.s(k / 50.0)
        v = 1.0 + (s * beta * tau) ** 2
        assert slope == pytest.approx(s * v / (a * a + s * s * v), rel=0.01)
        assert abs(slope - s) > 0.02 * s  # what it would be without structure
        if k == 35:
            part = question(den, x_0[:1000], t[:1000], noise[:1000])
            assert torch.allclose(part.network_input, asked[:1000], atol=1e-6)


def restorer(modulated: bool, seed: int, width: int = 512) -> rg.Denoiser:
    """The best noise prediction that random features of (x_t, y, t) can express, for digits with a part for the ink."""
    generator = torch.Generator().manual_seed(seed)
    into = 1.2 * torch.randn(128, width, generator=generator) / 8.0
    slope, centre = 4.0 * torch.randn(1, width, generator=generator), torch.rand(width, generator=generator)
    images = rg.data.digits8("train")[0]
    low = degraded(images, "down:2", 0.05)
    ink = images > 0.0
    parts = structure(torch.cat([ink, ~ink], 1))

    def features(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        both, t = torch.cat([x.flatten(1), y.flatten(1)], 1), t.float()[:, None]
        return torch.cat([torch.relu(both @ into + (t - centre) * slope), both, both * t, torch.ones_like(t)], 1)

    square, product = torch.zeros(()), torch.zeros(())
    for _ in range(10):
        chosen = torch.randint(len(images), (4096,), generator=generator)
        t = torch.randint(1, 51, (4096,), generator=generator).double() / 50.0
        noise = torch.randn((4096, 1, 8, 8), generator=generator)
        if modulated:
            noise = structured_noise(CHAIN, t, noise, parts[chosen])
        place = t.reshape(-1, 1, 1, 1)
        x_t = (CHAIN.a(place) * images[chosen] + CHAIN.s(place) * noise).float()
        seen = features(x_t, low[chosen], t)
        square = square + (seen.T @ seen).double()
        product = product + (seen.T @ noise.flatten(1)).double()
    solved = torch.linalg.solve(square + 1.0 * torch.eye(len(square)), product).float()

    def network(x: Tensor, told: Tensor, low: Tensor) -> Tensor:
        return (features(x, low, (told + 1.0) / 50.0) @ solved).reshape(x.shape)

    return rg.Denoiser(network, CHAIN, "noise", (1, 8, 8), conditions={"low": torch.zeros(1, 8, 8)}, discrete=50)


@pytest.mark.slow
def test_on_small_digits_it_gains_a_hundredth_of_a_decibel():
    truth = rg.data.digits8("test")[0][:200]
    y = degraded(truth, "down:2", 0.05, seed=1)
    gains = []
    for seed in range(3):
        found = []
        for modulated in (False, True):
            den = restorer(modulated, seed)
            made = rg.sample(den, rg.plan("ddpm", den, nfe=50, grid="uniform"), n=200, seed=0, condition={"low": y})
            missed = (made.clamp(-1, 1) - truth).square().flatten(1).mean(1)
            found.append(float((10.0 * torch.log10(4.0 / missed)).mean()))
        gains.append(found[1] - found[0])
    assert all(0.0 < gain < 0.05 for gain in gains), gains


def test_what_it_cannot_take_is_refused():
    eps = torch.zeros(2, 1, 4, 4)
    with pytest.raises(BadType, match="VPDiscrete"):
        structured_noise(rg.paths.VP(), torch.full((2,), 0.5), eps, eps)
    with pytest.raises(BadValue, match=r"times from 0.5 to 1.5"):
        structured_noise(CHAIN, torch.tensor([0.5, 1.5]), eps, eps)
    with pytest.raises(ShapeError, match="the width even"):
        structure(torch.zeros(1, 1, 4, 5))
    with pytest.raises(ShapeError, match="height"):
        structure(torch.zeros(1, 4, 4))
