"""Guidance that stops when its branches agree: nearer to full guidance than anything else that costs the same."""

import dataclasses
import random

import pytest
import torch

import retrograde as rg
from retrograde.errors import BadType, BadValue, UnknownName

N = 64
LABELS = [i % 4 for i in range(N)]


def guided(path: rg.paths.Path, weight: float = 2.0):
    means = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    return rg.guide.cfg(rg.oracles.GaussianMixture(path, means, 0.05, labels=[i % 4 for i in range(12)]), weight)


def similarities(den, plan):
    found = []
    for state in rg.steps(plan, den, n=N, condition=LABELS):
        branches = [state.prediction.parts[name].noise.double() for name in ("conditional", "unconditional")]
        found.append(torch.nn.functional.cosine_similarity(*branches).mean().item())
    return found


@pytest.mark.parametrize("path", [rg.paths.EDM(), rg.paths.VP(), rg.paths.Flow()])
def test_a_threshold_above_one_is_full_guidance_bit_by_bit(path):
    den, plan = guided(path), rg.plan("dpmpp_2m", path, nfe=8)
    one, other = (rg.record(d, plan, n=N, condition=LABELS) for d in (den, rg.guide.adaptive(den, 1.5)))
    assert torch.equal(one.samples, other.samples)
    assert one.ledger.nfe == other.ledger.nfe == 16


@pytest.mark.parametrize("path", [rg.paths.EDM(), rg.paths.VP(), rg.paths.Flow()])
def test_the_branches_agree_at_both_ends(path):
    """In pure noise both predict that noise: without the rule that gamma must rise, nobody would ever be guided."""
    found = similarities(guided(path), rg.plan("ddim", path, nfe=20))
    assert found[0] > 0.999
    assert min(found) < 0.98
    assert found[-1] > 0.9999
    plan = rg.plan("ddim", path, nfe=20)
    assert rg.record(rg.guide.adaptive(guided(path), 0.99), plan, n=N, condition=LABELS).ledger.nfe > 28


def test_it_is_nearer_to_full_guidance_than_what_costs_the_same():
    path = rg.paths.Flow()
    den, plan = guided(path), rg.plan("ddim", path, nfe=20)
    full = rg.sample(den, plan, n=N, condition=LABELS)
    made = rg.record(rg.guide.adaptive(den, 0.99), plan, n=N, condition=LABELS)

    def distance(samples):
        return float((samples - full).pow(2).mean().sqrt())

    assert 28 < made.ledger.nfe < 31  # of 40: a quarter less
    generator, off = random.Random(0), []
    for _ in range(8):
        dark = generator.sample(range(20), 40 - round(made.ledger.nfe))
        rows = [dataclasses.replace(r, knobs={"guidance": 1.0}) if k in dark else r for k, r in enumerate(plan.rows)]
        off.append(distance(rg.sample(den, dataclasses.replace(plan, rows=tuple(rows)), n=N, condition=LABELS)))
    fewer = rg.sample(den, rg.plan("ddim", path, nfe=round(made.ledger.nfe / 2)), n=N, condition=LABELS)
    assert distance(made.samples) < sum(off) / len(off) / 5
    assert distance(made.samples) < distance(fewer)


@pytest.mark.parametrize("inner", ["cfg", "apg"])
def test_an_item_does_not_depend_on_its_batch(inner):
    path = rg.paths.VP()
    den = guided(path) if inner == "cfg" else rg.guide.apg(guided(path).inner, 2.0, radius=3.0)
    adapted, plan = rg.guide.adaptive(den, 0.98), rg.plan("dpmpp_2m", path, nfe=14)
    options = {"seed": 3, "dtype": torch.float64}
    together = rg.record(adapted, plan, n=6, condition=LABELS[:6], **options)
    singles = [rg.record(adapted, plan, n=1, items=[i], condition=LABELS[i : i + 1], **options) for i in range(6)]
    assert torch.allclose(together.samples, torch.cat([one.samples for one in singles]), atol=1e-9)
    costs = [one.ledger.nfe for one in singles]
    assert len(set(costs)) > 1
    assert together.ledger.nfe == pytest.approx(sum(costs) / 6)


def test_settings_that_mean_nothing_are_refused():
    den = guided(rg.paths.EDM())
    with pytest.raises(BadType, match="two|branch"):
        rg.guide.adaptive(den.inner, 0.99)
    with pytest.raises(BadValue, match="threshold=0"):
        rg.guide.adaptive(den, 0.0)
    with pytest.raises(UnknownName, match="nois"):
        rg.guide.adaptive(den, 0.99, on="nois")


@pytest.mark.slow
def test_digits_are_still_recognized():
    den, judge = rg.guide.cfg(rg.load("digits"), 2.0), rg.zoo.classifier()
    plan, labels = rg.plan("dpmpp_2m", den, nfe=12), [i % 10 for i in range(100)]
    right = []
    for guided_by in (den, rg.guide.adaptive(den, 0.99)):
        made = rg.record(guided_by, plan, n=100, condition=labels)
        right.append(int((judge(made.samples).argmax(1) == torch.tensor(labels)).sum()))
    assert right[1] >= right[0] - 1
    assert made.ledger.nfe < 0.9 * 24
