"""Policies over blocks that were compiled: their graphs stay whole, and the samples are those of the blocks as they are."""

import copy

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde import sites

accelerate = rg.accelerate
pytestmark = pytest.mark.slow


class Adds(nn.Module):
    """A block of tokens that is told the noise level."""

    def __init__(self, k: int) -> None:
        super().__init__()
        self.norm1, self.mix = nn.LayerNorm(4), nn.Linear(4, 4)
        self.rate = 0.1 * (k + 1)

    def forward(self, h: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return h + self.rate * torch.tanh(self.mix(self.norm1(h)) + t[:, None, None])


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Adds(k) for k in range(3))

    def forward(self, x_t: torch.Tensor, network_time: torch.Tensor) -> torch.Tensor:
        h = x_t[:, 0]
        for block in self.blocks:
            h = block(h, network_time)
        return h[:, None]


def test_policies_leave_the_graphs_of_compiled_blocks_whole():
    torch.manual_seed(0)
    plain = Chain().eval()
    compiled = copy.deepcopy(plain)
    torch._dynamo.reset()
    for block in compiled.blocks:
        block.compile(backend="eager", fullgraph=True, dynamic=True)  # it raises where a graph would break
    one, other = (rg.Denoiser(net, rg.paths.Flow(), "velocity", (1, 3, 4)) for net in (plain, compiled))
    plan = rg.plan("ddim", one.path, nfe=6)
    halves = accelerate.every(plan, 2)
    left_out = accelerate.reuse(plan, [0, 1, 2], [1, 2], knob="skip")
    exits = accelerate.exits(one)
    feedback = accelerate.feedback(one, 2)
    cases = {
        "block_cache": (accelerate.block_cache, halves),
        "extrapolated": (lambda d: accelerate.block_cache(d, order=1), halves),
        "first_block": (lambda d: accelerate.first_block(d, 0.6), plan),
        "teacache": (lambda d: accelerate.teacache(d, 1.5), plan),
        "early_exit": (lambda d: accelerate.early_exit(d, exits, 0.6), plan),
        "inner_loop": (lambda d: accelerate.inner_loop(d, feedback), halves),
        "skip_blocks": (accelerate.skip_blocks, left_out),
    }
    for name, (make, column) in cases.items():
        expected = rg.sample(make(one), column, 5)
        with sites.timed(compiled, ["blocks.2"]) as book:
            made = rg.sample(make(other), column, 5)
        assert torch.allclose(made, expected, atol=1e-6), name
        assert book.calls.get("blocks.2", 0) <= 6, name
        assert not torch.equal(expected, rg.sample(one, plan, 5)), name  # the policy was at work


def test_a_network_compiled_as_a_whole_says_that_a_policy_breaks_its_graph():
    torch._dynamo.reset()
    net = Chain().eval()
    whole = torch.compile(net, backend="eager", fullgraph=True)
    den = rg.Denoiser(whole, rg.paths.Flow(), "velocity", (1, 3, 4))
    plan = rg.plan("ddim", den.path, nfe=2)
    assert rg.sample(den, plan).isfinite().all()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        rg.sample(accelerate.block_cache(den), accelerate.every(plan, 2))
    assert rg.sample(den, plan).isfinite().all()
