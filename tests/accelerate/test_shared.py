"""Attention shared between branches: the second takes that of the first, at half its cost."""

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.accelerate import every, reuse, share_attention


def test_the_second_branch_takes_the_attention_of_the_first(dit):
    """Told alike, branches share without a trace; told unlike, in rows that share alone."""
    plan = rg.plan("ddim", dit.path, nfe=3)
    shared = share_attention(dit)
    column = reuse(plan, [0], knob="share")
    alike = {"conditional": {"label": torch.tensor([1, 2])}, "unconditional": {"label": torch.tensor([1, 2])}}
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    predict = rg.denoisers.predict_branches
    made = predict(shared, x, 0.5, alike, {"share": True})
    for branch in alike:
        assert torch.allclose(made[branch].value, dit.predict(x, 0.5, alike[branch]).value, atol=1e-6)
    unlike = {**alike, "unconditional": {"label": torch.tensor([3, 3])}}
    made = predict(shared, x, 0.5, unlike, {"share": True})
    expected = dit.predict(x, 0.5, unlike["unconditional"]).value
    assert torch.allclose(made["conditional"].value, dit.predict(x, 0.5, unlike["conditional"]).value, atol=1e-6)
    assert not torch.allclose(made["unconditional"].value, expected, atol=1e-4)
    full = rg.sample(rg.guide.cfg(dit, 2.0), plan, 2, condition=1)
    assert torch.equal(rg.sample(rg.guide.cfg(shared, 2.0), plan, 2, condition=1), full)
    assert not torch.equal(rg.sample(rg.guide.cfg(shared, 2.0), column, 2, condition=1), full)


def test_a_single_branch_is_never_split(dit, den):
    """Weight one asks the conditional branch alone: its items are no branches."""
    for model in (dit, den):
        column = reuse(rg.plan("ddim", model.path, nfe=3), [], knob="share")
        plain = rg.sample(model, rg.plan("ddim", model.path, nfe=3), 2, condition=[0, 1])
        assert torch.equal(rg.sample(rg.guide.cfg(share_attention(model), 1.0), column, 2, condition=[0, 1]), plain)


def test_runs_in_turns_do_not_meet_and_an_exception_leaves_the_module_clean(dit):
    plan = reuse(rg.plan("ddim", dit.path, nfe=3), [0], knob="share")
    shared = rg.guide.cfg(share_attention(dit), 2.0)
    alone = [rg.sample(shared, plan, 2, seed, condition=seed) for seed in (0, 1)]
    plain = rg.sample(dit, rg.plan("ddim", dit.path, nfe=3), 2, 2)
    runs = [rg.steps(plan, shared, 2, seed, condition=seed) for seed in (0, 1)]
    runs.append(rg.steps(rg.plan("ddim", dit.path, nfe=3), dit, 2, 2))
    for states in zip(*runs, strict=True):
        last = [state.x_t for state in states]
    assert all(torch.equal(made, expected) for made, expected in zip(last, [*alone, plain], strict=True))
    deep = dit.network.get_submodule("transformer.transformer_blocks.4.ff")
    handle = deep.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rg.sample(shared, plan, 2)
    handle.remove()
    assert not any("forward" in child.__dict__ for child in dit.network.modules())
    assert torch.equal(rg.sample(shared, plan, 2, 0, condition=0), alone[0])


def test_half_of_the_attention_is_spared(den):
    plan = rg.plan("ddim", den.path, nfe=4)
    guided = rg.guide.cfg(share_attention(den), 2.0)
    with sites.counted(den.network, sites.find(den.network).attention) as full:
        rg.sample(guided, plan, condition=1)
    with sites.counted(den.network, sites.find(den.network).attention) as half:
        rg.sample(guided, every(plan, 2, knob="share"), condition=1)
    spent = [sum(book.macs.values()) - book.macs.get("", 0.0) for book in (full, half)]
    assert spent[1] == 0.75 * spent[0]  # every second row shares, and computes half of it
