"""AutoDiffusion: evolution against brute force and against chance; blocks left out."""

import dataclasses
import itertools
import random

import pytest
import torch

import retrograde as rg
from retrograde.baselines import Evolution, auto_diffusion, evolve
from retrograde.baselines.evolution import crossed, mutated
from retrograde.data import digits8
from retrograde.errors import BadValue
from retrograde.quality import frechet_distance
from retrograde.tune import Reference, teach
from retrograde.tune.teacher import levels_of

SMALL = Evolution(population=12, parents=5, mutants=8, children=3, rate=0.3, generations=20)


@pytest.fixture(scope="module")
def mixture():
    generator = torch.Generator().manual_seed(3)
    return rg.oracles.GaussianMixture(rg.paths.VP(), torch.randn(5, 4, generator=generator), 0.05)


@pytest.fixture(scope="module")
def score(mixture):
    reference = Reference(mixture, range(48), 0, teach(mixture, 48, 0, levels=96, keep=()).end)
    return lambda plan: float(reference.errors(plan).mean().sqrt())


@pytest.mark.parametrize("nfe", [1, 2, 3])
def test_evolution_finds_the_optimum_of_all_subsets(mixture, score, nfe):
    """The entry's exact check: brute force over a coarse grid, by half as many plans."""
    times = levels_of(mixture, 12)
    every = [score(rg.plan("ddim", mixture, grid=some)) for some in itertools.combinations(times, nfe)]
    made = auto_diffusion(mixture, nfe, score, levels=12, evolution=SMALL)
    assert made.nfe == nfe
    assert made.report["score"] == min(every) == score(made)
    assert nfe < 3 or made.report["tried"] < 0.5 * len(every)


def test_it_beats_even_levels_and_chance(mixture, score):
    """On noise that was not searched with, and at as many plans tried."""
    made = auto_diffusion(mixture, 4, evolution=dataclasses.replace(SMALL, generations=8), seed=1)
    times, dice = levels_of(mixture, 100), random.Random(2)
    draws = [sorted(dice.sample(range(100), 4)) for _ in range(made.report["tried"])]
    chance = min(score(rg.plan("ddim", mixture, grid=[times[k] for k in draw])) for draw in draws)
    assert score(made) < chance
    assert score(made) < 0.85 * score(rg.plan("ddim", mixture, grid=times[::25]))
    assert made.report["evaluations"] == 64 * 64 + made.report["tried"] * 4 * 64


@pytest.mark.slow
def test_the_frechet_distance_of_digits_falls_by_a_quarter():
    """The entry's check on a network, in the features of pixels, on fresh noise."""
    den, (images, _) = rg.load("digits8-flow"), digits8("all")

    def distance(plan, seed=0):
        made = rg.sample(den, plan, 200, seed, condition=[i % 10 for i in range(200)])
        return frechet_distance(made.flatten(1), images.flatten(1)).value

    made = auto_diffusion(den, 4, distance, evolution=dataclasses.replace(SMALL, generations=8))
    even = rg.plan("ddim", den, grid=levels_of(den, 100)[::25])
    assert distance(made, seed=1) < 0.75 * distance(even, seed=1)
    assert distance(made, seed=1) < 0.75 * distance(rg.plan("ddim", den, nfe=4, grid="uniform"), seed=1)


def test_an_evolution_that_has_no_parents_is_worse():
    """Of a score that neighbours share, mutation of the best finds more than as many fresh subsets."""
    target = set(range(0, 60, 6))
    score = lambda some: float(len(target - {*some}))  # noqa: E731
    found = evolve(score, 60, 10, evolution=Evolution(generations=30), seed=0)
    dice = random.Random(0)
    chance = min(score(dice.sample(range(60), 10)) for _ in range(len(found)))
    assert next(iter(found.values())) <= 1.0 < chance
    assert [*found.values()] == sorted(found.values())


def test_children_are_subsets_of_the_size_asked():
    dice = random.Random(0)
    for _ in range(200):
        one, other = (tuple(sorted(dice.sample(range(9), 4))) for _ in range(2))
        for made in (mutated(one, 9, 0.5, dice), crossed(one, other, dice)):
            assert len({*made}) == 4
            assert [*made] == sorted(made)
        assert {*crossed(one, other, dice)} <= {*one, *other}
    assert mutated((0, 1, 2), 3, 1.0, dice) == (0, 1, 2)


def test_blocks_that_hurt_least_are_left_out(mixture, score, tmp_path):
    """A made-up score of the masks alone: the second evolution finds the cheapest, and the rows ask for it."""

    obeys = dataclasses.replace(mixture, consumes=frozenset({"skip"}))
    price = {(0, 1): 0.0, (1, 2): 0.0, (2, 0): 0.0}
    asked = []

    def priced(plan):
        asked.append(plan)
        return sum(price.get((r, b), 1.0) for r, row in enumerate(plan.rows) for b in row.knobs.get("skip", ()))

    made = auto_diffusion(obeys, 3, priced, levels=12, blocks=3, skipped=3, evolution=SMALL, journal=tmp_path / "fit")
    assert [row.knobs["skip"] for row in made.rows] == [[1], [2], [0]]
    assert made.report["score"] == 0.0
    assert not (tmp_path / "fit").exists()
    assert all(not row.knobs for row in asked[0].rows)


def test_bad_input(mixture, score):
    with pytest.raises(BadValue, match="skip_blocks"):
        auto_diffusion(mixture, 3, score, blocks=3, skipped=2)
    with pytest.raises(BadValue, match="levels to choose from"):
        auto_diffusion(mixture, 13, score, levels=12)
    with pytest.raises(BadValue, match="one evaluation per step"):
        auto_diffusion(mixture, 4, score, recipe="heun")
    with pytest.raises(BadValue, match="mutants"):
        Evolution(population=10)
    with pytest.raises(BadValue, match="rising"):
        evolve(lambda some: 0.0, 5, 2, [(3, 1)])
