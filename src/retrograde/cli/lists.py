"""`retrograde models`, `recipes`, `grids`, `guides`, `systems`: what there is."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from retrograde.cli import complete, console, options, steering
from retrograde.errors import UnknownName


def models(as_json: options.AsJson = False) -> None:
    """List the networks that ship with the package."""
    found = complete.configurations()
    if as_json:
        console.emit([{"name": name, **_facts(config)} for name, config in found.items()])
        return
    rows = []
    for name, config in found.items():
        facts = _facts(config)
        conditions = ", ".join(f"{key} (none: {null})" for key, null in facts["conditions"].items())
        rows.append((name, "x".join(map(str, facts["shape"])), facts["path"]["name"], facts["predicts"], conditions))
    console.table(("model", "shape", "path", "predicts", "conditions"), rows)


def _facts(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config.get(key) for key in ("shape", "path", "predicts", "conditions", "network")}


def recipes(as_json: options.AsJson = False) -> None:
    """List the published solvers."""
    import retrograde as rg

    found = [rg.recipes.get(name) for name in rg.recipes.names()]
    if as_json:
        keys = ("name", "version", "order", "evaluations", "stochastic", "clock", "options", "summary")
        console.emit([{key: getattr(recipe, key) for key in keys} for recipe in found])
        return
    rows = []
    for recipe in found:
        settings = " ".join(f"{key}={value}" for key, value in recipe.options.items())
        kind = "noise" if recipe.stochastic else ""
        rows.append((recipe.name, str(recipe.order), str(recipe.evaluations), kind, settings, recipe.summary))
    columns = ("recipe", "order", "nfe a step", "draws", "options", "what it is")
    console.table(columns, rows, numbers=("order", "nfe a step"))


def grids(as_json: options.AsJson = False) -> None:
    """List the grids: where on the path a solver asks the network."""
    import inspect

    import retrograde as rg

    found = []
    for name in rg.grids.names():
        function = rg.grids.get(name)
        accepted = {p.name: p.default for p in inspect.signature(function).parameters.values()}
        settings = {key: default for key, default in accepted.items() if key not in ("path", "n")}
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        found.append({"name": name, "options": settings, "summary": summary})
    if as_json:
        console.emit(found)
        return
    rows = []
    for entry in found:
        given = (f"{key}={value}" if value is not None else key for key, value in entry["options"].items())
        rows.append((entry["name"], " ".join(given), entry["summary"]))
    console.table(("grid", "options", "what it is"), rows)


def guides(as_json: options.AsJson = False) -> None:
    """List the methods of guidance that can be typed after --guide, with their settings."""
    found = steering.listed()
    if as_json:
        console.emit([{"name": name, "usage": steering.usage(known), "summary": text} for name, known, text in found])
        return
    console.table(
        ("guide", "settings", "what it makes"), [(name, steering.usage(known), text) for name, known, text in found]
    )


def systems(
    home: Annotated[str | None, typer.Option("--home", help="Only one part of the field, such as solvers.")] = None,
    as_json: options.AsJson = False,
) -> None:
    """List the published systems that run here, the call for each, and how many of the catalogue they are."""
    import dataclasses

    import retrograde as rg

    found = [system for system in rg.systems.all() if home in (None, system.home)]
    if home is not None and home not in rg.systems.HOMES:
        raise UnknownName("home", home, rg.systems.HOMES)
    coverage = rg.systems.coverage()
    if as_json:
        homes = {key: {"registered": done, "catalogue": all_} for key, (done, all_) in coverage.homes.items()}
        counted = {"registered": coverage.done, "catalogue": coverage.total, "homes": homes}
        console.emit({"systems": [dataclasses.asdict(system) for system in found], "coverage": counted})
        return
    console.table(("home", "year", "title", "call"), [(s.home, str(s.year), s.title, s.call) for s in found])
    counted = [(key, str(done), str(all_)) for key, (done, all_) in coverage.homes.items() if home in (None, key)]
    if home is None:
        counted.append(("all", str(coverage.done), str(coverage.total)))
    console.table(("home", "here", "catalogue"), counted, numbers=("here", "catalogue"), title="papers of the catalogue")
