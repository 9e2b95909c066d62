"""`retrograde show`: a plan file as the table it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from retrograde.cli import asked, console, options

_NEAREST = 4
"""So many recipes are printed beside a plan, for each budget."""


def show(
    file: Annotated[Path, typer.Argument(help="A plan file.", metavar="PLAN", show_default=False)],
    as_json: options.AsJson = False,
) -> None:
    """Print a plan: its table, how it was made, and what is known of its quality.

    retrograde show plan.json
    """
    plan = asked.plan_file(file)
    if as_json:
        console.emit(json.loads(file.read_text(encoding="utf-8")))
        return
    console.say(str(plan))
    for name, value in plan.provenance.items():
        console.say(f"{name}: {_short(value)}")
    if isinstance(plan.report, dict):
        console.say()
        show_report(plan.report, plan.nfe)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(console.plain(value))
    return text if len(text) <= 160 else f"{text[:150]} ... ({len(text)} characters; --json prints all)"


def show_report(report: dict[str, Any], nfe: int) -> None:
    """Print the held-out figures of a fitted plan beside those of the recipes that came nearest at each budget."""
    rows = [("this plan", "", str(nfe), _number(report.get("error")), _number(report.get("median")))]
    raced = sorted(report.get("recipes") or [], key=lambda e: (e["nfe"], e["error"]))
    left = 0
    for budget in dict.fromkeys(e["nfe"] for e in raced):
        held = [e for e in raced if e["nfe"] == budget]
        left += len(held[_NEAREST:])
        for e in held[:_NEAREST]:
            rows.append((e["recipe"], e["grid"], str(budget), _number(e["error"]), _number(e.get("median"))))
    columns = ("sampler", "grid", "nfe", "error", "median")
    console.table(columns, rows, numbers=("nfe", "error", "median"), title="held-out error to the fine reference")
    if left:
        console.say(f"{left} more recipes and grids did worse; --json lists them")
    doubt, error = report.get("reference_error"), report.get("error")
    if doubt is not None and error is not None and error < 3.0 * doubt:
        console.say(
            f"the reference may be {doubt:.2g} off itself, so nothing is known below that: a larger --effort has a finer"
        )
    if isinstance(report.get("seconds"), int | float):
        console.say(f"the fit took {report['seconds']:.0f} s and {report.get('evaluations', 0):,.0f} evaluations")


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else ""
