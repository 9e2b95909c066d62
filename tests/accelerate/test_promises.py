"""What every policy promises: nothing changes at its null setting, runs do not meet, and nothing is left behind."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

import retrograde as rg

PLAN = rg.plan("dpmpp_2m", rg.paths.Flow(), nfe=6)
accelerate = rg.accelerate


@dataclasses.dataclass(frozen=True)
class Case:
    """A policy at work: on which model, how it is made, with which column; and how it is made to do nothing."""

    model: str
    make: Callable[[Any], Any]
    column: Callable[[rg.Plan], rg.Plan] = lambda plan: plan
    null: Callable[[Any], Any] | None = None


def third(plan: rg.Plan) -> rg.Plan:
    return accelerate.every(plan, 3)


def corrected(d: Any) -> Any:
    """Inner loop feedback that changes something, without having learned it."""
    module = accelerate.feedback(d, 2)
    module.gain.data.fill_(0.3)
    return accelerate.inner_loop(d, module.requires_grad_(False))


def doubtful(d: Any, threshold: float) -> Any:
    """Exits that were not taught, of which some items take one."""
    torch.manual_seed(0)
    module = accelerate.exits(d).requires_grad_(False)
    return accelerate.early_exit(d, module, threshold)


CASES = {
    "deepcache": Case("den", accelerate.deepcache, third),
    "encoder_cache": Case("den", accelerate.encoder_cache, third),
    "block_cache": Case("dit", accelerate.block_cache, third),
    "taylor": Case("dit", lambda d: accelerate.block_cache(d, order=1), third),
    "first_block": Case("dit", lambda d: accelerate.first_block(d, 0.3), null=lambda d: accelerate.first_block(d, 0.0)),
    "teacache": Case("dit", lambda d: accelerate.teacache(d, 1.0), null=lambda d: accelerate.teacache(d, 0.0)),
    "early_exit": Case("dit", lambda d: doubtful(d, 0.5), null=lambda d: doubtful(d, 0.0)),
    "inner_loop": Case("dit", corrected, third),
    "merge_tokens": Case("den", lambda d: accelerate.merge_tokens(d, 0.5), null=lambda d: accelerate.merge_tokens(d, 0.0)),
    "skip_blocks": Case("dit", accelerate.skip_blocks, lambda p: accelerate.reuse(p, [0], [1], knob="skip")),
}


@pytest.fixture(params=CASES)
def case(request) -> tuple[Any, Case, rg.Plan]:
    chosen = CASES[request.param]
    model = request.getfixturevalue(chosen.model)
    return model, chosen, rg.plan("dpmpp_2m", model.path, nfe=6)


def clean(module: torch.nn.Module) -> bool:
    return not any("forward" in child.__dict__ for child in module.modules())


def test_doing_nothing_it_is_the_denoiser_bit_by_bit(case):
    model, chosen, plan = case
    null = (chosen.null or chosen.make)(model)
    for guided in (lambda d: d, lambda d: rg.guide.cfg(d, 2.0)):
        expected = rg.sample(guided(model), plan, 2, condition=1)
        assert torch.equal(rg.sample(guided(null), plan, 2, condition=1), expected)
        at_work = rg.sample(guided(chosen.make(model)), chosen.column(plan), 2, condition=1)
        assert not torch.equal(at_work, expected)


def test_two_runs_in_turns_over_one_module_are_those_run_alone(case):
    model, chosen, plan = case
    policy, column = chosen.make(model), chosen.column(plan)
    alone = [rg.sample(policy, column, 2, seed, condition=seed) for seed in (0, 1)]
    plain = rg.sample(model, plan, 2, 2)
    runs = [rg.steps(column, policy, 2, seed, condition=seed) for seed in (0, 1)]
    runs.append(rg.steps(plan, model, 2, 2))
    for states in zip(*runs, strict=True):
        last = [state.x_t for state in states]
    for made, expected in zip(last, [*alone, plain], strict=True):
        assert torch.equal(made, expected)


def test_an_exception_leaves_the_module_clean(case):
    model, chosen, plan = case
    policy, column = chosen.make(model), chosen.column(plan)
    expected = rg.sample(policy, column, 2)
    begun = rg.steps(column, policy, 2)
    next(begun)
    begun.close()
    assert clean(model.network)
    watched = next(module for name, module in model.network.named_modules() if name.endswith(("enter", "pos_embed")))
    handle = watched.register_forward_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            rg.sample(policy, column, 2)
    finally:
        handle.remove()
    assert clean(model.network)
    assert torch.equal(rg.sample(policy, column, 2), expected)


def test_under_autocast_it_is_the_denoiser_there_and_reuses_what_was_computed_there(case):
    model, chosen, plan = case
    condition = rg.denoisers.prepare_condition(model, [0, 1], 2)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", torch.bfloat16):
        expected, null = model.predict(x, 0.5, condition).value, (chosen.null or chosen.make)(model)
        assert torch.equal(null.predict(x, 0.5, condition).value, expected)
        made = rg.sample(chosen.make(model), chosen.column(plan), 2, condition=1)
    assert made.dtype == torch.float32
    assert made.isfinite().all()
    assert not torch.equal(expected, model.predict(x, 0.5, condition).value)  # it was computed in bfloat16
