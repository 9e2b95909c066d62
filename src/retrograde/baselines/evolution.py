"""Evolution of a choice: which k of n (levels of a plan, blocks that its rows leave out) make the least score."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable

from retrograde.errors import BadValue

Subset = tuple[int, ...]
"""Some of the numbers 0..n-1, rising."""


@dataclasses.dataclass(frozen=True)
class Evolution:
    """Numbers of an evolutionary search, by default those of the published code.

    Attributes:
        population: members of a generation.
        parents: the best of all so far, which have children.
        mutants, children: members made from one and from two parents; the rest of the population is fresh.
        rate: probability that a mutation replaces a number.
        generations: how many follow the first.
    """

    population: int = 50
    parents: int = 10
    mutants: int = 25
    children: int = 15
    rate: float = 0.1
    generations: int = 20

    def __post_init__(self) -> None:
        least = min(self.population, self.parents, self.mutants, self.children, self.generations)
        if least < 1 or self.mutants + self.children > self.population or not 0.0 < self.rate <= 1.0:
            allowed = "numbers >= 1, mutants + children <= population, 0 < rate <= 1"
            raise BadValue(f"{self}", allowed, "Evolution(population=20, mutants=10, children=5)")


def fresh(n: int, k: int, dice: random.Random) -> Subset:
    """Return k of n, all as likely."""
    return tuple(sorted(dice.sample(range(n), k)))


def mutated(one: Subset, n: int, rate: float, dice: random.Random) -> Subset:
    """Return a subset whose numbers are each replaced, with probability `rate`, by one it does not have."""
    others = [number for number in range(n) if number not in one]
    lost = [number for number in one if dice.random() < rate][: len(others)]
    return tuple(sorted({*one} - {*lost} | {*dice.sample(others, len(lost))}))


def crossed(one: Subset, other: Subset, dice: random.Random) -> Subset:
    """Return a subset that takes every place from one of two parents; what comes twice is made up from both."""
    made = {dice.choice(pair) for pair in zip(one, other, strict=True)}
    rest = sorted({*one, *other} - made)
    return tuple(sorted(made | set(dice.sample(rest, len(one) - len(made)))))


def evolve(
    score: Callable[[Subset], float],
    n: int,
    k: int,
    start: Iterable[Subset] = (),
    evolution: Evolution | None = None,
    seed: int = 0,
    progress: Callable[[float], None] = lambda part: None,
) -> dict[Subset, float]:
    """Search the k of n with the least score; return every subset that was scored, best first.

    The first generation is `start`, mutations of it and fresh subsets, in equal parts. No subset is scored twice.

    Raises:
        BadValue: k is not in 1..n, or a start is no such subset.
    """
    evolution, start, dice = evolution or Evolution(), [tuple(one) for one in start], random.Random(seed)
    if not 1 <= k <= n or any(sorted({*one} & {*range(n)}) != [*one] or len(one) != k for one in start):
        raise BadValue(f"{k} of {n}, from {start}", "1 <= k <= n, starts of k rising numbers below n", "start=()")
    scores: dict[Subset, float] = {}

    def generation(members: Iterable[Subset]) -> None:
        for member in members:
            if member not in scores:
                scores[member] = score(member)

    half = evolution.population // 2 if start else 0
    generation(start)
    generation(mutated(dice.choice(start), n, evolution.rate, dice) for _ in range(half))
    generation(fresh(n, k, dice) for _ in range(evolution.population - half - len(start)))
    for number in range(evolution.generations):
        progress(number / evolution.generations)
        best = sorted(scores, key=lambda one: scores[one])[: evolution.parents]
        pairs = [(dice.choice(best), dice.choice(best)) for _ in range(evolution.children)]
        others = evolution.population - evolution.mutants - evolution.children
        generation(
            [
                *(mutated(dice.choice(best), n, evolution.rate, dice) for _ in range(evolution.mutants)),
                *(crossed(*pair, dice) for pair in pairs),
                *(fresh(n, k, dice) for _ in range(others)),
            ]
        )
    return dict(sorted(scores.items(), key=lambda pair: pair[1]))
