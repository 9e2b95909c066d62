"""Caches that look: exact at threshold zero, decided item by item, and as their formulas say."""

import dataclasses

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.accelerate.thresholds import modulated, relative_change
from retrograde.errors import BadValue

PLAN = rg.plan("dpmpp_2m", rg.paths.Flow(), nfe=8)
MAKE = {"first_block": rg.accelerate.first_block, "teacache": rg.accelerate.teacache}
THRESHOLD = {"first_block": 0.1, "teacache": 0.4}


@pytest.mark.parametrize("name", MAKE)
def test_threshold_zero_is_the_denoiser_bit_by_bit(name, dit):
    cached = MAKE[name](dit, 0.0)
    for guided in (lambda d: d, lambda d: rg.guide.cfg(d, 2.0)):
        recorded = rg.record(guided(cached), PLAN, 2, condition=1)
        assert torch.equal(recorded.samples, rg.sample(guided(dit), PLAN, 2, condition=1))
        assert not any(name in label for label in recorded.ledger.evaluations)


@pytest.mark.parametrize("name", MAKE)
def test_each_item_decides_for_itself_and_is_computed_alone(name, dit):
    """Items whose decisions differ in one batch come out as each alone, and cost what each costs alone."""
    cached = MAKE[name](dit, THRESHOLD[name])
    sizes = torch.tensor([0.1, 1, 2, 4]).reshape(-1, 1, 1, 1)
    x = sizes * torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    together = rg.sample(cached, PLAN, x=x, condition=[0, 1, 2, 0])
    alone = [rg.sample(cached, PLAN, x=x[k : k + 1], condition=c) for k, c in enumerate([0, 1, 2, 0])]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    cost = sites.cost(cached, PLAN, 4, x=x, condition=[0, 1, 2, 0])
    costs = [sites.cost(cached, PLAN, 1, x=x[k : k + 1], condition=c) for k, c in enumerate([0, 1, 2, 0])]
    assert len({c.macs for c in costs}) > 1  # the items do differ
    assert 4 * cost.macs == pytest.approx(sum(c.macs for c in costs), rel=1e-9)


@pytest.mark.parametrize("name", MAKE)
def test_a_larger_threshold_costs_less_and_rows_may_ask_for_everything(name, dit):
    costs = [sites.cost(MAKE[name](dit, threshold), PLAN, 1).macs for threshold in (0.0, THRESHOLD[name], 100.0)]
    assert costs[0] > costs[1] > costs[2]
    exact = rg.accelerate.reuse(PLAN, [], knob="exact")
    assert torch.equal(rg.sample(MAKE[name](dit, 100.0), exact, 2), rg.sample(dit, PLAN, 2))


@pytest.mark.parametrize("name", MAKE)
def test_a_branch_that_was_not_asked_for_a_while_is_computed(name, dit):
    """Rows of weight 1 ask the conditional branch alone; what both kept then no longer is of one evaluation."""
    guided = rg.guide.cfg(MAKE[name](dit, THRESHOLD[name]), 2.0)
    plan = rg.plan("ddim", dit.path, nfe=8)
    alone = {2, 3, 5}
    rows = [dataclasses.replace(row, knobs={"guidance": 1.0} if k in alone else {}) for k, row in enumerate(plan.rows)]
    made = rg.record(guided, dataclasses.replace(plan, rows=tuple(rows)), 2, condition=1)
    assert made.samples.isfinite().all()
    assert sum(v for k, v in made.ledger.evaluations.items() if "uncond" in k) == 5


def test_the_first_block_decides_as_its_formula_says(dit):
    threshold = THRESHOLD["first_block"]
    additions, plain = [], rg.record(dit, PLAN, 1)
    block = sites.places_of(dit).chain[0]

    def look(call):
        made = call.compute()
        additions.append(made - block.bypass(call))
        return made

    cached = rg.accelerate.first_block(dit, threshold)
    transformer = dit.network.transformer
    with sites.opened(transformer, {block.name: look}), sites.timed(transformer, ["transformer_blocks.3"]) as book:
        rg.sample(cached, PLAN, 1)
    kept, computed = None, 0
    for r in additions:
        if kept is None or float((r - kept).abs().mean() / kept.abs().mean()) >= threshold:
            kept, computed = r, computed + 1
    assert 1 < computed < PLAN.nfe
    assert book.calls["transformer_blocks.3"] == computed
    assert plain.plan.nfe == PLAN.nfe


def test_teacache_s_signal_is_the_modulated_input(dit):
    block = dit.network.transformer.transformer_blocks[0]
    seen = {}

    def look(call):
        seen["signal"] = modulated(call)
        return call.compute()

    def norm(call):
        made = call.compute()
        seen["norm"] = made[0]
        return made

    with sites.opened(block, {"": look}), sites.opened(block, {"norm1": norm}, watching=True):
        dit(torch.randn(2, 1, 8, 8), 0.3)
    assert torch.equal(seen["signal"], seen["norm"])


def test_relative_change_is_by_item():
    before, now = torch.tensor([[1.0, -1.0], [0.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0], [0.0, 0.0]])
    assert relative_change(now, before).tolist() == [0.5, 0.0, float("inf")]


def test_mistakes_are_explained(dit):
    for make in MAKE.values():
        with pytest.raises(BadValue, match="threshold=-1"):
            make(dit, -1.0)


def test_a_table_of_positions_is_not_taken_for_one_entry_per_item():
    """As many items as tokens, and only some of the items are computed."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)

        def forward(self, h: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
            return h + torch.tanh(self.linear(h) + table)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList([Block() for _ in range(3)])
            self.table = torch.arange(12.0).reshape(4, 3)

        def forward(self, h: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            for block in self.blocks:
                h = block(h, self.table)
            return h

    torch.manual_seed(0)
    net = rg.Denoiser(Net(), rg.paths.Flow(), "velocity", (4, 3))
    cached = rg.accelerate.first_block(net, 0.05)
    sizes = torch.tensor([0.01, 0.1, 1, 30]).reshape(-1, 1, 1)
    x = sizes * torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([rg.sample(cached, PLAN, x=x[k : k + 1]) for k in range(4)])
    costs = {sites.cost(cached, PLAN, 1, x=x[k : k + 1]).macs for k in range(4)}
    assert len(costs) > 1  # the items do differ
    assert torch.allclose(rg.sample(cached, PLAN, x=x), alone, atol=1e-5)
