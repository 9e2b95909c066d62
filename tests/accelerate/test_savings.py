"""What a policy would save, said beforehand, is what it saves."""

import pytest

import retrograde as rg
from retrograde import sites
from retrograde.errors import BadType


def test_what_is_said_beforehand_is_what_is_counted(den, dit):
    interval = 3
    made = {
        "deepcache(branch=0)": lambda d: rg.accelerate.deepcache(d),
        "deepcache(branch=2)": lambda d: rg.accelerate.deepcache(d, 2),
        "encoder_cache()": rg.accelerate.encoder_cache,
        "block_cache()": rg.accelerate.block_cache,
    }
    seen = set()
    for model in (den, dit):
        plan = rg.plan("ddim", model.path, nfe=interval)
        full = sites.cost(model, plan).macs
        said = rg.accelerate.savings(model, plan)
        assert [one.macs for one in said] == sorted(one.macs for one in said)
        for one in said:
            if one.policy in made:
                spent = sites.cost(made[one.policy](model), rg.accelerate.every(plan, interval)).macs
                assert spent == pytest.approx(full * one.run(interval), rel=1e-9)
                assert 0 < one.seconds < 1
                seen.add(one.policy)
    assert seen == set(made)


def test_it_looks_through_guidance_and_refuses_what_has_no_network(den):
    plan = rg.plan("ddim", den.path, nfe=3)
    guided = rg.accelerate.savings(rg.guide.cfg(den, 2.0), plan, condition=1)
    assert {one.policy: one.macs for one in guided} == pytest.approx(
        {one.policy: one.macs for one in rg.accelerate.savings(den, plan)}
    )
    with pytest.raises(BadType, match="torch module"):
        rg.accelerate.savings(rg.Denoiser(lambda x, t: x, den.path, "noise", (1, 8, 8)), plan)
