"""Generic searches: any family of plans, any score, by optuna; kept in a file, resumed, shared by several processes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

from retrograde import grids, recipes
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, MissingExtra, RetrogradeError
from retrograde.plan import Plan
from retrograde.run import NonFinite
from retrograde.tune.contest import USUAL_RECIPES
from retrograde.tune.teacher import Progress

if TYPE_CHECKING:
    import optuna

Propose = Callable[[Any], Plan]
"""From an optuna trial, whose suggest methods it calls, to a plan."""

OPTIONS: dict[str, tuple[float, float]] = {
    "rho": (1.0, 15.0),
    "power": (0.5, 4.0),
    "shift": (0.3, 8.0),
    "mean": (-2.0, 2.0),
    "std": (0.3, 2.0),
}
"""Ranges of the options of grids that `published` varies."""


def study(
    propose: Propose,
    score: Callable[[Plan], float],
    trials: int = 100,
    *,
    seed: int = 0,
    sampler: optuna.samplers.BaseSampler | None = None,
    journal: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Return the plan with the least score out of `trials` that optuna proposes; the defaults of its TPE sampler.

    Args:
        propose: makes a plan of a trial; `published(denoiser, nfe)` is one. What raises an error of this library, for two
            choices do not go together, counts as tried and is left out.
        score: the smaller the better; of a noisy one fix the seed of its samples.
        trials: how many in all, those of the journal included.
        seed: of the sampler; processes that share a journal take one each.
        sampler: another one of optuna's (`CmaEsSampler` for numbers alone, `NSGAIISampler`, `RandomSampler`).
        journal: a file. A search that is called again goes on where it was, and processes that search with the same file
            at the same time share their trials. It stays, for optuna's own tools to read. Another score wants another file.

    Returns:
        The plan; its report has the "score", the "parameters" and how many "trials" were scored.

    Raises:
        MissingExtra: optuna is not installed.
        BadValue: no trial gave a plan with a finite score, or the journal holds trials of other plans.

    Reference: Akiba, Sano, Yanase, Ohta and Koyama, Optuna, 2019, arXiv 1907.10902.
    """
    optuna = _optuna()
    if trials < 1:
        raise BadValue(f"trials={trials}", "one or more", "trials=100")
    storage = None
    if journal is not None:
        backend = optuna.storages.journal.JournalFileBackend(str(File(journal)))
        storage = optuna.storages.JournalStorage(backend)
    with _quiet(optuna):
        search = optuna.create_study(storage=storage, study_name="retrograde", sampler=sampler, load_if_exists=True)
    done = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    known = search.get_trials(deepcopy=False, states=done)
    if sampler is None:  # one that goes on does not propose again what the first call did
        search.sampler = optuna.samplers.TPESampler(seed=seed + len(known))
    _check_same(propose, [trial for trial in known if "table" in trial.user_attrs], optuna, journal)

    def objective(trial: optuna.Trial) -> float:
        try:
            plan = propose(trial)
            trial.set_user_attr("table", _digest(plan))
            value = float(score(plan))
        except NonFinite:
            return math.inf
        except RetrogradeError as error:
            raise optuna.TrialPruned(str(error)) from error
        return value if math.isfinite(value) else math.inf

    while (tried := len(search.get_trials(deepcopy=False, states=done))) < trials:
        if progress is not None:
            progress("trials", tried / trials)
        with _quiet(optuna):
            search.optimize(objective, n_trials=1)
    scored = search.get_trials(deepcopy=False, states=done[:1])
    if not scored or search.best_value == math.inf:
        allowed = "choices that make plans, and finite scores"
        raise BadValue(f"{trials} trials, {len(scored)} scored", allowed, "look at what propose raises")
    plan = propose(optuna.trial.FixedTrial(search.best_params))
    report = {"score": search.best_value, "parameters": search.best_params, "trials": len(scored)}
    return dataclasses.replace(plan, report=report, provenance={**plan.provenance, "tuner": "study", "seed": seed})


def _digest(plan: Plan) -> str:
    return hashlib.sha256(f"{plan.path.fingerprint} {plan.rows}".encode()).hexdigest()[:16]


def _check_same(propose: Propose, known: Sequence[Any], optuna: Any, journal: Any) -> None:
    """Refuse a journal whose first trial would be another plan today."""
    if not known:
        return
    try:
        same = _digest(propose(optuna.trial.FixedTrial(known[0].params))) == known[0].user_attrs["table"]
    except (RetrogradeError, ValueError):  # parameters that this search does not know
        same = False
    if not same:
        raise BadValue(f"journal={str(journal)!r} with trials of other plans", "a file for each search", "journal='new.log'")


def published(
    denoiser: AbstractDenoiser,
    nfe: int,
    names: Sequence[str] = USUAL_RECIPES,
    on: Sequence[str] = ("karras", "power", "shifted", "logit_normal", "log_snr"),
) -> Propose:
    """Return what proposes plans of published recipes on grids whose options vary: rho, power, shift, mean, std."""

    def propose(trial: Any) -> Plan:
        recipe, grid = trial.suggest_categorical("recipe", list(names)), trial.suggest_categorical("grid", list(on))
        options = {}
        for name in grids.options_of(grid):
            if name in OPTIONS:
                low, high = OPTIONS[name]
                options[name] = trial.suggest_float(f"{grid} {name}", low, high)
        return recipes.plan(recipe, denoiser, nfe=nfe, grid=grid, **options)

    return propose


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise MissingExtra("optuna", "tune") from error
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep optuna from a line for every trial, and leave what it says elsewhere as it was."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
