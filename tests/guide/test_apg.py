"""Projected guidance against another implementation, its bounds, and its memory: in the run, for each item."""

import dataclasses
import math

import pytest
import torch
from torch import nn

import retrograde as rg
from retrograde.errors import BadType, BadValue
from retrograde.quality import precision_recall
from retrograde.run import Resampled

PATH = rg.paths.VP()
SETTINGS = {"momentum": -0.5, "radius": 0.4, "parallel": 0.0}
LABELS = [0, 1, 2]


def drawn(den, plan, **options):
    return rg.sample(den, plan, n=3, condition=LABELS, dtype=torch.float64, **options)


@pytest.mark.diffusers
@pytest.mark.parametrize("settings", [SETTINGS, {"momentum": -0.75, "radius": math.inf, "parallel": 0.3}])
@pytest.mark.parametrize("recipe", ["ddim", "dpmpp_2m", "heun"])
def test_a_run_is_that_of_the_published_formula(recipe, settings, labelled):
    """The update of the authors, as other people wrote it, run beside: one buffer for the whole run."""
    from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

    weight, den, plan = 6.0, labelled(PATH), rg.plan(recipe, PATH, nfe=10)
    guided = rg.guide.apg(den, weight, **settings)
    buffer, label = MomentumBuffer(settings["momentum"]), torch.tensor(LABELS)
    radius = 0.0 if math.isinf(settings["radius"]) else settings["radius"]
    x = rg.record(guided, plan, n=3, condition=LABELS, dtype=torch.float64).trajectory[0]
    compared = 0
    for state in rg.steps(plan, guided, n=3, condition=LABELS, dtype=torch.float64):
        if state.row.time is not None and state.prediction is not None:
            conditional, null = (den.predict(x, state.row.time, c).data for c in ({"label": label}, {}))
            theirs = normalized_guidance(
                conditional, null, weight - 1.0, buffer, settings["parallel"], radius, use_original_formulation=True
            )
            assert torch.allclose(state.prediction.data, theirs, rtol=1e-9, atol=1e-9)
            compared += 1
        x = state.x_t
    assert compared == plan.nfe


def test_without_its_parts_it_is_guidance_bit_by_bit(labelled):
    den, plan = labelled(PATH, "v"), rg.plan("dpmpp_2m", PATH, nfe=6)
    null = rg.guide.apg(den, 5.0, momentum=0.0, parallel=1.0)
    assert torch.equal(drawn(null, plan), drawn(rg.guide.cfg(den, 5.0), plan))
    assert torch.equal(drawn(rg.guide.apg(den, 1.0, **SETTINGS), plan), drawn(den, plan))
    nearly = rg.guide.apg(den, 5.0, momentum=0.0, parallel=1.0, radius=1e9)
    assert torch.allclose(drawn(nearly, plan), drawn(rg.guide.cfg(den, 5.0), plan), rtol=1e-9, atol=1e-9)


def test_the_update_is_orthogonal_and_bounded(labelled, x):
    for weight in (2.0, 8.0):
        made = rg.guide.apg(labelled(PATH), weight, **SETTINGS)(x, 0.5, label=0)
        towards = made.parts["conditional"].data
        update = made.data - towards
        assert (update * towards).sum(1).abs().max() < 1e-12
        assert update.norm(dim=1).max() <= (weight - 1.0) * SETTINGS["radius"] * (1 + 1e-12)
        assert update.norm(dim=1).max() > 0.01


@pytest.mark.parametrize("recipe", ["ddim", "heun"])
def test_it_is_the_same_for_every_parameterization(recipe, labelled):
    plan = rg.plan(recipe, PATH, nfe=8)
    one, *others = (
        drawn(rg.guide.apg(labelled(PATH, k), 7.0, **SETTINGS), plan) for k in ("data", "noise", "v", "velocity")
    )
    for other in others:
        assert torch.allclose(one, other, rtol=1e-7, atol=1e-7)


def test_the_momentum_lives_in_the_run(labelled):
    """A second run begins anew, a batch is its items, and a run that is cut and continued is the whole one, bit by bit."""
    guided, plan = rg.guide.apg(labelled(PATH), 7.0, **SETTINGS), rg.plan("dpmpp_2m", PATH, nfe=8)
    whole = drawn(guided, plan)
    assert torch.equal(drawn(guided, plan), whole)
    assert torch.equal(drawn(guided, plan, batch_size=2), whole)
    for state in rg.steps(plan, guided, n=3, condition=LABELS, dtype=torch.float64):
        if 0 < state.index < len(plan) - 1:
            rest = plan[state.index + 1 :]
            assert torch.equal(drawn(guided, rest, state=state), whole)
            assert torch.equal(drawn(guided, rest, state=state, batch_size=2), whole)
            forgotten = dataclasses.replace(state, memory=dataclasses.replace(state.memory, carried={}))
            assert not torch.equal(drawn(guided, rest, state=forgotten), whole)


