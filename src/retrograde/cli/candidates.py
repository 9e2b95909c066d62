"""The samplers a comparison looks at: every recipe on every grid at every budget, as plans."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator

from retrograde import recipes
from retrograde.cli.question import Question, digest
from retrograde.errors import BadValue, RetrogradeError
from retrograde.plan import Plan


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A sampler with its names: a recipe on a grid, or a plan (then `grid` is empty and `fitted` may hold)."""

    label: str
    grid: str
    nfe: int
    plan: Plan
    fitted: bool = False

    @property
    def key(self) -> str:
        """Digest of the table."""
        return digest(self.plan)

    @property
    def stochastic(self) -> bool:
        """Whether its end points belong to no start, so that only its quality can be compared."""
        return self.plan.stochastic


@dataclasses.dataclass(frozen=True)
class Failure:
    """Something that could not be made or measured, and why."""

    what: str
    why: str


def default_grids(question: Question) -> tuple[str, ...]:
    """Return the grids that are compared when none are named; the first is the usual one of the path."""
    path = question.denoiser.path
    endless = path.a(path.t_max) == 0.0
    return ("uniform", "quadratic", "log_snr", "cosine") if endless else ("karras", "shifted", "log_snr", "cosine")


def candidates(question: Question) -> Iterator[Candidate | Failure]:
    """Yield every recipe on every grid at every budget; a stochastic recipe on one grid only.

    Only its quality says anything of a stochastic recipe, and that takes many samples.
    """
    usual = default_grids(question)
    chosen = question.grids or usual
    first = [grid for grid in (*usual, *chosen) if grid in chosen][:1]
    for name in question.recipes:
        for grid in first if recipes.get(name).stochastic else chosen:
            for nfe in question.nfes:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        plan = recipes.plan(name, question.denoiser, nfe=nfe, grid=grid)
                except (RetrogradeError, ArithmeticError) as error:
                    why = error.given if isinstance(error, RetrogradeError) else repr(error)
                    yield Failure(f"{name} on {grid} at {nfe}", why)
                else:
                    yield Candidate(name, grid, nfe, plan)


def reference_plans(question: Question) -> tuple[Plan, Plan]:
    """Return two fine solvers of different families, on one grid, whose end points ought to agree.

    A network of discrete steps has them even: crowded levels would ask it at one of its steps twice.
    """
    grid = "uniform" if default_grids(question)[0] == "uniform" else "karras"
    try:
        return _fine(question, grid)
    except BadValue:
        return _fine(question, "uniform")


def _fine(question: Question, grid: str) -> tuple[Plan, Plan]:
    main, check = (recipes.plan(r, question.denoiser, nfe=question.reference_nfe, grid=grid) for r in ("dpmpp_3m", "heun"))
    return main, check
