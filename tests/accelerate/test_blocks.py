"""Blocks reused, extrapolated and left out: exact where they should be, and counted."""

import itertools
import math

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadType, BadValue
from retrograde.sites import Entry

PLAN = rg.plan("ddim", rg.paths.Flow(), nfe=8)


def error(denoiser: rg.Denoiser, plan: rg.Plan, expected: torch.Tensor) -> float:
    return float((rg.sample(denoiser, plan, 3, condition=[0, 1, 2]) - expected).square().mean().sqrt())


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("blocks", [None, [], [1, 2, 4]])
def test_refreshed_everywhere_it_is_the_denoiser_bit_by_bit(blocks, order, dit):
    cached = rg.accelerate.block_cache(dit, blocks, order=order)
    for guided in (lambda d: d, lambda d: rg.guide.cfg(d, 2.0)):
        expected = rg.sample(guided(dit), PLAN, 2, condition=1)
        assert torch.equal(rg.sample(guided(cached), PLAN, 2, condition=1), expected)
        assert torch.equal(rg.sample(guided(cached), rg.accelerate.every(PLAN, 1), 2, condition=1), expected)
    if blocks == []:
        assert torch.equal(rg.sample(cached, rg.accelerate.every(PLAN, 4), 2), rg.sample(dit, PLAN, 2))


def test_only_the_blocks_that_are_not_cached_are_called(dit):
    cached, plan = rg.accelerate.block_cache(dit, [1, 2, 4]), rg.accelerate.every(PLAN, 4)
    transformer = dit.network.transformer
    with sites.timed(transformer, [block.name for block in sites.find(transformer).chain]) as book:
        rg.sample(cached, plan, 2)
    assert [book.calls[f"transformer_blocks.{k}"] for k in range(5)] == [8, 2, 2, 8, 2]
    assert book.spared == {f"transformer_blocks.{k}": 6 for k in (1, 2, 4)}
    cost, full = sites.cost(cached, plan, 2), sites.cost(dit, PLAN, 2)
    assert cost.macs + cost.spared == pytest.approx(full.macs, rel=1e-12)
    assert cost.macs < full.macs


def test_unchanged_inputs_give_the_full_output(dit):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    condition = rg.denoisers.prepare_condition(dit, [0, 2], 2)
    cached = rg.accelerate.block_cache(dit, [0, 1, 3])
    whole = cached.predict(x, 0.5, condition)
    again = cached.predict(x, 0.5, condition, {"reuse": True, "carried": whole.carried})
    assert torch.allclose(again.value, whole.value, atol=1e-6)


@pytest.mark.parametrize("rule", ["taylor", "newton"])
def test_features_that_are_polynomials_in_time_are_extrapolated(rule):
    clocks = [0.5, 0.6, 0.8]

    def predicted(power: int, depth: int) -> float:
        past = [Entry(t, (torch.tensor([t**power], dtype=torch.float64), None)) for t in clocks[:depth]]
        value, none = rg.accelerate.extrapolated(past, 0.3, rule)
        assert none is None
        return float(value)

    assert predicted(0, 1) == predicted(0, 3) == 1.0
    assert predicted(1, 1) == 0.5
    assert predicted(1, 2) == pytest.approx(0.3, abs=1e-12)
    assert predicted(1, 3) == pytest.approx(0.3, abs=1e-12)
    # t^2 from three points: the polynomial through them is exact, published Taylor takes (t - t_0)^2 for a product
    slope = 1.1
    taylor = 0.25 - 0.2 * slope + 0.04
    assert predicted(2, 3) == pytest.approx(0.09 if rule == "newton" else taylor, abs=1e-12)


def test_two_features_of_one_time_are_one():
    past = [Entry(0.5, torch.tensor([1.0])), Entry(0.5, torch.tensor([9.0])), Entry(0.7, torch.tensor([2.0]))]
    assert float(rg.accelerate.extrapolated(past, 0.4)) == pytest.approx(0.5)


@pytest.mark.parametrize("order", [0, 1])
def test_extrapolation_to_an_order_converges_one_order_faster(order, dit):
    """Every other evaluation reused: the sample's distance to the full run falls as h^(order + 1)."""
    cached, errors, counts = rg.accelerate.block_cache(dit, order=order), [], (32, 128)
    for nfe in counts:
        plan = rg.plan("ddim", dit.path, nfe=nfe)
        expected = rg.sample(dit, plan, 2, condition=[0, 1])
        made = rg.sample(cached, rg.accelerate.every(plan, 2, begin=3), 2, condition=[0, 1])
        errors.append(float((made - expected).square().mean().sqrt()))
    slope = math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])
    assert slope == pytest.approx(order + 1, abs=0.35)


def test_the_profiled_blocks_err_less_than_random_ones(dit):
    """Two of five blocks, against all other pairs at the same number of block calls."""
    plan = rg.accelerate.every(PLAN, 3)
    expected = rg.sample(dit, PLAN, 3, condition=[0, 1, 2])
    chosen = rg.accelerate.steadiest(dit, PLAN, 2, condition=2)
    pairs = list(itertools.combinations(range(5), 2))
    errors = {pair: error(rg.accelerate.block_cache(dit, pair), plan, expected) for pair in pairs}
    others = [errors[pair] for pair in pairs if pair != chosen]
    assert errors[chosen] < 0.75 * sum(others) / len(others)


def test_blocks_can_be_left_out_row_by_row_in_transformers_and_unets(dit, den):
    def skipping(plan: rg.Plan, *numbers: int) -> rg.Plan:
        return rg.accelerate.reuse(plan, [0, 1], list(numbers), knob="skip")

    for plain, plan in ((dit, PLAN), (den, rg.plan("ddim", den.path, nfe=5))):
        skips = rg.accelerate.skip_blocks(plain)
        expected = rg.sample(plain, plan, 2)
        assert torch.equal(rg.sample(skips, plan, 2), expected)
        assert torch.equal(rg.sample(skips, skipping(plan), 2), expected)  # the mask that keeps all
        assert not torch.equal(rg.sample(skips, skipping(plan, 1, 3), 2), expected)
        cost, full = sites.cost(skips, skipping(plan, 1, 3), 2), sites.cost(plain, plan, 2)
        assert cost.macs < full.macs
        assert cost.evaluations == {"network": 2, "network:skip_blocks": plan.nfe - 2}
        with pytest.raises(BadValue, match="block 77"):
            rg.sample(skips, skipping(plan, 77), 2)


def test_a_block_left_out_hands_on_its_input(dit):
    x, transformer = torch.randn(1, 1, 8, 8), dit.network.transformer
    kept = transformer.transformer_blocks
    skips = rg.accelerate.skip_blocks(dit)
    condition = rg.denoisers.prepare_condition(dit, 0, 1)
    left_out = skips.predict(x, 0.5, condition, {"skip": [1, 4]}).value
    transformer.transformer_blocks = torch.nn.ModuleList([kept[0], kept[2], kept[3]])
    try:
        assert torch.equal(dit.predict(x, 0.5, condition).value, left_out)
    finally:
        transformer.transformer_blocks = kept


def test_mistakes_are_explained(dit, den):
    with pytest.raises(BadValue, match=r"0\.\.4"):
        rg.accelerate.block_cache(dit, [5])
    with pytest.raises(BadType, match="no chain"):
        rg.accelerate.block_cache(den)
