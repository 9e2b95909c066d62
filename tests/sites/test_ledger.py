"""The books: what operators really ran, compared with the formulas of known layers, and what was spared."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import retrograde as rg
from retrograde import sites


class Attends(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Linear(6, 5), (2, 7, 6), 2 * 7 * 6 * 5),
        (nn.Conv2d(3, 4, 3, padding=1), (2, 3, 8, 8), 2 * 64 * 3 * 4 * 9),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=2), (1, 4, 8, 8), 16 * 4 * 2 * 9),
        (Attends(), (2, 3, 10, 16), 2 * 2 * 3 * 10 * 10 * 16),
    ],
    ids=["linear", "convolution", "groups", "attention"],
)
def test_known_layers_cost_what_their_formulas_say(layer, shape, macs):
    net = nn.Sequential(layer)
    with torch.no_grad(), sites.counted(net) as book:
        net(torch.randn(shape))
    assert book.total == book.macs["0"] == macs
    assert book.calls == {"": 1, "0": 1}


def test_what_was_computed_and_what_was_spared_are_the_whole(den):
    plan = rg.plan("ddim", den.path, nfe=6)
    full = sites.cost(den, plan, 3)
    reused = sites.cost(rg.accelerate.deepcache(den, 1), rg.accelerate.every(plan, 2), 3, repeats=1)
    assert full.spared == 0
    assert reused.macs < 0.9 * full.macs
    assert reused.macs + reused.spared == pytest.approx(full.macs, rel=1e-12)
    assert reused.evaluations == {"network": 3, "network:deepcache": 3}
    assert reused.seconds > 0


def test_guided_runs_are_counted_per_branch(den):
    plan = rg.plan("ddim", den.path, nfe=4)
    one = sites.cost(rg.guide.cfg(den, 2.0), plan, 2, condition=1)
    assert one.macs == pytest.approx(2 * sites.cost(den, plan, 2, condition=1).macs, rel=1e-12)


def test_seconds_are_measured_by_site(den):
    with sites.timed(den.network, ["middle", "enter"]) as book:
        den(torch.randn(2, 1, 8, 8), 0.5)
    assert 0 < book.seconds["middle"] < book.seconds[""]
    assert book.calls == {"": 1, "middle": 1, "enter": 1}
