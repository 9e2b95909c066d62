"""Answers a comparison: measures every candidate, keeps each figure as it comes, and writes the results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from retrograde._version import __version__
from retrograde.cli import console, yardstick
from retrograde.cli.candidates import Candidate, Failure, candidates
from retrograde.cli.judge import HEADLINE, Judge, judge
from retrograde.cli.question import FORMAT, Question
from retrograde.cli.ranking import Entry, leaders
from retrograde.cli.store import Line, Store
from retrograde.errors import MissingExtra, RetrogradeError
from retrograde.plan import Plan
from retrograde.plan_file import write_atomically


def answer(question: Question) -> dict[str, Any]:
    """Measure, write everything into the question's folder, and return what results.json holds.

    A sampler that fails is listed among the failures and stops nothing.

    Raises MissingExtra, before any work, where a plot is asked for and matplotlib is not installed.
    """
    if question.plot and find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "plot")
    store = Store(question.folder / "results.jsonl", question.fingerprint)
    truth, facts = _reference(question, store)
    found = list(candidates(question))
    failures = [entry for entry in found if isinstance(entry, Failure)]
    entrants = [entry for entry in found if isinstance(entry, Candidate)]
    entrants += [Candidate(label, "", plan.nfe, plan) for label, plan in question.plans]
    entrants += _fit(question, failures)
    pixels = None if question.denoiser.codec is None else question.decoded(truth)
    errors = _measured(
        question,
        store,
        "error",
        [c for c in entrants if not c.stochastic],
        lambda plan: yardstick.error(question, plan, truth, pixels),
        question.n,
        failures,
    )
    qualities, held = _qualities(question, store, entrants, errors, failures)
    results = {
        "format": "retrograde.comparison",
        "version": FORMAT,
        "command": question.command,
        "versions": {"retrograde": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "model": _model(question),
        "settings": {
            "n": question.n,
            "seed": question.seed,
            "condition": question.condition,
            "prompts": list(question.prompts),
            "negative_prompt": question.negative,
            "guidance": question.guidance,
            "device": question.device,
            "dtype": question.dtype,
            "quality_n": 0 if held is None else question.quality_n,
        },
        "reference": facts,
        "errors": errors,
        "quality": qualities,
        "judge": held and {"against": held.against, "headline": HEADLINE, "floor": held.floor},
        "failures": [dataclasses.asdict(failure) for failure in failures],
    }
    _write(question, results, entrants, truth)
    return results


def _reference(question: Question, store: Store) -> tuple[Tensor, Line]:
    console.note(f"reference: {question.n} items at {question.reference_nfe} evaluations, by two solvers")
    truth, facts = yardstick.reference(question, store)
    console.note(f"  they agree to {facts['rms_apart']:.2g} (rms), {facts['median_apart']:.2g} (median)")
    return truth, facts


def _fit(question: Question, failures: list[Failure]) -> list[Candidate]:
    """Return fitted plans; those of an earlier call are read again. Their seed is not the comparison's."""
    from retrograde.cli.tune import fitted, report_of, sentence

    made = []
    for nfe in question.fit:
        kind = hashlib.sha256(f"{question.fingerprint} {question.effort}".encode()).hexdigest()[:12]
        file = question.folder / "plans" / f"fitted-{nfe}-{kind}.json"
        if not file.is_file():
            console.note(f"fitting a plan of {nfe} evaluations")
            try:
                plan = fitted(
                    question.denoiser,
                    nfe,
                    question.seed + 1,
                    question.effort,
                    question.told,
                    compare=question.contest,
                    device=question.device,
                )
            except (RetrogradeError, ArithmeticError) as error:
                failures.append(Failure(f"fitting {nfe} evaluations", str(error)))
                continue
            plan.save(file)
            console.note(f"  {sentence(report_of(plan))}")
        made.append(Candidate("fitted", "", nfe, Plan.load(file), fitted=True))
    return made


def _measured(
    question: Question,
    store: Store,
    kind: str,
    chosen: Sequence[Candidate],
    measure: Callable[[Plan], Line],
    items: int,
    failures: list[Failure],
) -> list[Entry]:
    """Return the measure of every candidate with its names; equal tables are measured once, stored ones not again."""
    missing = {c.key: c for c in chosen if store.get(kind, c.key) is None}
    total = sum(c.nfe * items for c in missing.values())
    if missing:
        console.note(f"{kind}: {len(missing)} samplers, {total:,} evaluations ({len(chosen)} asked for)")
    entries = []
    with console.progress(kind, max(total, 1)) as advance:
        for c in chosen:
            value = store.get(kind, c.key)
            if value is None:
                advance(0, f"{kind}: {_name(c)}")
                try:
                    value = store.put(kind, c.key, measure(c.plan))
                except (RetrogradeError, ArithmeticError) as error:
                    # A program mistake passes; what a sampler does to a network must not stop the others.
                    value = store.put(kind, c.key, {"failed": getattr(error, "given", str(error))})
                advance(c.nfe * items)
            if "failed" in value:
                failures.append(Failure(_name(c), value["failed"]))
            else:
                entries.append(names_of(c) | value)
    return entries


def _name(c: Candidate) -> str:
    return f"{c.label} on {c.grid} at {c.nfe}" if c.grid else f"{c.label} at {c.nfe}"


def names_of(c: Candidate) -> Entry:
    """Return what identifies a candidate in the results."""
    return {
        "label": c.label,
        "grid": c.grid,
        "nfe": c.nfe,
        "kind": "fitted" if c.fitted else "recipe" if c.grid else "plan",
        "stochastic": c.stochastic,
        "key": c.key,
    }


def _qualities(
    question: Question, store: Store, entrants: Sequence[Candidate], errors: Sequence[Entry], failures: list[Failure]
) -> tuple[list[Entry], Judge | None]:
    if question.quality == "none":
        return [], None
    held = judge(question, store)
    count = question.leading if question.quality == "leaders" else len(question.recipes)
    keys = {entry["key"] for nfe in question.nfes for entry in leaders(errors, nfe, count)}
    chosen, seen = [], set()
    for c in entrants:
        if (c.stochastic or not c.grid or c.key in keys) and (c.key, c.label) not in seen:
            seen.add((c.key, c.label))
            chosen.append(c)
    found = _measured(
        question,
        store,
        "quality",
        chosen,
        lambda plan: {"figures": held.figures(question.sample(plan, question.quality_n))},
        question.quality_n,
        failures,
    )
    return found, held


def _model(question: Question) -> Entry:
    denoiser = question.denoiser
    network = getattr(getattr(denoiser, "inner", denoiser), "network", None)
    count = sum(p.numel() for p in network.parameters()) if isinstance(network, torch.nn.Module) else None
    facts = {"name": denoiser.name, "typed": question.model, "shape": list(denoiser.shape), "parameters": count}
    return facts | {"path": denoiser.path.config(), "predicts": denoiser.predicts}


def _write(question: Question, results: dict[str, Any], entrants: Sequence[Candidate], truth: Tensor) -> None:
    from retrograde.cli import chart, gallery, report, verdict

    results["verdict"] = verdict.sentences(results)
    results["picks"] = verdict.picks(results)
    write_atomically(question.folder / "results.json", json.dumps(console.plain(results), indent=1).encode())
    drawn = chart.draw(results, question.folder) if question.plot else None
    if drawn is None:
        console.note("no plot; pip install 'retrograde[plot]' brings what draws it")
    strips = gallery.strips(question, results, entrants, truth)
    if strips:
        write_atomically(question.folder / "pictures.png", gallery.page(strips))
    write_atomically(question.folder / "report.html", report.page(results, drawn, strips).encode())
