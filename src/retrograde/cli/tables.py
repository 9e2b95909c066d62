"""The tables of a comparison's page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from retrograde.cli.ranking import best, order
from retrograde.cli.verdict import FIGURES, HEADS

Cell = tuple[str, str]
"""What a cell shows, and what it is sorted by."""


def errors(entries: Sequence[dict[str, Any]]) -> str:
    """Return the table of errors: a row for each recipe on its best grid, and for each kind of plan."""
    budgets = sorted({e["nfe"] for e in entries})
    rows: list[tuple[str, list[dict[str, Any] | None], bool]] = []
    for label in dict.fromkeys(e["label"] for e in entries if e["kind"] != "recipe"):
        held = {e["nfe"]: e for e in entries if e["label"] == label and e["kind"] != "recipe"}
        name = "fitted to this model" if label == "fitted" else label
        rows.append((name, [held.get(nfe) for nfe in budgets], True))
    for label in order(entries):
        rows.append((label, [best(entries, nfe, label) for nfe in budgets], False))
    least = {nfe: min((e["rms"] for e in entries if e["nfe"] == nfe), default=0.0) for nfe in budgets}
    lines = []
    for name, cells, fitted in rows:
        shown = "".join(_error(e, least) for e in cells)
        lines.append(f'<tr{" class=fitted" if fitted else ""}><th scope="row">{escape(name)}</th>{shown}</tr>')
    heads = ["sampler", *map(str, budgets)]
    return _table("rms error (smaller is better), by network evaluations; the least of a column is bold", heads, lines)


def _error(entry: dict[str, Any] | None, least: dict[int, float]) -> str:
    if entry is None:
        return "<td></td>"
    low, high = entry["rms_interval"] or (entry["rms"], entry["rms"])
    told = f"median {entry['median']:.3g}; 95% interval of the rms {low:.3g} to {high:.3g}"
    told += f"; grid {entry['grid']}" if entry["grid"] else ""
    told += f"; decoded, the rms is {entry['pixels']['rms']:.3g}" if "pixels" in entry else ""
    kind = ' class="least"' if entry["rms"] <= least[entry["nfe"]] else ""
    return f'<td{kind} data-value="{entry["rms"]:.6g}" title="{escape(told)}">{entry["rms"]:.3g}</td>'


def grids(entries: Sequence[dict[str, Any]]) -> str:
    """Return the table of every recipe on every grid, folded away."""
    found = [e for e in entries if e["kind"] == "recipe"]
    if not found:
        return ""
    lines, decoded = [], all("pixels" in e for e in found)
    for e in sorted(found, key=lambda e: (e["nfe"], e["rms"])):
        figures = "".join(_number(e[key]) for key in ("rms", "median", "seconds"))
        figures += _number(e["pixels"]["rms"]) if decoded else ""
        lines.append(
            f'<tr><th scope="row">{escape(e["label"])}</th><td class="text">{escape(e["grid"])}</td>'
            f"{_number(e['nfe'])}{figures}</tr>"
        )
    heads = ["recipe", "grid", "evaluations", "rms", "median", "seconds", *(["rms, decoded"] if decoded else [])]
    table = _table(f"error of all {len(lines)} recipes, grids and budgets", heads, lines, texts=2)
    return f"<details><summary>Every recipe on every grid ({len(lines)} rows)</summary>{table}</details>"


def quality(results: dict[str, Any]) -> str:
    """Return the section on the quality of samples."""
    entries, judge = results["quality"], results["judge"]
    if not entries:
        return ""
    names = list(entries[0]["figures"])
    lines = []
    for e in sorted(entries, key=lambda e: e["figures"][judge["headline"]]["value"]):
        kind = "draws noise" if e["stochastic"] else "fitted" if e["kind"] == "fitted" else ""
        shown = "".join(_figure(e["figures"][name]) for name in names)
        mark = " class=fitted" if e["kind"] != "recipe" else ""
        lines.append(
            f'<tr{mark}><th scope="row">{escape(e["label"])}</th><td class="text">{escape(e["grid"])}</td>'
            f'<td class="text">{kind}</td>{_number(e["nfe"])}{shown}</tr>'
        )
    count = results["settings"]["quality_n"]
    text = f"Distances between {count} samples and {judge['against']}; smaller is better. "
    text += "Figures of other counts do not compare. "
    if judge["floor"]:
        floor = judge["floor"]
        values = ", ".join(f"{FIGURES[k]} {floor[k]['low']:.3g} to {floor[k]['high']:.3g}" for k in names)
        text += f"{floor[names[0]]['sets']} fresh sets of {count} items of the same law get: {values}."
    warnings = dict.fromkeys(f["warning"] for e in entries for f in e["figures"].values() if f.get("warning"))
    text += "".join(f" Mind: {warning}." for warning in warnings)
    heads = ["sampler", "grid", "", "evaluations", *(HEADS[name] for name in names)]
    table = _table("quality, best first", heads, lines, texts=3)
    head = '<section aria-labelledby="quality"><h2 id="quality">Quality of the samples</h2>'
    return f"{head}<p>{escape(text)}</p>{table}</section>"


def _figure(figure: dict[str, Any]) -> str:
    error = f" ± {figure['standard_error']:.1g}" if figure.get("standard_error") is not None else ""
    return f'<td data-value="{figure["value"]:.6g}">{figure["value"]:.3g}{error}</td>'


def failures(entries: Sequence[dict[str, str]]) -> str:
    """Return the section on what could not be measured, equal reasons together."""
    if not entries:
        return ""
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        reasons.setdefault(entry["why"], []).append(entry["what"])
    items = []
    for why, whats in reasons.items():
        more = f" and {len(whats) - 4} more" if len(whats) > 4 else ""
        items.append(f"<li>{escape(', '.join(whats[:4]))}{more}: {escape(why)}</li>")
    head = f'<section aria-labelledby="failed"><h2 id="failed">What did not run ({len(entries)})</h2>'
    return f"{head}<details><summary>Reasons</summary><ul>{''.join(items)}</ul></details></section>"


def _number(value: float) -> str:
    return f'<td data-value="{value:.6g}">{value:.3g}</td>'


def _table(caption: str, heads: Sequence[str], lines: Sequence[str], texts: int = 1) -> str:
    cells = []
    for i, head in enumerate(heads):
        kind = ' class="text"' if i < texts else ""
        cells.append(f'<th scope="col"{kind}><button type="button">{escape(head) or "kind"}</button></th>')
    words = escape(caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{words}"><table><caption>{words}'
        f"</caption><thead><tr>{''.join(cells)}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
