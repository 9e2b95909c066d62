"""The chart of a comparison: error, and quality, against evaluations."""

from __future__ import annotations

import io
import math
import re
from pathlib import Path
from typing import Any

from retrograde.cli.ranking import best, order
from retrograde.cli.verdict import FIGURES
from retrograde.plan_file import write_atomically

_COLOURS = ("#2f81d8", "#d9822b", "#3f9e4d", "#9a6bd0", "#c75c8e")
_DRAWING = ("#0b7a75", "#8a5a00", "#5b3fa8", "#a3265e", "#4f5d2f")
"""For stochastic recipes, so many of which are named."""
_FITTED = "#d6402b"
_QUIET = "#9aa0a6"
_INK = "#010203"
"""Stands for the colour of text, which the page replaces by its own; no curve has it."""

Line = tuple[list[int], list[float]]


def draw(results: dict[str, Any], folder: Path) -> str | None:
    """Write plot.png and plot.svg, and return the SVG for a page (text in the page's own colour).

    None where matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError:
        return None
    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "retrograde",
        "font.family": "sans-serif",
        "font.size": 10,
    }
    style |= dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK)
    with matplotlib.rc_context(style):
        figure = _figure(results)
        for ending in ("png", "svg"):
            stream = io.BytesIO()
            metadata = {"Date": None} if ending == "svg" else {}
            figure.savefig(stream, format=ending, dpi=150, transparent=ending == "svg", metadata=metadata)
            write_atomically(folder / f"plot.{ending}", stream.getvalue())
    text = stream.getvalue().decode().replace(_INK, "currentColor")
    text = re.sub(r"(<svg[^>]*?) width=\"[^\"]*\" height=\"[^\"]*\"|(<svg[^>]*?) height=\"[^\"]*\"", r"\1\2", text, count=1)
    text = re.sub(r" width=\"[\d.]+pt\"", "", text, count=1)
    return text[text.index("<svg") :]


def _figure(results: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

    panels = 2 if results["quality"] else 1
    figure = Figure(figsize=(5.6 * panels, 4.6), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    ranked = order(results["errors"])
    _errors(axes[0], results, ranked)
    if panels == 2:
        _quality(axes[1], results, ranked)
    for axis in axes:
        axis.set_xlabel("network evaluations")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", color=_QUIET, alpha=0.3, linewidth=0.6)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, fontsize=8.5)
        if axis.get_yscale() == "linear":
            continue
        low, high = axis.get_ylim()
        axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.yaxis.set_minor_formatter(FuncFormatter(_between) if high < 15 * low else NullFormatter())
    return figure


def _between(value: float, _: int | None) -> str:
    """Label 2, 3 and 5 of each decade, where an axis spans too little for decades alone."""
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""


def _errors(axis: Any, results: dict[str, Any], ranked: list[str]) -> None:
    errors = results["errors"]
    budgets = sorted({e["nfe"] for e in errors})
    for place, label in reversed(list(enumerate(ranked))):
        found = [entry for nfe in budgets if (entry := best(errors, nfe, label)) is not None]
        line = [e["nfe"] for e in found], [e["rms"] for e in found]
        if place < len(_COLOURS):
            axis.plot(*line, color=_COLOURS[place], marker="o", markersize=4, linewidth=1.6, label=label, zorder=3)
        else:
            axis.plot(*line, color=_QUIET, linewidth=0.8, alpha=0.7, zorder=2)
    _plans(axis, {(e["kind"], e["label"]): [] for e in errors if e["kind"] != "recipe"}, errors, lambda e: e["rms"])
    apart = results["reference"]["rms_apart"]
    if apart > 0.3 * min((e["rms"] for e in errors), default=0.0):
        axis.axhline(apart, color=_QUIET, linestyle=":", linewidth=1, label="two references apart")
    axis.set_yscale("log")
    named = [e["rms"] for e in errors if e["kind"] != "recipe" or e["label"] in ranked[: len(_COLOURS)]]
    if named:
        # One solver that runs off must not flatten all others.
        axis.set_ylim(top=min(axis.get_ylim()[1], 3.0 * max(named)))
    axis.set_ylabel("error to the reference (rms)")
    rest = f", {len(ranked) - len(_COLOURS)} more in grey" if len(ranked) > len(_COLOURS) else ""
    axis.set_title(f"Error, each recipe on its best grid{rest}", fontsize=10, loc="left")


def _quality(axis: Any, results: dict[str, Any], ranked: list[str]) -> None:
    key = results["judge"]["headline"]

    def value(entry: dict[str, Any]) -> float:
        return entry["figures"][key]["value"]

    found = results["quality"]
    lines: dict[str, dict[int, float]] = {}
    for e in found:
        if e["kind"] == "recipe":
            line = lines.setdefault(e["label"], {})
            line[e["nfe"]] = min(line.get(e["nfe"], math.inf), value(e))
    drawing = {e["label"] for e in found if e["stochastic"] and e["kind"] == "recipe"}
    best_drawing = _ranked({label: line for label, line in lines.items() if label in drawing})[: len(_DRAWING)]
    colours = dict(zip(ranked, _COLOURS, strict=False)) | dict(zip(best_drawing, _DRAWING, strict=False))
    for label in sorted(lines, key=lambda label: label in colours):
        budgets, known = sorted(lines[label]), label in colours
        look = (
            {"linewidth": 1.6, "marker": "o", "markersize": 4, "zorder": 3, "label": label} if known else {"linewidth": 0.8}
        )
        style = "--" if label in drawing else "-"
        axis.plot(budgets, [lines[label][n] for n in budgets], style, color=colours.get(label, _QUIET), **look)
    _plans(axis, {(e["kind"], e["label"]): [] for e in found if e["kind"] != "recipe"}, found, value)
    if floor := results["judge"]["floor"]:
        axis.axhspan(floor[key]["low"], floor[key]["high"], color=_QUIET, alpha=0.25, label="fresh sets of the same law")
    shown = [value(e) for e in found if value(e) > 0]
    if shown and max(shown) > 4 * min(shown):
        axis.set_yscale("log")
    axis.set_ylabel(FIGURES[key])
    count = results["settings"]["quality_n"]
    quiet = len([label for label in lines if label not in colours])
    rest = f", {quiet} more in grey" if quiet else ""
    axis.set_title(f"Quality of {count} samples; dashed draws noise{rest}", fontsize=10, loc="left")


def _ranked(lines: dict[str, dict[int, float]]) -> list[str]:
    """Return the labels, best first: by the mean over budgets of the log of their value over the least."""
    least = {nfe: min(line.get(nfe, math.inf) for line in lines.values()) for line in lines.values() for nfe in line}

    def excess(label: str) -> float:
        logs = [math.log(max(v, 1e-30) / max(least[nfe], 1e-30)) for nfe, v in lines[label].items()]
        return sum(logs) / len(logs)

    return sorted(lines, key=excess)


def _plans(axis: Any, groups: dict[tuple[str, str], list[Any]], entries: list[Any], value: Any) -> None:
    """Draw the fitted plans, and those of files, over everything else."""
    for kind, label in groups:
        held = sorted((e for e in entries if (e["kind"], e["label"]) == (kind, label)), key=lambda e: e["nfe"])
        marker, colour = ("*", _FITTED) if kind == "fitted" else ("D", _INK)
        named = "fitted to this model" if kind == "fitted" else Path(label).name
        style = {"linewidth": 1.6, "zorder": 5, "color": colour, "marker": marker}
        axis.plot(
            [e["nfe"] for e in held],
            [value(e) for e in held],
            markersize=11 if kind == "fitted" else 6,
            label=named,
            **style,
        )
