"""Guidance that moves where the network is asked: against closed forms, the published maps, and on digits."""

import numpy as np
import pytest
import torch
from torch.nn import functional

import retrograde as rg
from retrograde.codec import Codec
from retrograde.errors import BadValue, ShapeError
from retrograde.guide.high_frequency import edges, high_frequencies

DOUBLE = torch.float64


@pytest.mark.parametrize("kind", ["data", "noise", "v"])
@pytest.mark.parametrize("path_name", ["vp", "edm", "flow"])
def test_a_step_down_a_quadratic_is_the_closed_form(path_name, kind, path_called):
    """Gaussian data: D = mu + K (x - a mu), L = |H (D - y)|^2/2, so z moves by -rate a K^T H^T H (D - y)."""
    path = path_called(path_name)
    mu = torch.tensor([0.5, -0.3, 0.2], dtype=DOUBLE)
    C = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.4, 0.1], [0.0, 0.1, 0.3]], dtype=DOUBLE)
    H = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=DOUBLE)  # what differs from place to place
    y = torch.tensor([0.3, 0.9, -0.4], dtype=DOUBLE)
    den = rg.oracles.Gaussian(path, mu, C, predicts=kind)
    x = torch.tensor([[0.5, -1.0, 0.2], [2.0, 0.3, 0.1]], dtype=DOUBLE)
    t = path.time_of_sigma(0.7)
    a, s = path.a(t), path.s(t)
    K = a * C @ torch.linalg.inv(a * a * C + s * s * torch.eye(3, dtype=DOUBLE))

    def mean(x):
        return mu + (x - a * mu) @ K.T

    moved = x
    for _ in range(2):
        moved = moved - 0.8 * a * a * (mean(moved) - y) @ H.T @ H @ K
    guided = rg.guide.descend(den, lambda data, t: 0.5 * ((data - y) @ H.T).square().sum(1), steps=2, rate=0.8)
    found = guided(x, t)
    assert (found.data - mean(moved)).abs().max() < 1e-6
    assert torch.equal(found.x_t, x)  # the state did not move
    assert sum(found.evaluations.values()) == 3
    start = x.clone().requires_grad_(True)  # plans are fitted through it
    (slope,) = torch.autograd.grad(guided(start, t).data.sum(), start)
    ones = torch.eye(3, dtype=DOUBLE)
    shrink = ones - 0.8 * a * a * K.T @ H.T @ H @ K
    assert torch.allclose(slope, (K @ shrink @ shrink).sum(0).expand(2, 3), atol=1e-6)


def test_no_steps_or_no_rate_is_the_model_bit_by_bit(mixture):
    path = rg.paths.VP()
    den, plan = mixture(path), rg.plan("dpmpp_2m", path, nfe=5)
    for settings in ({"steps": 0}, {"rate": 0.0}):
        guided = rg.guide.descend(den, lambda data, t: data.square().sum(1), **settings)
        assert torch.equal(rg.sample(guided, plan, n=4, seed=1), rg.sample(den, plan, n=4, seed=1))
    moved = rg.guide.descend(den, lambda data, t: data.square().sum(1))
    assert not torch.equal(rg.sample(moved, plan, n=4, seed=1), rg.sample(den, plan, n=4, seed=1))


@pytest.mark.parametrize("size", [(12, 12), (9, 14)])
def test_the_maps_are_the_published_ones(size):
    """Of one colour picture at a time: a round mask in the shifted transform; Sobel's two filters with a border of zeros."""
    pictures = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) * 2 - 1
    rows, columns = size
    for place, picture in enumerate(pictures):
        grey = np.tensordot([0.299, 0.587, 0.114], (picture.numpy() + 1) / 2, 1)
        i, j = np.arange(rows)[:, None] - rows // 2, np.arange(columns)[None] - columns // 2
        kept = np.fft.fftshift(np.fft.fft2(grey)) * (np.sqrt(i**2 + j**2 + 1e-8) > 2.5)
        left = np.abs(np.fft.ifft2(np.fft.ifftshift(kept)))
        np.testing.assert_allclose(high_frequencies(pictures, 2.5)[place], left / left.max(), atol=1e-6)
        p = np.pad(grey, 1)
        across = (p[:-2, 2:] - p[:-2, :-2]) + 2 * (p[1:-1, 2:] - p[1:-1, :-2]) + (p[2:, 2:] - p[2:, :-2])
        down = (p[2:, :-2] - p[:-2, :-2]) + 2 * (p[2:, 1:-1] - p[:-2, 1:-1]) + (p[2:, 2:] - p[:-2, 2:])
        length = np.sqrt(across**2 + down**2 + 1e-8)
        np.testing.assert_allclose(edges(pictures)[place], length / length.max(), atol=1e-6)


