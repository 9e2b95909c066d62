"""Attention that stays as sharp as it was trained, at any number of tokens."""

import math

import pytest
import torch
from torch.nn import functional

import retrograde as rg
from retrograde import sites
from retrograde.accelerate import entropy_scale, steady_entropy
from retrograde.errors import BadType, BadValue


def unet(size: int) -> rg.Denoiser:
    torch.manual_seed(0)
    net = rg.nets.UNet((1, size, size), channels=(16, 32), attention=(0, 1), patch=1, width=32, classes=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5)
    return rg.Denoiser(net.eval(), rg.paths.Flow(), "velocity", (1, size, size), {"label": 3})


@pytest.mark.parametrize(
    ("tokens", "plain", "scaled"), [(64, 0.882, 0.910), (256, 0.913, 0.910), (1024, 0.927, 0.910), (4096, 0.940, 0.910)]
)
def test_the_entropy_of_gaussian_logits_stays_in_proportion(tokens, plain, scaled):
    """Gaussian queries and keys of 64 channels, trained with 256 tokens: entropy over ln N."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(256, 64, generator=generator), torch.randn(tokens, 64, generator=generator)

    def entropy(factor: float) -> float:
        log = torch.log_softmax(factor * q @ k.T / 8, -1)
        return float(-(log.exp() * log).sum(-1).mean()) / math.log(tokens)

    assert entropy(1.0) == pytest.approx(plain, rel=0.01)
    assert entropy(entropy_scale(tokens, 256)) == pytest.approx(scaled, rel=0.01)


def test_at_the_trained_resolution_it_is_the_denoiser_bit_by_bit():
    model = unet(8)
    plan = rg.plan("ddim", model.path, nfe=3)
    steady = steady_entropy(model, (8, 8))
    assert torch.equal(rg.sample(steady, plan, 2, condition=1), rg.sample(model, plan, 2, condition=1))
    other = steady_entropy(model, (6, 6))
    assert not torch.equal(rg.sample(other, plan, 2, condition=1), rg.sample(model, plan, 2, condition=1))


def test_logits_of_every_layer_are_scaled_by_its_own_tokens(monkeypatch):
    """Sixteen by sixteen where eight by eight was trained: 256 tokens for 64, and 64 for 16 one level down."""
    model = unet(16)
    x, condition = torch.randn(1, 1, 16, 16), rg.denoisers.prepare_condition(model, 1, 1)
    steady = steady_entropy(model, (8, 8))
    made = steady.predict(x, 0.5, condition).value.detach()
    seen = set()

    def attention(q, k, v):
        tokens = q.shape[-2]
        seen.add(tokens)
        logits = math.sqrt(math.log(tokens) / math.log(tokens / 4)) * q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        return torch.softmax(logits, -1) @ v

    with monkeypatch.context() as patched:
        patched.setattr(functional, "scaled_dot_product_attention", attention)
        expected = model.predict(x, 0.5, condition).value.detach()
    assert seen == {256, 64}
    assert torch.allclose(made, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(made, model.predict(x, 0.5, condition).value, atol=1e-3 * float(expected.abs().max()))


def test_attention_of_diffusers_is_scaled_where_it_makes_its_queries():
    attention = pytest.importorskip("diffusers.models.attention_processor").Attention
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = attention(query_dim=8, heads=2, dim_head=4)

        def forward(self, x, t):
            tokens = x.flatten(2).transpose(1, 2)
            return self.layer(tokens).transpose(1, 2).reshape(x.shape)

    net = Net().eval()
    model = rg.Denoiser(net, rg.paths.Flow(), "velocity", (8, 4, 4))
    places = sites.Places(net, attention=("layer",))
    x = torch.randn(2, 8, 4, 4)
    made = steady_entropy(model, (2, 2), places=places).predict(x, 0.5).value
    with torch.no_grad():
        net.layer.to_q.weight.mul_(math.sqrt(math.log(16) / math.log(4)))
    assert torch.allclose(made, model.predict(x, 0.5).value, atol=1e-6)


def test_mistakes_are_explained():
    with pytest.raises(BadValue, match="one"):
        entropy_scale(1, 16)
    with pytest.raises(BadValue, match="trained"):
        steady_entropy(unet(8), (0, 8))
    net = torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2))
    with pytest.raises(BadType, match="no known place"):
        steady_entropy(rg.Denoiser(net, rg.paths.Flow(), "velocity", (8,)), (8,), places=sites.Places(net, attention=("0",)))