def test_the_momentum_goes_with_resampled_items(labelled):
    guided, plan = rg.guide.apg(labelled(PATH), 7.0, **SETTINGS), rg.plan("ddim", PATH, nfe=6)

    class Swap:
        def resample(self, state, noise):
            return Resampled(torch.tensor([2, 1, 0])) if state.index == 2 else None

    swapped = rg.sample(guided, plan, n=3, condition=0, particles=Swap(), dtype=torch.float64)
    plain = rg.sample(guided, plan, n=3, condition=0, dtype=torch.float64)
    assert torch.allclose(swapped, plain[[2, 1, 0]], rtol=1e-12, atol=1e-12)


def test_nested_transforms_remember_each_its_own(labelled):
    """A threshold, an interval, another path and a negative prompt's branch change nothing of the memory."""
    den, plan = labelled(PATH), rg.plan("ddim", PATH, nfe=6)
    guided = rg.guide.apg(den, 7.0, **SETTINGS)
    wide = rg.guide.rescale(rg.guide.interval(rg.guide.threshold(guided, None, limit=1e9)), 0.0)
    assert torch.allclose(drawn(wide, plan), drawn(guided, plan), rtol=1e-9, atol=1e-9)
    # guidance of a guided denoiser at weight 1 and beyond: the branch has the momentum of its own
    assert torch.equal(drawn(rg.guide.cfg(guided, 1.0), plan), drawn(guided, plan))
    memories = [s.memory.carried for s in rg.steps(plan, rg.guide.cfg(guided, 2.0), n=3, condition=LABELS)]
    assert memories[-1].keys() == {"conditional/apg", "unconditional/apg"}
    assert all(len(memory) == 3 for memory in memories[-1].values())
    assert memories[-1]["unconditional/apg"].abs().max() == 0.0
    edm = rg.plan("ddim", rg.paths.EDM(), nfe=6, start=30.0, sigma_min=0.02)
    elsewhere = rg.guide.apg(labelled(rg.paths.EDM()), 7.0, **SETTINGS)
    assert torch.allclose(drawn(guided, edm), drawn(elsewhere, edm), atol=1e-7)


def test_strong_guidance_saturates_less():
    """Two classes at -0.8 and 0.8: projected guidance stays nearer to them than plain guidance of the same weight."""
    means = torch.tensor([-0.8, 0.8]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    den = rg.oracles.GaussianMixture(PATH, means=means, covariances=0.01, labels=[0, 1])
    plan = rg.plan("dpmpp_2m", PATH, nfe=15)
    wild = rg.sample(rg.guide.cfg(den, 12.0), plan, n=8, condition=1)
    tame = rg.sample(rg.guide.apg(den, 12.0), plan, n=8, condition=1)
    assert wild.mean() > 0.85
    assert (tame.mean() - 0.8).abs() < 0.2 * (wild.mean() - 0.8).abs()


def perceptron_of_digits() -> nn.Sequential:
    """Tells small digits apart; its features are all but the last layer."""
    images, classes = rg.data.digits8("train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 10)
        )
    optimizer, generator = torch.optim.Adam(network.parameters(), lr=2e-3), torch.Generator().manual_seed(0)
    for _ in range(600):
        chosen = torch.randint(len(images), (128,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[chosen].float()), classes[chosen]).backward()
        optimizer.step()
    return network.requires_grad_(False)


@pytest.mark.slow
def test_on_digits_it_saturates_less_recalls_more_and_tells_the_same_class():
    """Weight 8 on the embedded small digits, 16 steps of DDIM: the entry's directions, in a classifier's features.

    `benchmarks/strong_guidance.py` measures other weights: at 15 they hold too.
    """
    den, n, network = rg.load("digits8-flow"), 200, perceptron_of_digits()
    plan, label = rg.plan("ddim", den.path, nfe=16), torch.arange(n) % 10
    real = network[:-1](rg.data.digits8("test")[0][:n].float())
    beyond, right, recall = [], [], []
    for guided in (rg.guide.cfg(den, 8.0), rg.guide.apg(den, 8.0, momentum=-0.5)):
        made = rg.sample(guided, plan, n=n, seed=0, condition=label)
        beyond.append(float((made.abs() > 1.01).double().mean()))
        right.append(float((network(made).argmax(1) == label).double().mean()))
        recall.append(precision_recall(network[:-1](made), real)[1].value)
    assert beyond[1] < 0.7 * beyond[0]
    assert recall[1] > recall[0] + 0.05
    assert min(right) > 0.95
    assert right[1] >= right[0] - 0.02


def test_mistakes_are_explained(labelled, mixture):
    with pytest.raises(BadType, match="takes no condition"):
        rg.guide.apg(mixture(PATH), 2.0)
    for wrong in ({"momentum": 1.0}, {"radius": 0.0}, {"parallel": math.nan}):
        with pytest.raises(BadValue, match="momentum="):
            rg.guide.apg(labelled(PATH), 2.0, **wrong)