def blurred(images: torch.Tensor, times: int) -> torch.Tensor:
    kernel = torch.tensor([0.25, 0.5, 0.25])
    for _ in range(times):
        padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
        images = functional.conv2d(padded, (kernel[:, None] * kernel)[None, None])
    return images


def test_edges_of_the_source_come_back():
    """Small digits restored from blurred ones: both maps are missed by 30 % less, what is coarse moves by less than 5 %."""
    den, n = rg.load("digits8-flow"), 40
    source = rg.data.digits8("test")[0][:n].reshape(n, 1, 8, 8).float()
    plan = rg.plan("ddim", den.path, nfe=10, start=0.6)
    guided = rg.guide.high_frequency(den, source)
    without, made = (rg.record(d, plan, n=n, seed=0, signal=blurred(source, 1)) for d in (den, guided))
    assert made.ledger.evaluations["digits8-flow"] == 6 * without.ledger.evaluations["digits8-flow"] == 60
    for seen in (edges, lambda x: high_frequencies(x, 30 / 512 * 8)):
        missed = [(seen(one.samples.clamp(-1, 1)) - seen(source)).square().mean() for one in (made, without)]
        assert missed[0] < 0.7 * missed[1]
    coarse, before = (blurred(one.samples, 6) for one in (made, without))
    assert (coarse - before).norm() < 0.05 * before.norm()


def test_latents_are_decoded():
    """A decoder that doubles each pixel: the source is a picture, the state a latent."""
    path, source = rg.paths.VP(), torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean = torch.zeros(1, 4, 4)

    def decoder(z: torch.Tensor) -> torch.Tensor:
        return z.repeat_interleave(2, -1).repeat_interleave(2, -2)

    den = rg.oracles.Gaussian(path, mean, 0.5)
    object.__setattr__(den, "codec", Codec(None, decoder, (1, 8, 8), (1, 4, 4)))
    guided = rg.guide.high_frequency(den, source, rate=20.0, decay=0.0, cutoff=1.0)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2))

    def loss(data: torch.Tensor) -> torch.Tensor:
        seen = decoder(data).clamp(-1, 1)
        maps = [(high_frequencies(one, 1.0), edges(one)) for one in (seen, source[None])]
        return sum(0.5 * (a - b).square().flatten(1).mean(1) for a, b in zip(*maps, strict=True))

    assert (loss(guided(x, 0.2).data) < 0.9 * loss(den(x, 0.2).data)).all()
    wanted = rg.guide.descend(den, lambda data, t: loss(data), rate=20.0)
    assert torch.allclose(guided(x, 0.2).data, wanted(x, 0.2).data, atol=1e-5)


def test_guidance_by_two_conditions_is_a_composition(labelled, x):
    """(e_2 + e_3)/2 + 6.5 (e_1 - e_2) + 1.25 (e_1 - e_3): the weights sum to 1, so the model without condition drops out."""
    den = labelled(rg.paths.VP())
    both = rg.guide.compose(den, [{"label": k} for k in (0, 1, 2)], [6.5 + 1.25, 0.5 - 6.5, 0.5 - 1.25])
    full, image, text = (den(x, 0.4, label=k).data for k in (0, 1, 2))
    wanted = 0.5 * (image + text) + 6.5 * (full - image) + 1.25 * (full - text)
    assert torch.allclose(both(x, 0.4).data, wanted, atol=1e-9)
    alike = rg.guide.compose(den, [{"label": 1}] * 3, [7.75, -6.0, -0.75])
    assert torch.allclose(alike(x, 0.4).data, image, atol=1e-9)


def test_mistakes_are_explained(mixture):
    den = mixture(rg.paths.VP())
    with pytest.raises(BadValue, match="steps=-1"):
        rg.guide.descend(den, lambda data, t: data.sum(1), steps=-1)
    with pytest.raises(BadValue, match="a function"):
        rg.guide.descend(den, 3.0)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="one number for each item"):
        rg.guide.descend(den, lambda data, t: data)(torch.zeros(2, 2), 0.5)
    with pytest.raises(ShapeError, match="pictures"):
        rg.guide.high_frequency(den, torch.zeros(2, 2))
    small = rg.load("digits8-flow")
    with pytest.raises(BadValue, match="cutoff"):
        rg.guide.high_frequency(small, torch.zeros(1, 8, 8), cutoff=-1.0)
