"""The tuner: fits a plan to one denoiser and one budget."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from retrograde import recipes
from retrograde.denoisers import AbstractDenoiser, checked_denoiser, prepare_condition
from retrograde.errors import BadType, BadValue, UnknownName
from retrograde.plan import Plan
from retrograde.sampling import sample
from retrograde.tune.contest import Reference
from retrograde.tune.correct import Lesson, affordable, multiplications
from retrograde.tune.corrected import CorrectedFit
from retrograde.tune.effort import EFFORTS, Effort
from retrograde.tune.even_levels import EvenLevels, depths_of
from retrograde.tune.families import cosines
from retrograde.tune.fit import Fitter
from retrograde.tune.journal import Journal
from retrograde.tune.levels import Levels, Limited, OnPolicy, Surrogate, by_first, descend, starts
from retrograde.tune.rivals import Rivals
from retrograde.tune.teacher import Progress, Teacher, teach
from retrograde.tune.variants import select

ITEMS = 1 << 40
"""Number of the first training item: far from those a user samples."""

DECODED = 32
"""Held-out items of a latent model that are decoded, a few at once, to measure errors in data."""

MOMENTS_NFE = 6
"""Evaluations for each sample of which only mean and covariance are used."""

SEEN = 4
"""Predictions that a correction sees."""

EACH = 4
"""Levels of the reference for each evaluation of the plan, at least: a coarser one would limit the fit. With 28 levels a fit
of 16 evaluations was three times as far from the flow as with 40, one of 8 a third farther than with 36."""


def tune(
    denoiser: AbstractDenoiser,
    nfe: int,
    *,
    seed: int = 0,
    effort: str | Effort = "seconds",
    condition: Any = None,
    compare: bool = True,
    in_scheduler: bool = False,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
    journal: str | PathLike[str] | None = None,
    trajectories: str | PathLike[str] | None = None,
) -> Plan:
    """Fit a plan of exactly `nfe` evaluations to a denoiser, and measure it on noise it has not seen.

    Reference trajectories are made by a fine published solver. Sets of noise levels are ranked by a surrogate that needs no
    network, the best are refined with the on-policy ridge regression inside (see `retrograde.tune.fit`), and the ridge is
    chosen on a validation split. If the best published solver of the same budget is better there, it is returned instead.

    Args:
        denoiser: anything that predicts, guidance included.
        effort: "seconds", "minutes" or "hours", or an `Effort`.
        condition: what `sample` takes for one item or all; or a function (n, seed) to conditions for n items.
        compare: race the published solvers at this budget and at twice it, for the report (and the safeguard).
        in_scheduler: fit what `interop.diffusers.PlanScheduler` can run: a plan that begins with an evaluation, at a level
            at which noise alone may stand for a state, and whose corrections are told no conditions. A little less exact.
        progress: called with the stage and the part done.
        journal: a folder for finished parts: the same call again goes on where an interrupted one was, and ends at the same
            plan. It holds the reference trajectories (as much as they take in memory), and is removed at the end.
        trajectories: a folder in which the reference trajectories stay, at all levels: fits of other budgets with the same
            denoiser, seed, effort and conditions learn from them too, and end where they would have without it.

    Returns:
        A plan whose `report` holds the held-out figures: "error" (root mean square distance to the reference end points,
        per element), "median" (over items), "reference_error" (how far those end points may be from the truth), the best
        recipe at the same and at twice the budget, all raced entries, the seconds and the network evaluations (over all
        items, and by part) of the whole call; of a latent model under "pixels" error and median of what is decoded, for
        some of the items.

    Raises:
        BadValue: nfe < 1.
        UnknownName: no such effort.

    Reference: closed-form fits of samplers begin with OLSS (Duan et al., 2023, arXiv 2305.14677; see `baselines`), levels
    chosen on local errors with GITS (Chen et al., 2024, arXiv 2405.11326).
    """
    check_fittable(denoiser)
    if not isinstance(nfe, int) or nfe < 1:
        raise BadValue(f"nfe={nfe}", "a whole number, nfe >= 1", "nfe=4")
    if isinstance(effort, str):
        if effort not in EFFORTS:
            raise UnknownName("effort", effort, EFFORTS)
        effort = EFFORTS[effort]
    effort = dataclasses.replace(effort, levels=max(effort.levels, EACH * nfe))
    for bands in effort.bands:
        cosines(tuple(denoiser.shape), bands)  # refuses what has none before any work
    tell = progress or _silent
    job = Job(denoiser, nfe, seed, effort, condition, tell, device)
    prepared = job.conditions()
    if journal is not None:
        job = dataclasses.replace(job, journal=job.opened(journal, prepared, in_scheduler))
    if trajectories is not None:
        job = dataclasses.replace(job, kept=dataclasses.replace(job, nfe=0).opened(trajectories, prepared))
    teacher = job.trajectories(prepared)
    fitter = Fitter(
        denoiser,
        teacher.part(slice(0, effort.fit)),
        {k: v[: effort.fit] for k, v in prepared.items()},
        memory=effort.memory,
        past=effort.past,
        samples=job.samples(prepared),
        in_scheduler=in_scheduler,
    )
    validation = job.reference(teacher, prepared, effort.fit, effort.fit + effort.validation)
    held_out = job.reference(teacher, prepared, effort.fit + effort.validation, teacher.n)
    spent = {"reference": teacher.evaluations * teacher.n, "moments": effort.moments * MOMENTS_NFE}
    candidates, spent["levels"] = job.levels(fitter)
    fitted, error, spent["coefficients"] = select(fitter, candidates, validation, effort, tell)
    form = affordable(denoiser, min(nfe, SEEN), effort.share, prepared) if effort.corrected else None
    if form is not None:
        few, lesson = dataclasses.replace(fitter, memory=SEEN), Lesson(**form, epochs=effort.epochs)
        corrected, its_error, spent["corrections"] = job.correct(few, candidates, validation, error, prepared, lesson)
        fitted, error = (corrected, its_error) if its_error < error else (fitted, error)
    doubt, spent["reference error"] = job.doubt(validation)
    report: dict[str, Any] = {
        "returned": "fitted",
        "validation_error": error,
        "reference_error": doubt,
        "corrections": job.cost(fitted, prepared),
        "items": {"fit": effort.fit, "validation": effort.validation, "held_out": effort.held_out},
    }
    if compare:
        rivals = Rivals.raced(effort, nfe, validation, held_out, tell, job.journal)
        spent["published solvers"] = rivals.evaluations
        report |= rivals.report
        if rivals.chosen is not None and rivals.chosen.error < error:
            fitted, report["returned"] = rivals.plan(), rivals.returned
    errors = held_out.errors(fitted).double()
    spent["held out"] = len(held_out.items) * fitted.nfe
    report |= {"error": float(errors.mean().sqrt()), "median": float(errors.sqrt().median())}
    if denoiser.codec is not None:
        report["pixels"] = job.decoded(fitted, held_out)
    provenance = {"tuner": "closed form, on policy", "nfe": nfe, "seed": seed, "effort": dataclasses.asdict(effort)}
    provenance |= {"in_scheduler": True} if in_scheduler else {}
    report |= {"seconds": round(job.journal.seconds, 3), "evaluations": sum(spent.values()), "evaluations_by_part": spent}
    job.journal.done()
    tell("done", 1.0)
    return dataclasses.replace(fitted, report=report, provenance={**fitted.provenance, **provenance})


def _silent(stage: str, part: float) -> None:
    pass


def check_fittable(denoiser: AbstractDenoiser) -> None:
    """Refuse what is no denoiser, or one whose trajectories hang on an anchor."""
    checked_denoiser(denoiser)
    if denoiser.path.anchored:
        raise BadType(
            f"a denoiser of the anchored path {denoiser.path.name!r}",
            "a path without anchor: the plan made there runs with anchor=y",
            "tune(retrograde.denoisers.on_path(denoiser, retrograde.paths.EDM(low, high)), ...) for its levels low to high",
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """One call of `tune`, or the part of a universal fit at one guidance weight."""

    denoiser: AbstractDenoiser
    nfe: int
    seed: int
    effort: Effort
    condition: Any
    tell: Callable[[str, float], None]
    device: torch.device | str
    journal: Journal = dataclasses.field(default_factory=Journal)
    kept: Journal | None = None

    @property
    def items(self) -> int:
        """Number of the reference trajectories, over all splits."""
        return self.effort.fit + self.effort.validation + self.effort.held_out

    def conditions(self) -> dict[str, Tensor]:
        """Return the conditions of the reference trajectories."""
        given = self.condition(self.items, self.seed) if callable(self.condition) else self.condition
        return prepare_condition(self.denoiser, given, self.items, self.device)

    def opened(self, folder: str | PathLike[str], prepared: dict[str, Tensor], *more: Any) -> Journal:
        """Return the journal of this call: what decides its parts is the question, and the network's answer to noise."""
        denoiser, told = self.denoiser, hashlib.sha256()
        for name in sorted(prepared):
            told.update(name.encode() + prepared[name].cpu().float().numpy().tobytes())
        question = [denoiser.path.fingerprint, denoiser.name, list(denoiser.shape), told.hexdigest(), *more]
        question += [self.nfe, self.seed, dataclasses.asdict(self.effort)]
        plan = recipes.plan("ddim", denoiser, nfe=2)
        few = {name: value[:2] for name, value in prepared.items()}
        return Journal(folder, question, sample(denoiser, plan, 2, self.seed, condition=few, device=self.device))

    def trajectories(self, prepared: dict[str, Tensor]) -> Teacher:
        """Return the reference trajectories of all splits."""

        def made() -> dict[str, Tensor]:
            return teach(
                self.denoiser,
                self.items,
                self.seed,
                levels=self.effort.levels,
                recipe=self.effort.teacher,
                first_item=ITEMS,
                condition=prepared,
                progress=self.tell,
                device=self.device,
            ).tensors()

        return Teacher.of((self.kept or self.journal).tensors("trajectories", made), self.device)

    def samples(self, prepared: dict[str, Tensor]) -> Tensor:
        """Return end points of a quick recipe, [m, d], for the moments of the denoiser's data.

        The moments want many samples more than exact ones: those of the few trajectories would fit their noise.
        """
        self.tell("moments", 0.0)
        m = self.effort.moments
        condition = {name: value[torch.arange(m) % len(value)] for name, value in prepared.items()}
        plan = recipes.plan("dpmpp_2m", self.denoiser, nfe=MOMENTS_NFE, grid="shifted")
        items = range(2 * ITEMS, 2 * ITEMS + m)

        def made() -> dict[str, Tensor]:
            given = {"condition": condition, "items": items, "batch_size": 128, "device": self.device}
            return {"end": sample(self.denoiser, plan, m, self.seed, **given).flatten(1).float()}

        return (self.kept or self.journal).tensors("samples", made)["end"].to(self.device)

    def reference(self, teacher: Teacher, prepared: dict[str, Tensor], low: int, high: int) -> Reference:
        """Return a split as something plans can be measured on."""
        condition = {k: v[low:high] for k, v in prepared.items()}
        return Reference(self.denoiser, range(ITEMS + low, ITEMS + high), self.seed, teacher.end[low:high], condition)

    def levels(self, fitter: Fitter) -> tuple[list[Levels], int]:
        """Return promising sets of levels, best first, and the network evaluations spent on finding them."""
        n, size = self.effort.search, len(fitter.teacher.times)
        small = fitter.part(n)
        if self.nfe > size:
            raise BadValue(
                f"nfe={self.nfe}", f"nfe <= {size} for this effort and network", "use a recipe: it is exact enough"
            )
        surrogate = Surrogate.of(small)
        found: dict[Levels, float] = {}
        for start in starts(small.teacher, self.nfe, self.effort.starts, self.seed):
            levels, value = descend(surrogate, start, size)
            found[levels] = value
        ranked = sorted(found, key=lambda levels: found[levels])
        even, spent = self.even(fitter.part(n // 4))
        ranked = list(dict.fromkeys([*even, *ranked]))
        policy = OnPolicy(small, self.journal)
        chosen: dict[Levels, float] = {}
        effort, each = self.effort, self.effort.firsts + self.effort.candidates
        for i, begun in enumerate(ranked[: effort.refined]):
            start, tried, most = begun, i * each, effort.refined * each
            if effort.firsts:
                score = Limited(policy, tried + effort.firsts, self.tell, "noise levels", most)
                start = by_first(surrogate, score, begun, size)
            bound = None if effort.gate is None else (surrogate, effort.gate * surrogate(start))
            score = Limited(policy, tried + each, self.tell, "noise levels", most, bound)
            levels, value = descend(score, start, size, (2, 1) if effort.firsts else (4, 2, 1))
            chosen[levels] = value
        return sorted(chosen, key=lambda levels: chosen[levels]), policy.evaluations * n + spent

    def even(self, few: Fitter) -> tuple[list[Levels], int]:
        """Return the best of the sets of levels that three decide, if it is asked for, and the evaluations spent."""
        if not self.effort.even or self.nfe < 3:
            return [], 0
        policy = OnPolicy(few, self.journal, "even")
        score = Limited(policy, self.effort.even, self.tell, "even noise levels", self.effort.even)
        depths = depths_of(few.teacher.times, self.denoiser.path.sigma)
        return [EvenLevels(depths, self.nfe, score).best()], policy.evaluations * few.teacher.n

    def correct(
        self,
        fitter: Fitter,
        candidates: Sequence[Levels],
        validation: Reference,
        error: float,
        prepared: dict[str, Tensor],
        lesson: Lesson,
    ) -> tuple[Plan, float, int]:
        """Return the fit with corrections, its validation error and the evaluations spent."""
        n = self.effort.corrected
        if callable(self.condition):
            condition = prepare_condition(self.denoiser, self.condition(n, self.seed + 1), n, self.device)
        else:
            condition = {name: value[torch.arange(n) % len(value)] for name, value in prepared.items()}
        fit = CorrectedFit(
            fitter,
            validation,
            n,
            self.effort.lessons,
            lesson,
            self.seed,
            3 * ITEMS,
            condition,
            self.tell,
            self.device,
            self.journal,
            self.kept,
        )

        def made() -> dict[str, Any]:
            plan, its_error, spent = fit.run(candidates, error)
            self.journal.plan("corrected", lambda: plan)
            return {"error": its_error, "spent": spent}

        kept = self.journal.value("corrected", made)
        return self.journal.plan("corrected", lambda: fit.run(candidates, error)[0]), kept["error"], kept["spent"]

    def doubt(self, validation: Reference) -> tuple[float, int]:
        """Return how far the reference may be from the truth, and the evaluations spent on it.

        A run of half as many levels is at least 2^p times as far off, so 1/(2^p - 1) of what lies between both; p is the
        order of the recipe, and no more than three is trusted. A plan cannot be judged below it, nor learn what the
        reference does not know.
        """
        few, recipe = validation.part(min(32, self.effort.validation // 2 or 1)), self.effort.teacher

        def made() -> tuple[float, int]:
            given = {"levels": max(2, self.effort.levels // 2), "keep": (), "condition": few.condition, "recipe": recipe}
            half = teach(self.denoiser, len(few.items), self.seed, first_item=few.items[0], device=self.device, **given)
            apart = float((half.end - few.end).square().mean(dtype=torch.float64).sqrt())
            return apart / (2.0 ** min(recipes.get(recipe).order, 3) - 1.0), half.evaluations * half.n

        far, spent = self.journal.value("reference error", made)
        return far, spent

    def cost(self, plan: Plan, prepared: dict[str, Tensor]) -> dict[str, float] | None:
        """Return the number of weights of a plan's corrections, and what they cost in evaluations; None without any."""
        corrections = [row.correction for row in plan.rows if row.correction is not None]
        if not corrections:
            return None
        made = sum(c.multiplications for c in corrections)
        return {
            "weights": sum(c.parameters for c in corrections),
            "evaluations": made / max(multiplications(self.denoiser, prepared), 1.0),
        }

    def decoded(self, fitted: Plan, held_out: Reference) -> dict[str, float]:
        """Return the plan's error in data, where states are latents, over the first held-out items."""
        if self.denoiser.codec is None:
            return {}
        few = held_out.part(DECODED)
        codec = dataclasses.replace(self.denoiser.codec, batch_size=self.denoiser.codec.batch_size or 4)
        ours, theirs = (codec.decode(z.reshape(-1, *self.denoiser.shape)) for z in (few.run(fitted), few.end))
        errors = (ours - theirs).double().pow(2).flatten(1).mean(1)
        return {"error": float(errors.mean().sqrt()), "median": float(errors.sqrt().median()), "items": len(errors)}
