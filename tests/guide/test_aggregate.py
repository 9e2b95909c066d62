"""Feature aggregation: equal networks are one, a gate can choose a network, and the exact gate gives the union's score."""

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.guide import aggregate

PATH = rg.paths.VP()
X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network(seed):
    """A small network whose every parameter has a value that matters."""
    made = rg.nets.UNet((1, 8, 8), channels=(8, 16), blocks=1, attention=(1,), patch=1, width=16, classes=3)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=generator) / max(1, p[0].numel()) ** 0.5)
    return made.eval()


def den(seed):
    return rg.Denoiser(network(seed), PATH, "noise", (1, 8, 8), {"label": 3})


def wild(call, features, t):
    """A gate for each network, item and element, of no meaning."""
    return 3.0 * torch.randn(features.shape, generator=torch.Generator().manual_seed(len(call.site)))


def test_equal_networks_are_one_of_them_for_any_gate():
    one = den(0)
    expected = one(X, 0.5, label=1).value.detach()
    for gate in (None, [0.2, 0.5, 0.3], wild):
        made = aggregate(one, [den(0), den(0)], gate)(X, 0.5, label=1).value
        assert torch.allclose(made, expected, atol=1e-6 * float(expected.abs().max()) + 1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_a_gate_that_is_one_network_everywhere_is_that_network(place):
    """Nothing of the others is left, in no part: embeddings and the ends are mixed too."""
    both = [den(0), den(1)]
    made = aggregate(both[0], [both[1]], [float(place == 0), float(place == 1)])(X, 0.5, label=1).value
    expected = both[place](X, 0.5, label=1).value
    assert torch.allclose(made, expected, atol=1e-5)
    assert not torch.allclose(made, both[1 - place](X, 0.5, label=1).value, atol=1e-2)


def test_mixing_features_is_not_mixing_outputs_and_both_are_there():
    one, other = den(0), den(1)
    outputs = 0.5 * (one(X, 0.5, label=1).value + other(X, 0.5, label=1).value)
    assert torch.allclose(aggregate(one, [other], sites=[""])(X, 0.5, label=1).value, outputs, atol=1e-6)
    made = aggregate(one, [other])(X, 0.5, label=1)
    assert not torch.allclose(made.value, outputs, atol=1e-2)
    assert dict(made.evaluations) == {"network:0": 1, "network:1": 1}
    plan = rg.plan("ddim", PATH, nfe=2)
    record = rg.record(rg.guide.cfg(aggregate(one, [other]), 2.0), plan, n=2, condition=1)
    assert sum(record.ledger.evaluations.values()) == 8


def test_the_posterior_as_gate_gives_the_score_of_the_union():
    laws = [
        rg.oracles.GaussianMixture(PATH, torch.tensor(means), variance)
        for means, variance in (([[-1.0, 0.0], [0.2, 1.0]], 0.1), ([[1.0, 0.3]], 0.3))
    ]
    means = torch.cat([law.means for law in laws])
    weights = torch.tensor([0.25, 0.25, 0.5])
    union = rg.oracles.GaussianMixture(PATH, means, torch.tensor([0.1, 0.1, 0.3]), weights)

    class Exact(nn.Module):
        def __init__(self, law):
            super().__init__()
            self.law = law

        def forward(self, x, told):
            return self.law(x, float(told[0])).noise

    one, other = (rg.Denoiser(Exact(law), PATH, "noise", (2,)) for law in laws)

    def posterior(call, features, t):
        return torch.stack([law.log_prob(call.args[0], t) for law in laws])

    x = torch.tensor([[0.5, -1.0], [2.0, 0.3], [-0.7, 0.7]], dtype=torch.float64)
    for t in (0.125, 0.5):  # exact in float32, as the network is told it
        made = aggregate(one, [other], posterior, sites=[""])(x, t)
        assert torch.allclose(made.score, union(x, t).score, rtol=1e-9)


def test_mistakes_are_explained(mixture):
    with pytest.raises(BadValue, match="one or more"):
        aggregate(den(0), [])
    with pytest.raises(BadValue, match="2 weights of sum 1"):
        aggregate(den(0), [den(1)], [1.0, 1.0])
    with pytest.raises(BadType, match="torch module"):
        aggregate(mixture(PATH), [mixture(PATH)], sites=[""])
    small = rg.Denoiser(rg.nets.UNet((1, 8, 8), channels=(8, 8), classes=3), PATH, "noise", (1, 8, 8), {"label": 3})
    with pytest.raises(BadType, match="one architecture"):
        aggregate(den(0), [small])
    with pytest.raises(UnknownName, match="middle"):
        aggregate(den(0), [den(1)], sites=["midle"])
