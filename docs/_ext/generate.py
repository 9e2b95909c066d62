"""Write the pages that list what is there: commands, paths, recipes, grids and published systems."""

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import retrograde as rg

HEAD = "<!-- Written by docs/_ext/generate.py from the registries; edits here are lost. -->\n\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def sentence(thing: object) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def paths_page() -> str:
    rows = [(f"`{name}`", sentence(rg.paths.get(name))) for name in rg.paths.names()]
    return "# Paths\n\nHow data becomes noise: `x_t = a(t) x_0 + b(t) y + s(t) ε`.\n\n" + table(("path", "what it is"), rows)


def recipes_page() -> str:
    rows = []
    for name in rg.recipes.names():
        one = rg.recipes.get(name)
        kind = "stochastic" if one.stochastic else "deterministic"
        rows.append((f"`{name}`", one.summary, str(one.order), str(one.evaluations), kind))
    text = "# Recipes\n\nEvery published solver here is a recipe: `rg.plan(NAME, path, nfe=10)` writes its table.\n\n"
    text += table(("recipe", "what it is", "order", "evaluations per step", "kind"), rows)
    grids = [(f"`{name}`", sentence(rg.grids.get(name))) for name in rg.grids.names()]
    text += "\n## Grids\n\nWhere the rows look: `grid=NAME`, or your own array of path times.\n\n"
    return text + table(("grid", "what it is"), grids)


def systems_page() -> str:
    text = "# Published systems\n\nThe papers whose methods run here, the call of each, and the test that proves it.\n\n"
    for home in rg.systems.HOMES:
        held = [system for system in rg.systems.all() if system.home == home]
        if held:
            rows = [
                (f"{one.title} ({one.year})", one.arxiv or "not on arXiv", f"`{one.call}`", f"`{one.test}`") for one in held
            ]
            text += f"## {home}\n\n" + table(("paper", "arXiv", "call", "test"), rows) + "\n"
    cover = rg.systems.coverage()
    rows = [(home, f"{done}", f"{total}") for home, (done, total) in cover.homes.items()]
    text += f"## Coverage\n\nOf the catalogue's {cover.total} papers with something to run, {cover.done} run here.\n\n"
    return text + table(("home", "run", "of"), rows)


def tuned_page() -> str:
    """The stored run of benchmarks/tuned_plans.py as tables."""
    file = Path(__file__).parents[2] / "benchmarks" / "results" / "tuned_plans.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    text = (
        "# What the tuner reaches\n\nError is the root mean square distance, per element, to the end points a fine solver "
        f"reaches from the same noise; {stored['items']} items the fit never saw, with the 95% bootstrap interval. "
        f"FD is the Fréchet distance of {stored['frechet_samples']} samples to the training data (classifier features for "
        "`digits`, pixels for the 8x8 models). The recipe is the best deterministic one over all grids, at 1.7 times "
        f"(rounded up) and at twice the budget. Effort {stored['effort']!r}, torch {stored['torch']}.\n\n"
    )
    rows = []
    for row in stored["rows"]:
        low, high = row["fitted"]["interval"]
        fitted = (f"{row['fitted']['rms']:.4f} ({low:.4f} to {high:.4f})", f"{row['fitted']['median']:.4f}")
        others = []
        for name in ("x1.7", "x2"):
            one = row[name]
            others.append(
                f"{one['rms']:.4f} (median {one['median']:.4f}, FD {one['frechet']:.3f}): {one['recipe']} on {one['grid']}, "
                f"{one['nfe']} evaluations"
            )
        rows.append((row["model"], str(row["nfe"]), *fitted, f"{row['frechet']:.3f}", *others, f"{row['seconds']:.0f} s"))
    head = ("model", "nfe", "error of the fit", "median", "FD", "best recipe at 1.7x", "best recipe at 2x", "fit took")
    return text + table(head, rows) + "\nMade by `python benchmarks/tuned_plans.py`, one thread.\n"


def help_of(*command: str) -> str:
    """What `retrograde COMMAND --help` prints, as plain text."""
    code = "import sys; from retrograde.cli import main; sys.argv[0] = 'retrograde'; main()"
    plain = os.environ | {"TYPER_USE_RICH": "0", "NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"}
    called = [sys.executable, "-c", code, *command, "--help"]
    return subprocess.run(called, capture_output=True, text=True, check=True, env=plain).stdout


def command_page() -> str:
    top = help_of()
    listed = re.findall(r"^  ([a-z][\w-]*)\b", top.partition("Commands:")[2], re.MULTILINE)
    if not listed:
        raise ValueError(f"no commands found in the help of `retrograde`:\n{top}")
    text = "# The command\n\nThe command answers without loading torch until there is work to do.\n"
    text += f"\n```text\n{top.strip()}\n```\n"
    for name in listed:
        text += f"\n## retrograde {name}\n\n```text\n{help_of(name).strip()}\n```\n"
    return text


PAGES: dict[str, Callable[[], str]] = {
    "command": command_page,
    "paths": paths_page,
    "recipes": recipes_page,
    "systems": systems_page,
    "tuned": tuned_page,
}


def write_pages(app: Any) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / f"{name}.md").write_text(HEAD + page(), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
