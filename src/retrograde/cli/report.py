"""The page of a comparison: one file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from torch import Tensor

from retrograde.cli import pictures, tables

_TEMPLATE = Path(__file__).with_name("report.html")


def page(results: dict[str, Any], plot: str | None, strips: Sequence[tuple[str, Tensor]]) -> str:
    """Return the page, with its chart (an SVG) and its pictures inlined."""
    model, settings, reference = results["model"], results["settings"], results["reference"]
    count = f", {model['parameters']:,} parameters" if model["parameters"] else ""
    given = [f"{name} {settings[name]}" for name in ("condition", "guidance") if settings[name] is not None]
    if texts := settings["prompts"]:
        given.append(f"told {texts[0]!r}" + (f" and {len(texts) - 1} other texts" if texts[1:] else ""))
    subtitle = f"{model['typed']}: items of shape {model['shape']} on the path {model['path']['name']}{count}. "
    subtitle += f"Seed {settings['seed']}" + "".join(f", {text}" for text in given) + "."
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    explained = (
        f"Root mean square difference, per element, between where a sampler ends and where the reference "
        f"({' and '.join(reference['solvers'])} at {reference['nfe'][0]} evaluations) ends from the same noise, over "
        f"{settings['n']} items; the items themselves have a standard deviation of {reference['data_std']:.2g}. "
        f"The two reference solvers differ by {reference['rms_apart']:.2g}: nothing below that is resolved. "
        "Each recipe stands with its best grid at each budget."
    )
    if any("pixels" in entry for entry in results["errors"]):
        explained += " Items are latents; the error of what they decode to, in [-1, 1], stands beside it."
    return Template(_TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Which sampler for {model['name']}?"),
        subtitle=escape(subtitle),
        verdict="".join(f"<li>{escape(line)}</li>" for line in results["verdict"]) or "<li>Nothing ran.</li>",
        plot=_plot(plot),
        pictures=_pictures(strips, settings["seed"]),
        explained=escape(explained),
        errors=tables.errors(results["errors"]),
        grids=tables.grids(results["errors"]),
        quality=tables.quality(results),
        failures=tables.failures(results["failures"]),
        command=escape(results["command"]),
        made=escape(
            f"{versions}. The figures are in results.json beside this page; the same command again starts from them."
        ),
    )


def _plot(plot: str | None) -> str:
    if plot is None:
        return ""
    return (
        '<section aria-labelledby="chart"><h2 id="chart">Error and quality against evaluations</h2>'
        '<div class="scroll plot" tabindex="0" role="group" aria-label="Chart; its figures are in the tables below">'
        f"{plot}</div></section>"
    )


def _pictures(strips: Sequence[tuple[str, Tensor]], seed: int) -> str:
    if not strips:
        return ""
    figures = []
    for label, samples in strips:
        data = base64.b64encode(pictures.png(pictures.mosaic(samples, len(samples)))).decode()
        words = escape(label)
        figures.append(
            f'<figure><figcaption>{words}</figcaption><img alt="{len(samples)} samples: {words}" '
            f'src="data:image/png;base64,{data}"></figure>'
        )
    note = f"Every row starts from the same noise (seed {seed}); the closer to the first row, the better."
    head = '<section aria-labelledby="look"><h2 id="look">What it looks like</h2>'
    return f'{head}<p class="soft">{note}</p>{"".join(figures)}</section>'
