"""SEEDS: exponential methods of the reverse SDE, of one stage and of three, whose stages are on one noise.

The one of two stages is beside its kin in `dpmpp_sde`.
"""

from __future__ import annotations

import math

from retrograde.errors import BadValue
from retrograde.paths import Path
from retrograde.plan import Row
from retrograde.recipes.exponential_multistep import multistep_row
from retrograde.recipes.recipe import Level, noise_basis, recipe
from retrograde.recipes.recipe import level as level_at
from retrograde.recipes.res import points_between


def _phi_2(here: Level, there: Level, eta: float) -> float:
    """k phi_2(-k) of the step, k = (1 + eta) h."""
    k = (1.0 + eta) * (there.lam - here.lam)
    return 1.0 + math.expm1(-k) / k


def _row(
    path: Path, asked: Level, here: Level, target: Level, later: tuple[float, ...], seen: list[Level], eta: float
) -> Row:
    """The move from `here` to `target` with the weights `later` of the predictions after the first, oldest first.

    `seen` are the levels at which noise was drawn before; each draw decays from there on.
    """
    decay = (target.sigma / here.sigma) ** eta
    keep = decay * target.s / here.s
    gain = target.a - here.a * keep
    marks = [here, *seen, target]
    noises = []
    for before, after in zip(marks, marks[1:], strict=False):
        rest, own = (target.sigma / after.sigma) ** eta, (after.sigma / before.sigma) ** eta
        noises.append(target.s * rest * math.sqrt(max(1.0 - own * own, 0.0)))
    outputs = (*reversed(later), gain - math.fsum(later))
    return Row(
        asked.t, target.t, (*(0.0,) * len(later), keep), outputs, tuple(reversed(noises)) if eta else (), renoise=False
    )


@recipe(
    "seeds_1",
    order=1,
    basis=noise_basis,
    stochastic=True,
    approximate=True,
    summary="SEEDS-1 on the noise prediction: the exponential step of order one of the reverse SDE",
    paper={
        "title": "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling from Diffusion Models",
        "authors": ("Martin Gonzalez", "Nelson Fernandez", "Thuy Tran", "Elies Gherbi", "Hatem Hajri", "Nader Masmoudi"),
        "year": 2023,
        "arxiv": "2305.14267",
        "test": "tests/recipes/test_seeds.py::test_seeds_1_solves_the_sde_whose_noise_mean_stands_still",
    },
)
def seeds_1(path: Path, times: tuple[float, ...]) -> list[Row]:
    """x' = (a'/a) x - 2 s'(e^h - 1) E + s' sqrt(e^(2h) - 1) eps, one evaluation per step; arXiv 2305.14267.

    Exact for the reverse SDE with the noise mean of its begin. Data that is one point has another noise mean as soon as
    noise is added, so this misses it by terms of order h^2: a step leaves noise s' sqrt(1 + 2 (e^h - 1)^2). On the data
    prediction the step of order one is DDPM's, which does not. Weak order 1.
    """
    levels = [level_at(path, t) for t in times]
    steps = zip(levels, levels[1:], strict=False)
    return [multistep_row([here], there, "noise", eta=1.0) for here, there in steps]


@recipe(
    "seeds_3",
    order=2,
    evaluations=3,
    stochastic=True,
    summary="SEEDS-3 on the data prediction: three stages, noise split as in the SDE",
)
def seeds_3(
    path: Path,
    times: tuple[float, ...],
    stages: tuple[int, ...] = (),
    eta: float = 1.0,
    r_1: float = 1.0 / 3.0,
    r_2: float = 2.0 / 3.0,
) -> list[Row]:
    """x' = (s'/s) e^(-eta h) x + a'((k phi_1 - k phi_2/r_2) D + (k phi_2/r_2) D_2) + noise, k = (1 + eta) h; 2305.14267.

    D_2 is asked at r_2 h, where a step with D and D_1 (at r_1 h) leads. The noise of a stage contains that of the stages
    before. eta = 0 is a Runge-Kutta method of order 3; the noise caps the weak order at 2. Three evaluations per step; what
    is left of a budget goes to a step of two stages or of one.

    Raises:
        BadValue: not 0 < r_1 < r_2 < 1, or eta outside [0, 1].
    """
    if not 0.0 < r_1 < r_2 < 1.0 or not 0.0 <= eta <= 1.0:
        raise BadValue(f"r_1={r_1}, r_2={r_2}, eta={eta}", "0 < r_1 < r_2 < 1, 0 <= eta <= 1", "r_1=1/3, r_2=2/3, eta=1.0")
    levels = [level_at(path, t) for t in times]
    rows: list[Row] = []
    for here, there, count in zip(levels, levels[1:], stages, strict=False):
        if count == 1 or here.a == 0.0:
            rows += _endless(path, here, there, count, eta)
            continue
        one, two = points_between(path, here, there, (r_1, r_2))
        if count == 2:
            rows += [
                _row(path, here, here, two, (), [], eta),
                _row(path, two, here, there, (there.a * _phi_2(here, there, eta) / r_2,), [two], eta),
            ]
            continue
        rows += [
            _row(path, here, here, one, (), [], eta),
            _row(path, one, here, two, (two.a * (r_2 / r_1) * _phi_2(here, two, eta),), [one], eta),
            _row(path, two, here, there, (0.0, there.a * _phi_2(here, there, eta) / r_2), [one, two], eta),
        ]
    return rows


def _endless(path: Path, here: Level, there: Level, count: int, eta: float) -> list[Row]:
    """Steps of order one: a last cheap step, or one from a level without signal, which is infinitely long in log-SNR."""
    ratios = tuple((j + 1) / count for j in range(count))
    rows, asked = [], here
    for target in points_between(path, here, there, ratios):
        rows.append(_row(path, asked, asked, target, (), [], eta))
        asked = target
    return rows
