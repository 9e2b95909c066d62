"""Codecs: the scale that a schedule needs, latents of Gaussian data in closed form, tiles, spreads and shapes."""

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.codec import Codec
from retrograde.errors import BadType, BadValue, ShapeError

D, K = 6, 3
DRAWS = torch.Generator().manual_seed(0)


def gaussian_data():
    """Mean and covariance of Gaussian data in six dimensions, and its three leading directions [3, 6]."""
    root = torch.randn(D, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    basis = torch.linalg.qr(root)[0]
    covariance = basis @ torch.diag(torch.tensor([4.0, 2.0, 1.0, 0.2, 0.1, 0.05], dtype=torch.float64)) @ basis.T
    return torch.linspace(-1, 1, D, dtype=torch.float64), covariance, basis[:, :K].T


def projection(mean, directions):
    """The codec that keeps the leading directions of centred data."""
    W = directions.float()
    return Codec(lambda x: (x - mean.float()) @ W.T, lambda z: z @ W + mean.float(), (D,), (K,))


def latent_law(path, covariance, directions, scale=1.0):
    inside = scale**2 * directions @ covariance @ directions.T
    return rg.oracles.GaussianMixture(path, torch.zeros(1, K, dtype=torch.float64), inside[None])


@pytest.mark.parametrize("recipe", ["ddim", "dpmpp_2m", "heun"])
def test_latents_of_gaussian_data_are_the_projected_run_path_by_path(recipe):
    path, (mean, covariance, W) = rg.paths.VP(), gaussian_data()
    centred = rg.oracles.GaussianMixture(path, torch.zeros(1, D, dtype=torch.float64), covariance[None])
    plan = rg.plan(recipe, path, nfe=8)
    x = torch.randn(5, D, generator=DRAWS)
    whole = rg.sample(centred, plan, x=x)
    inside = rg.sample(latent_law(path, covariance, W), plan, x=x @ W.float().T)
    codec = projection(mean, W)
    decoded, expected = codec.decode(inside), whole @ W.float().T @ W.float() + mean.float()
    torch.testing.assert_close(decoded, expected, rtol=1e-4, atol=1e-5)


def test_decoded_samples_have_the_projected_covariance():
    path, (mean, covariance, W) = rg.paths.VP(), gaussian_data()
    codec = projection(mean, W)
    z = rg.sample(latent_law(path, covariance, W), rg.plan("heun", path, nfe=100), n=20_000, seed=1)
    made = torch.cov(codec.decode(z).double().T)
    project = W.T @ W
    expected = project @ covariance @ project
    assert float((made - expected).norm() / expected.norm()) < 0.03
    assert float((made - covariance).norm() / covariance.norm()) > 0.03  # what the codec dropped is gone


def test_scaled_latents_have_the_same_law_and_another_noise_level():
    """A scale leaves the law of the data alone where the denoiser knows it, and moves the signal-to-noise ratio."""
    path, (mean, covariance, W) = rg.paths.VP(), gaussian_data()
    data = mean + torch.randn(4000, D, dtype=torch.float64, generator=DRAWS) @ torch.linalg.cholesky(covariance).T
    plain = projection(mean, W)
    fitted = plain.fitted(data.float())
    scale = float(fitted.scale)
    assert float(fitted.encode(data.float()).std()) == pytest.approx(1.0, abs=1e-5)
    assert scale == pytest.approx(1 / float((plain.encode(data.float())).std()), rel=1e-5)
    plan = rg.plan("heun", path, nfe=100)
    z = rg.sample(latent_law(path, covariance, W, scale), plan, n=20_000, seed=1)
    made = torch.cov(fitted.decode(z).double().T)
    expected = W.T @ W @ covariance @ W.T @ W
    assert float((made - expected).norm() / expected.norm()) < 0.03
    # latents five times too large, at the level where the schedule takes data and noise for equals
    t = path.time_of_sigma(1.0)
    for factor, ratio in ((1.0, 1.0), (5.0, 25.0)):
        latents = factor * fitted.encode(data.float()).double()
        assert float((path.a(t) * latents).var() / path.s(t) ** 2) == pytest.approx(ratio, rel=1e-3)


def test_scale_and_shift_by_channel_are_undone():
    scale, shift = torch.tensor([0.5, 2.0, -3.0]).reshape(3, 1, 1), torch.tensor([1.0, 0.0, -1.0]).reshape(3, 1, 1)
    codec = Codec(lambda x: x, lambda z: z, (3, 4, 4), (3, 4, 4), scale, shift)
    x = torch.randn(2, 3, 4, 4, generator=DRAWS)
    torch.testing.assert_close(codec.encode(x), (x - shift) * scale)
    torch.testing.assert_close(codec.decode(codec.encode(x)), x)


def test_an_encoder_with_a_spread_is_drawn_from():
    codec = Codec(lambda x: (x, 0.5 * torch.ones_like(x)), lambda z: z, (1, 2, 2), (1, 2, 2), scale=3.0, shift=1.0)
    x, eps = torch.randn(2, 2, 1, 2, 2, generator=DRAWS)
    torch.testing.assert_close(codec.encode(x), 3 * (x - 1))
    torch.testing.assert_close(codec.encode(x, eps), 3 * (x + 0.5 * eps - 1))


def patchwise():
    """An autoencoder of 2x2 patches that looks no farther."""
    torch.manual_seed(0)
    down, up = nn.Conv2d(1, 3, 2, 2), nn.ConvTranspose2d(3, 1, 2, 2)
    return Codec(down, up, (1, 22, 18), (3, 11, 9))


@pytest.mark.parametrize("tile", [1, 3, 4, 8, 9])
def test_tiles_of_a_patchwise_autoencoder_are_the_whole(tile):
    whole = patchwise()
    tiled = Codec(whole.encoder, whole.decoder, whole.shape, whole.latent, tile=tile)
    x, z = torch.randn(2, 1, 22, 18, generator=DRAWS), torch.randn(2, 3, 11, 9, generator=DRAWS)
    torch.testing.assert_close(tiled.encode(x), whole.encode(x))
    torch.testing.assert_close(tiled.decode(z), whole.decode(z))
    assert whole.factor == 2


def test_tiles_bound_what_is_decoded_at_once_and_blend_where_they_meet():
    seen = []

    def decoder(z):
        seen.append(tuple(z.shape))
        return nn.functional.interpolate(z + len(seen), scale_factor=2)

    codec = Codec(None, decoder, (1, 32, 32), (1, 16, 16), tile=8, batch_size=2)
    made = codec.decode(torch.zeros(3, 1, 16, 16))
    assert {shape[2:] for shape in seen} == {(8, 8)}
    assert {shape[0] for shape in seen} == {1, 2}
    jumps = made[0, 0].diff(dim=-1).abs().max()
    assert 0 < jumps < 1  # neighbouring tiles differ by a whole number; blended, no step is one


def test_items_do_not_depend_on_the_batch():
    codec = patchwise()
    z = torch.randn(5, 3, 11, 9, generator=DRAWS)
    few = Codec(codec.encoder, codec.decoder, codec.shape, codec.latent, batch_size=2)
    torch.testing.assert_close(few.decode(z), codec.decode(z))


def test_gradients_pass_where_they_are_asked_for():
    codec = patchwise()
    z = torch.randn(1, 3, 11, 9, generator=DRAWS)
    assert not codec.decode(z).requires_grad
    made = codec.decode(z.requires_grad_())
    made.sum().backward()
    assert float(z.grad.abs().sum()) > 0


def test_what_does_not_fit_is_refused():
    codec = patchwise()
    with pytest.raises(ShapeError, match="latents of shape"):
        codec.decode(torch.zeros(3, 11, 9))
    with pytest.raises(ShapeError, match="data of shape"):
        codec.encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(BadType, match="without encoder"):
        Codec(None, codec.decoder, codec.shape, codec.latent).encode(torch.zeros(1, 1, 22, 18))
    with pytest.raises(BadValue, match="scale=0"):
        Codec(None, codec.decoder, codec.shape, codec.latent, scale=0.0)
    with pytest.raises(BadValue, match="tile=0"):
        Codec(None, codec.decoder, codec.shape, codec.latent, tile=0)
