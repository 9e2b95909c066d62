"""AutoDiffusion: the levels of a few steps, and the blocks each step leaves out, by evolution on any score."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from os import PathLike
from typing import Any

from retrograde import recipes, systems
from retrograde.baselines.evolution import Evolution, Subset, evolve
from retrograde.baselines.gits import FIRST_ITEM, one_evaluation
from retrograde.denoisers import AbstractDenoiser, prepare_condition
from retrograde.errors import BadValue
from retrograde.plan import Plan
from retrograde.run import NonFinite
from retrograde.tune.contest import Reference
from retrograde.tune.effort import EFFORTS
from retrograde.tune.journal import Journal
from retrograde.tune.teacher import Progress, levels_of, teach
from retrograde.tune.tuner import Job

Score = Callable[[Plan], float]
"""What is searched for, the smaller the better: a Frechet distance of samples, or a distance to a fine solver's."""

SKIP = "skip"
"""The knob that `accelerate.skip_blocks` obeys."""


def auto_diffusion(
    denoiser: AbstractDenoiser,
    nfe: int,
    score: Score | None = None,
    *,
    recipe: str = "ddim",
    seed: int = 0,
    n: int = 64,
    levels: int = 100,
    blocks: int = 0,
    skipped: int = 0,
    evolution: Evolution | None = None,
    condition: Any = None,
    progress: Progress | None = None,
    journal: str | PathLike[str] | None = None,
) -> Plan:
    """Return a published solver on the levels that evolve to the least score, and, where asked, on the least blocks.

    First an evolution chooses the `nfe` levels, with all blocks. Then, on these levels, a second one chooses which
    `skipped` of the nfe x `blocks` blocks are left out, so that the plan costs that much less. Nothing is trained.

    Args:
        score: called once for each plan that is tried; a noisy one should draw the same noise each time. By default the
            root mean square distance to the end points of a fine solver, of n items under these conditions.
        recipe: a multistep solver of one evaluation per step.
        levels: how many levels the plan's are chosen from.
        blocks: how many the network has (`len(rg.sites.find(network).blocks)`), where some are left out; the denoiser is
            then one of `rg.accelerate.skip_blocks`.
        skipped: how many of the nfe x blocks are left out.
        journal: a folder for the scores, so that an interrupted search goes on; removed at the end. A score of your own
            wants a folder of its own.

    Returns:
        The plan; its report has the "score", that of the even levels it began with, and how many plans were "tried".

    Raises:
        BadValue: a recipe of several evaluations per step, fewer levels than evaluations, or blocks that there are not.

    Reference: Li et al., AutoDiffusion, 2023, arXiv 2309.10438.
    """
    one_evaluation(recipe)
    times = levels_of(denoiser, levels)
    if not 1 <= nfe <= len(times):
        raise BadValue(f"nfe={nfe}", f"1 to {len(times)}, the levels to choose from", f"levels={2 * nfe}")
    if skipped and not (0 < skipped < nfe * blocks and SKIP in denoiser.consumes):
        given = f"skipped={skipped} of {nfe} x {blocks} blocks, by a denoiser that obeys {sorted(denoiser.consumes)}"
        mend = "auto_diffusion(rg.accelerate.skip_blocks(denoiser), nfe, blocks=12, skipped=10)"
        raise BadValue(given, "fewer than there are, by a denoiser that leaves out blocks", mend)
    given, evaluations = distance(denoiser, n, seed, condition) if score is None else (score, 0)
    tell = progress or (lambda stage, part: None)
    space = recipe, times, blocks, skipped
    book = opened(journal, denoiser, nfe, seed, n, condition, "auto_diffusion", score is None, *space)

    def made(chosen: Subset, left_out: Subset) -> Plan:
        return without(recipes.plan(recipe, denoiser, grid=[times[k] for k in chosen]), left_out, blocks)

    def scored(chosen: Subset, left_out: Subset) -> float:
        return book.value(f"{chosen} without {left_out}", lambda: finite(given, made(chosen, left_out)))

    even = tuple(i * len(times) // nfe for i in range(nfe))
    found = evolve(
        lambda some: scored(some, ()), len(times), nfe, [even], evolution, seed, functools.partial(tell, "levels")
    )
    best, left_out = next(iter(found)), ()
    tried, least = len(found), found[best]
    if skipped:
        stage = functools.partial(tell, "blocks")
        masks = evolve(lambda mask: scored(best, mask), nfe * blocks, skipped, (), evolution, seed, stage)
        left_out = next(iter(masks))
        tried, least = tried + len(masks), masks[left_out]
    book.done()
    evaluations += tried * nfe * n if score is None else 0
    report = {"score": least, "even": found[even], "tried": tried, "evaluations": evaluations}
    plan = made(best, left_out)
    provenance = {**plan.provenance, "tuner": "auto_diffusion", "nfe": nfe, "seed": seed}
    return dataclasses.replace(plan, report=report, provenance=provenance)


def opened(
    journal: str | PathLike[str] | None, denoiser: AbstractDenoiser, nfe: int, seed: int, n: int, condition: Any, *more: Any
) -> Journal:
    """Return the journal of a search: what decides its scores is the question, and the network's answer to noise."""
    if journal is None:
        return Journal()
    job = Job(denoiser, nfe, seed, EFFORTS["seconds"], condition, lambda stage, part: None, "cpu")
    return job.opened(journal, prepare_condition(denoiser, condition, n), n, *more)


def finite(score: Score, plan: Plan) -> float:
    """Return the score of a plan; infinity where the network or the score is not finite there."""
    try:
        value = float(score(plan))
    except NonFinite:
        return math.inf
    return value if math.isfinite(value) else math.inf


def distance(denoiser: AbstractDenoiser, n: int, seed: int, condition: Any) -> tuple[Score, int]:
    """Return the root mean square distance of n samples to a fine solver's end points, and the evaluations of that one."""
    prepared = prepare_condition(denoiser, condition, n)
    fine = teach(denoiser, n, seed, keep=(), first_item=FIRST_ITEM, condition=prepared)
    reference = Reference(denoiser, range(FIRST_ITEM, FIRST_ITEM + n), seed, fine.end, prepared)
    return (lambda plan: float(reference.errors(plan).mean().sqrt())), fine.evaluations * n


def without(plan: Plan, left_out: Subset, blocks: int) -> Plan:
    """Return a plan whose rows leave out blocks: number r * blocks + b is block b in the r-th row that asks."""
    if not left_out:
        return plan
    rows, asking = [], 0
    for row in plan.rows:
        if row.time is not None:
            skip = [number - asking * blocks for number in left_out if asking * blocks <= number < (asking + 1) * blocks]
            row = dataclasses.replace(row, knobs={**row.knobs, SKIP: skip} if skip else row.knobs)
            asking += 1
        rows.append(row)
    return dataclasses.replace(plan, rows=tuple(rows), report=None)


systems.register(
    systems.System(
        title="AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for Automated Diffusion Model "
        "Acceleration",
        authors=(
            "Lijiang Li",
            "Huixia Li",
            "Xiawu Zheng",
            "Jie Wu",
            "Xuefeng Xiao",
            "Rui Wang",
            "Min Zheng",
            "Xin Pan",
            "Fei Chao",
            "Rongrong Ji",
        ),
        year=2023,
        arxiv="2309.10438",
        home="tune",
        call="rg.baselines.auto_diffusion(denoiser, nfe=4)",
        test="tests/baselines/test_auto_diffusion.py::test_evolution_finds_the_optimum_of_all_subsets",
    )
)
