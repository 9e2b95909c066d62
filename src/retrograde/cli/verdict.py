"""What to pick, and why: the sentences a comparison comes down to."""

from __future__ import annotations

from typing import Any

from retrograde.cli.ranking import best, fitted_at

Results = dict[str, Any]


def picks(results: Results) -> list[dict[str, Any]]:
    """Return for each budget the best recipe, the fitted plan, and the budget at which recipes do as well as it."""
    errors = results["errors"]
    budgets = sorted({e["nfe"] for e in errors})
    found = []
    for nfe in budgets:
        recipe, fitted = best(errors, nfe), fitted_at(errors, nfe)
        as_good = None
        if fitted is not None:
            reached = ((n, best(errors, n)) for n in budgets)
            as_good = next((n for n, e in reached if e is not None and e["rms"] <= fitted["rms"]), None)
        found.append({"nfe": nfe, "recipe": recipe, "fitted": fitted, "recipes_need": as_good})
    return found


def sentences(results: Results) -> list[str]:
    """Return what follows from the figures, most useful first."""
    found = picks(results)
    said = [_pick(pick, max(p["nfe"] for p in found)) for pick in found if pick["fitted"] is not None]
    rest = [pick for pick in found if pick["fitted"] is None and pick["recipe"] is not None]
    if rest:
        said.append(_recipes(rest))
    said += _quality(results)
    said += _doubts(results, found)
    return said


def _name(entry: dict[str, Any]) -> str:
    if entry["kind"] == "fitted":
        return "the fitted plan"
    return f"{entry['label']} on the {entry['grid']} grid" if entry["grid"] else entry["label"]


def _pick(pick: dict[str, Any], most: int) -> str:
    nfe, fitted, recipe = pick["nfe"], pick["fitted"], pick["recipe"]
    head = f"At {nfe} evaluations"
    if recipe is None:
        return f"{head} the fitted plan has error {fitted['rms']:.3g}; no recipe ran."
    if fitted["rms"] >= recipe["rms"]:
        return (
            f"{head}, take {_name(recipe)}: error {recipe['rms']:.3g}; the plan fitted to this model, at "
            f"{fitted['rms']:.3g}, is no better."
        )
    text = (
        f"{head}, take the plan fitted to this model: error {fitted['rms']:.3g}, against {recipe['rms']:.3g} of the "
        f"best published solver ({_name(recipe)})"
    )
    need = pick["recipes_need"]
    if need is None:
        return f"{text}; no published solver does as well with up to {most} evaluations."
    return f"{text}; a published solver needs {need} evaluations for as much."


def _recipes(rest: list[dict[str, Any]]) -> str:
    """One sentence for the budgets without a fitted plan, neighbours with one answer joined."""
    groups: list[tuple[str, list[int], list[float]]] = []
    for pick in rest:
        name = _name(pick["recipe"])
        if groups and groups[-1][0] == name:
            groups[-1][1].append(pick["nfe"])
            groups[-1][2].append(pick["recipe"]["rms"])
        else:
            groups.append((name, [pick["nfe"]], [pick["recipe"]["rms"]]))
    parts = []
    for name, budgets, values in groups:
        at = f"{budgets[0]} to {budgets[-1]}" if len(budgets) > 1 else f"{budgets[0]}"
        value = f"{values[0]:.3g} to {values[-1]:.3g}" if len(values) > 1 else f"{values[0]:.3g}"
        parts.append(f"at {at} evaluations {name} (error {value})")
    return f"Among published solvers the least error has: {'; '.join(parts)}."


def _quality(results: Results) -> list[str]:
    """Say whose samples are good, and whose differ by no more than chance."""
    judge, entries = results["judge"], results["quality"]
    if not judge or not entries:
        return []
    key, n = judge["headline"], results["settings"]["quality_n"]
    ranked = sorted(entries, key=lambda e: e["figures"][key]["value"])
    values = [e["figures"][key]["value"] for e in ranked]
    measured = f"{FIGURES[key]} to {judge['against']}, {n} samples"
    if not judge["floor"]:
        worst = f"the least good: {_at(ranked[-1])}, {values[-1]:.3g}"
        return [f"Best samples ({measured}): {_at(ranked[0])}, {values[0]:.3g}; {worst}."]
    low, high = judge["floor"][key]["low"], judge["floor"][key]["high"]
    even = [e for e, value in zip(ranked, values, strict=True) if value <= high]
    fresh = f"fresh sets of the same law and size get {low:.3g} to {high:.3g}"
    if len(even) == len(ranked):
        return [
            f"Quality ({measured}) does not tell these samplers apart: they get {values[0]:.3g} to {values[-1]:.3g}, "
            f"and {fresh}."
        ]
    if not even:
        return [f"Best samples ({measured}): {_at(ranked[0])}, {values[0]:.3g}; {fresh}."]
    least = min(even, key=lambda e: (e["nfe"], e["figures"][key]["value"]))
    return [
        f"Samples as near to the data as fresh items are ({measured}; {fresh}) come from {len(even)} of {len(ranked)} "
        f"samplers measured; at the fewest evaluations from {_at(least)}."
    ]


def _at(entry: dict[str, Any]) -> str:
    return f"{_name(entry)} at {entry['nfe']} evaluations"


FIGURES = {
    "frechet": "Fréchet distance of classifier features",
    "kernel": "kernel distance of classifier features",
    "energy": "energy distance of the items",
    "sliced_wasserstein": "sliced Wasserstein distance of the items",
    "energy_pixels": "energy distance of the decoded items",
}
"""What the figures of quality are called in a sentence."""

HEADS = {
    "frechet": "Fréchet, features",
    "kernel": "kernel, features",
    "energy": "energy, items",
    "sliced_wasserstein": "sliced Wasserstein, items",
    "energy_pixels": "energy, decoded",
}
"""What they are called over a column."""


def _doubts(results: Results, found: list[dict[str, Any]]) -> list[str]:
    said = []
    apart = results["reference"]["rms_apart"]
    entries = [e for pick in found for e in (pick["recipe"], pick["fitted"]) if e is not None]
    close = sorted({e["nfe"] for e in entries if e["rms"] < 3 * apart})
    if close:
        listed = ", ".join(map(str, close))
        said.append(
            f"The two reference solvers differ by {apart:.2g} themselves, so that the best errors at {listed} "
            "evaluations are not told apart; a larger --reference-nfe would."
        )
    torn = [p for p in found if p["recipe"] and p["recipe"]["median"] < p["recipe"]["rms"] / 3]
    if torn:
        listed = ", ".join(str(p["nfe"]) for p in torn)
        said.append(
            f"At {listed} evaluations the rms error is ruled by a few items that end elsewhere (another picture); "
            "the median says what a typical item sees."
        )
    return said
