"""Token merging: nothing is lost where tokens are alike, and less is computed."""

import pytest
import torch
from torch.nn import functional

import retrograde as rg
from retrograde import sites
from retrograde.accelerate import merge_tokens, merger
from retrograde.errors import BadType, BadValue


def attend(x: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(x, 2 * x.flip(-1), x.square())


def test_tokens_that_are_alike_are_merged_without_a_trace():
    """Cells of four equal tokens: three quarters of them go, and attention over the rest is the same at every token."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    x = functional.interpolate(coarse, scale_factor=2.0, mode="nearest").flatten(2).transpose(1, 2)
    merge, spread = merger(x, 0.75, (6, 8))
    assert merge(x).shape == (2, 12, 5)
    assert torch.allclose(spread(attend(merge(x))), attend(x))
    assert torch.equal(spread(merge(x)), x)


def test_the_most_alike_are_averaged_and_the_others_left():
    x = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, -2.0]]])  # the first stays, the second is nearest to it
    merge, spread = merger(x, 0.25, (2, 2))
    assert torch.allclose(merge(x)[0, -1], x[0, :2].mean(0))
    made = spread(merge(x))[0]
    assert torch.allclose(made[0], made[1])
    assert torch.equal(made[2:], x[0, 2:])


@pytest.mark.parametrize("model", ["den", "dit"])
def test_less_is_computed_and_a_ratio_of_zero_is_the_denoiser(model, request):
    den = request.getfixturevalue(model)
    plan = rg.plan("ddim", den.path, nfe=3)
    full = rg.sample(den, plan, 2, condition=1)
    assert torch.equal(rg.sample(merge_tokens(den, 0.0), plan, 2, condition=1), full)
    some = rg.sample(merge_tokens(den, 0.25), plan, 2, condition=1)
    more = rg.sample(merge_tokens(den, 0.75), plan, 2, condition=1)
    assert 0 < float((some - full).norm()) < float((more - full).norm())
    column = rg.accelerate.every(plan, 1, knob="merge")
    assert torch.equal(rg.sample(merge_tokens(den, 0.0), column, 2, condition=1), full)
    off = rg.accelerate.reuse(plan, [], 0.0, knob="merge")
    assert not torch.equal(rg.sample(merge_tokens(den, 0.75), off, 2, condition=1), more)  # rows name their own
    assert sites.cost(merge_tokens(den, 0.5), plan).macs < sites.cost(den, plan).macs


def test_what_it_cannot_do_is_said(den, mixture):
    with pytest.raises(BadValue, match="ratio=0.8"):
        merge_tokens(den, 0.8)
    with pytest.raises(BadType):
        merge_tokens(mixture(rg.paths.VP()), 0.5)
