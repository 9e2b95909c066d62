"""Memory lives in the run: runs do not meet, nothing survives, items and branches have each their own."""

import dataclasses
import threading
from collections.abc import Mapping
from typing import ClassVar

import pytest
import torch

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadType, BadValue, PlanError
from retrograde.state import Resampled

PLAN = rg.accelerate.every(rg.plan("dpmpp_2m", rg.paths.VP(), nfe=7), 3)


@pytest.fixture
def cached(den) -> sites.Within:
    return rg.accelerate.deepcache(den, 0)


def clean(module: torch.nn.Module) -> bool:
    return not any("forward" in child.__dict__ for child in module.modules())


def test_interleaved_runs_over_one_module_are_those_run_alone(den, cached):
    asked = [(cached, PLAN, 0, 1), (cached, rg.accelerate.every(PLAN, 2), 1, 2), (den, rg.accelerate.every(PLAN, 1), 2, 0)]
    alone = [rg.sample(d, plan, 2, seed, condition=label) for d, plan, seed, label in asked]
    runs = [rg.steps(plan, d, 2, seed, condition=label) for d, plan, seed, label in asked]
    for _ in range(7):
        last = [next(run).x_t for run in runs]
        assert clean(den.network)
    assert all(torch.equal(one, other) for one, other in zip(last, alone, strict=True))
    assert not torch.equal(alone[0], rg.sample(den, rg.accelerate.every(PLAN, 1), 2, 0, condition=1))


def test_runs_in_two_threads_do_not_meet(den, cached):
    alone = [rg.sample(cached, PLAN, 2, seed) for seed in (0, 1)]
    together = {}

    def work(seed):
        together[seed] = rg.sample(cached, PLAN, 2, seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(together[seed], alone[seed]) for seed in (0, 1))
    assert clean(den.network)


def test_nothing_survives_a_call_or_an_exception(den, cached):
    fresh = rg.sample(cached, PLAN, 2)
    assert torch.equal(rg.sample(cached, PLAN, 2), fresh)
    for state in rg.steps(PLAN, cached, 2, 5):
        if state.index == 1:
            break  # left in the middle
    with pytest.raises(rg.errors.ShapeError if hasattr(rg, "errors") else ValueError):
        cached(torch.zeros(2, 1, 4, 4), 0.5)
    assert clean(den.network)
    assert torch.equal(rg.sample(cached, PLAN, 2), fresh)


def test_a_branch_and_an_item_have_each_their_own(cached):
    guided = rg.guide.cfg(cached, 2.0)
    together = rg.sample(guided, PLAN, 4, condition=[0, 1, 2, 0])
    for k, label in enumerate([0, 1, 2, 0]):
        alone = rg.sample(guided, PLAN, items=[k], condition=label)
        assert torch.allclose(together[k], alone[0], atol=1e-5)
    swapped = rg.guide.cfg(cached, -1.0, negative={"label": 1})  # the branches exchanged: weight w is 1 - w
    other = rg.guide.cfg(cached, 2.0, negative={"label": 0})
    one = rg.sample(swapped, PLAN, 2, condition=0)
    assert torch.allclose(one, rg.sample(other, PLAN, 2, condition=1), atol=1e-5)


def test_resampled_items_take_their_features_along(cached):
    class Turned:
        def resample(self, state, noise):
            return Resampled(torch.tensor([1, 0]) if state.index == 3 else None)

    x = rg.record(cached, PLAN, 2).trajectory[0]
    turned = rg.sample(cached, PLAN, x=x, particles=Turned())
    assert torch.allclose(turned, rg.sample(cached, PLAN, x=x).flip(0), atol=1e-5)
    halves = rg.sample(cached, PLAN, x=x, batch_size=1)
    assert torch.allclose(halves, rg.sample(cached, PLAN, x=x), atol=1e-5)


def test_a_run_continues_with_what_it_kept(cached):
    whole = rg.sample(cached, PLAN, 2)
    for state in rg.steps(PLAN, cached, 2):
        if state.index == 4:
            break
    assert torch.equal(rg.sample(cached, PLAN[5:], 2, state=state), whole)


@dataclasses.dataclass(frozen=True)
class Remembers(sites.Policy):
    """Adds what the middle made at the last evaluation."""

    title: ClassVar[str] = "remembers"
    knob: ClassVar[str | None] = None

    def taps(self, visit: sites.Visit) -> Mapping[str, sites.Tap]:
        def tap(call):
            made = call.compute()
            visit.keep("middle", made, depth=2)
            past = visit.newest("middle")
            assert len(visit.past("middle")) <= 2
            return made if past is None else made + past

        return {"middle": tap}


def test_patches_remember_apart(den):
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))

    def asked(order: str) -> list[torch.Tensor]:
        held, made = {}, []
        for patch in order:
            it = sites.within(den, Remembers(), patch=patch)
            prediction = it.predict(x, 0.5, rg.denoisers.prepare_condition(den, None, 2), {"carried": held})
            held = prediction.carried
            made.append(prediction.value)
        return made

    once, both = asked("aa"), asked("abab")
    assert not torch.equal(once[0], once[1])
    assert torch.equal(both[0], once[0])
    assert torch.equal(both[1], once[0])  # b sees nothing of a
    assert torch.equal(both[2], once[1])


def test_policies_nest_and_each_is_there_once(den, cached):
    both = sites.within(cached, Remembers())
    full = rg.accelerate.every(PLAN, 1)
    assert torch.equal(rg.sample(both, full, 2), rg.sample(sites.within(den, Remembers()), full, 2))
    assert not torch.equal(rg.sample(both, full, 2), rg.sample(cached, full, 2))
    # the outer one sees the inner one's placeholder in rows that reuse, which it may add to as it likes
    assert torch.equal(rg.sample(both, PLAN, 2), rg.sample(cached, PLAN, 2))
    with pytest.raises(BadValue, match="each policy once"):
        rg.accelerate.deepcache(both, 1)


def test_mistakes_are_explained(den):
    with pytest.raises(BadType, match="guidance goes outside"):
        rg.accelerate.deepcache(rg.guide.cfg(den, 2.0))
    with pytest.raises(BadType, match="not made of a torch module"):
        rg.accelerate.deepcache(rg.oracles.Gaussian(rg.paths.VP(), torch.zeros(2), 1.0))
    with pytest.raises(PlanError, match="'reuse'"):
        rg.sample(den, PLAN)
    with pytest.raises(BadType, match="no chain"):
        sites.places_of(den).need("chain")


@pytest.mark.parametrize("recipe", ["ddim", "heun", "ddpm", "unipc_3", "dpmpp_2m"])
def test_it_goes_with_any_recipe(recipe, den, cached):
    plan = rg.plan(recipe, den.path, nfe=8)
    assert torch.equal(rg.sample(cached, plan, 2), rg.sample(den, plan, 2))
    assert not torch.equal(rg.sample(cached, rg.accelerate.every(plan, 2), 2), rg.sample(den, plan, 2))
