"""Write the pages that list what is there: commands, paths, recipes, grids and published systems."""

import inspect
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from benchmarked import MEASURED, apart, gaussian_posterior, stored, table

import retrograde as rg

ARXIV = r"\b\d{4}\.\d{4,5}\b"
HEAD = "<!-- Written by docs/_ext/generate.py from the registries; edits here are lost. -->\n\n"


def sentence(thing: object) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def ends(name: str) -> tuple[str, str]:
    """A path made without arguments, at both ends of its range."""
    if any(field.init and field.default is MISSING for field in fields(rg.paths.get(name))):
        return "", ""
    path = rg.paths.get(name)()

    def at(t: float) -> str:
        parts = ((path.a(t), "x_0"), (path.b(t), "y"), (path.s(t), "ε"))
        return " + ".join(f"{c:.3g} {what}" for c, what in parts if c != 0.0)

    return at(path.t_min), at(path.t_max)


def paths_page() -> str:
    rows = [(f"`{name}`", sentence(rg.paths.get(name)), *ends(name)) for name in rg.paths.names()]
    text = "# Paths\n\nHow data becomes noise: `x_t = a(t) x_0 + b(t) y + s(t) ε`. The ends are those of the path as it is "
    text += "made without arguments; where they hold a y, it is anchored, and [a run needs it](../restoring.md).\n\n"
    return text + table(("path", "what it is", "begins at", "ends at"), rows)


def reference(name: str) -> str:
    """The paper to cite for a recipe: the one it registers, the one its docstring names, or that of its family's file."""
    write = rg.recipes.get(name).write
    family = [other for other in rg.recipes.names() if rg.recipes.get(other).write.__module__ == write.__module__]
    systems = {one: [s for s in rg.systems.all() if s.call == f"rg.plan({one!r}, path, nfe=10)"] for one in family}
    whole = inspect.getsource(inspect.getmodule(write) or write)
    named = re.findall(ARXIV, inspect.getdoc(write) or "")
    named = named or ([] if any(systems.values()) else re.findall(ARXIV, whole))
    held = systems[name] or [s for s in rg.systems.all() if s.arxiv in named[:1]]
    held = held or ([] if named else [system for one in family for system in systems[one]])
    if not held:
        software = "k-diffusion" if "k-diffusion" in whole else ""
        return f"arXiv {named[0]}" if named else software
    first = held[0]
    surname = first.author_list[0].split()[-1] + (" et al." if len(first.author_list) > 1 else "")
    return f"{surname} {first.year}" + (f", {first.arxiv}" if first.arxiv else "")


def measured_row(name: str, figures: dict[str, Any], exact: dict[str, Any]) -> tuple[str, ...]:
    one = rg.recipes.get(name)
    slopes = figures["slopes"]
    also = exact[name]["exact"]
    if not slopes:
        return (f"`{name}`", one.summary, str(one.order), str(one.evaluations), "", also, "", "", reference(name))
    low, high = min(slopes.values()), max(slopes.values())
    slope = f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"
    if one.stochastic:
        slope += f" (weak; {max(figures['finest'].values()):.1e} at {figures['steps'][-1]} steps)"
    draws = f"{figures['draws']:g} per step" if one.stochastic else "none"
    kept = figures["kept"]
    memory = f"{kept['states']} + {kept['outputs']}" + (f" + {kept['noises']}" if one.stochastic else "")
    return (f"`{name}`", one.summary, str(one.order), str(one.evaluations), slope, also, draws, memory, reference(name))


def recipes_page() -> str:
    measured = stored("registry.json")
    exact = json.loads((Path(__file__).parents[2] / "tests" / "laws" / "exact.json").read_text(encoding="utf-8"))
    rows = [measured_row(name, measured["recipes"][name], exact) for name in rg.recipes.names()]
    text = "# Recipes\n\nEvery published solver here is a recipe: `rg.plan(NAME, path, nfe=10)` writes its table.\n\n"
    text += (
        "The slope is measured, not quoted. Deterministic recipes: log error against log steps, to the exact end of the "
        "probability flow of a Gaussian mixture. Stochastic ones: the same of the largest error in mean and standard "
        "deviation over three Gaussians (weak order), with that error in units of the data. The range is that over the "
        "paths `edm`, `flow` and `vp`. The memory is in states of the sampler: states + predictions + draws that a run "
        "keeps. Made by "
        f"`{measured['command']}`. What each is exactly, to rounding, is shown by the test that `tests/laws/exact.json` "
        "names.\n\n"
    )
    head = ("recipe", "what it is", "order", "evaluations per step", "measured slope", "exactly", "noise", "memory")
    text += table((*head, "reference"), rows)
    grids = [(f"`{name}`", sentence(rg.grids.get(name))) for name in rg.grids.names()]
    text += "\n## Grids\n\nWhere the rows look: `grid=NAME`, or your own array of path times.\n\n"
    text += table(("grid", "what it is"), grids)
    pairs = [(name, rg.controllers.get(name)) for name in rg.controllers.names()]
    pair_rows = [(f"`{name}`", one.summary, f"{one.evaluations}", one.clock) for name, one in pairs]
    text += "\n## Adaptive steps\n\nPairs that choose their own steps: `rg.controllers.adaptive(path, NAME)`.\n\n"
    return text + table(("pair", "what it is", "evaluations per step", "clock"), pair_rows)


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
    kept = stored("tuned_plans.json")
    text = (
        "# What the tuner reaches\n\nError is the root mean square distance, per element, to the end points a fine solver "
        f"reaches from the same noise; {kept['items']} items the fit never saw, with the 95% bootstrap interval. "
        f"FD is the Fréchet distance of {kept['frechet_samples']} samples to the training data (classifier features for "
        "`digits`, pixels for the 8x8 models), and, after the slash, to samples of the fine solver from other noise. "
        "The recipe is the best deterministic one over all grids, at 1.7 times (rounded up) and at twice the budget. "
        "What the corrections of all rows cost together is counted in evaluations, by multiply-accumulates. "
        f"torch {kept['torch']}.\n\n"
    )
    rows = []
    for row in kept["rows"]:
        if any("frechet_to_fine" not in row.get(part, {}) for part in ("fitted", "x1.7", "x2")):
            continue  # one part of it was not run yet
        low, high = row["fitted"]["interval"]
        fitted = (f"{row['fitted']['rms']:.4f} ({low:.4f} to {high:.4f})", f"{row['fitted']['median']:.4f}")
        others = []
        for name in ("x1.7", "x2"):
            one = row[name]
            others.append(
                f"{one['rms']:.4f} (median {one['median']:.4f}, FD {apart(one)}): {one['recipe']} on {one['grid']}, "
                f"{one['nfe']} evaluations"
            )
        fit = row["fitted"]
        cost = f"{fit['corrections']['evaluations']:.2f}" if fit["corrections"] else "0"
        took = f"{fit['seconds']:.0f} s, {fit['effort']}"
        rows.append((row["model"], str(row["nfe"]), *fitted, apart(fit), cost, *others, took))
    head = (
        "model",
        "nfe",
        "error of the fit",
        "median",
        "FD",
        "corrections cost",
        "best recipe at 1.7x",
        "at 2x",
        "fit took",
    )
    return text + table(head, rows) + "\nMade by `python benchmarks/tuned_plans.py`, one thread.\n"


def overhead_page() -> str:
    """The stored run of benchmarks/loop_overhead.py as a table."""
    kept = stored("loop_overhead.json")
    noise = kept["noise"]
    text = (
        "# What the loop costs\n\nMicroseconds per network evaluation, without the network's, beside the scheduler of "
        f"diffusers {kept['versions']['diffusers']} that samples the same way: the best of the repeats, in one process, by "
        f"turns, one thread, a state of {'x'.join(map(str, kept['shape']))} in float32, a network that predicts the noise. "
        "Allocations are tensors of the state's size, operations all that torch is asked for.\n\n"
    )
    head = ("recipe", "here", "there", "ratio", "allocations here", "there", "operations here", "there", "scheduler")
    rows = []
    for row in kept["rows"]:
        ours, theirs = row["ours_best"], row["diffusers_best"]
        counts = [f"{row[f'{who}_{what}']:.1f}" for what in ("allocations", "operations") for who in ("ours", "diffusers")]
        rows.append((f"`{row['recipe']}`", f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}", *counts, row["peer"]))
    text += table(head, rows) + (
        "\nA step of Euler's or Heun's method is two passes over the state, and a third looks for NaN: where memory "
        "is slow that, not the loop, is what ratios near a half are made of. Every row allocates the state it makes and "
        "nothing else: the data mean of a noise prediction is weighed as the state and the prediction it is read off. A "
        "predictor and a corrector are two rows. Noise is free in these figures. "
        f"Drawn by key, so that an item is the same in any batch, it costs {noise['keyed']:.0f} microseconds for "
        f"this state, by torch's global generator {noise['global']:.0f}.\n\nMade by `{kept['command']}`.\n"
    )
    return text


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


def peers_page() -> str:
    """The stored run of benchmarks/peers.py: name there, recipe here, how near, and what is known of the peer."""
    from retrograde.interop.schedulers import SAMPLERS, SCHEDULERS

    file = Path(__file__).parents[2] / "benchmarks" / "results" / "peers.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    grouped: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in stored["rows"]:
        grouped.setdefault((row["package"], row["name"]), []).append(row)
    text = (
        "# The same sampler there and here\n\n"
        "Each name was run in its own code beside the plan that `retrograde.interop.schedulers` makes of it: the same "
        "closed-form network, the same first state, the same draws. *Differs by* is the largest difference of the last "
        "states over their largest value, the worst of all option sets tried; diffusers computes in float32. "
        f"{len(stored['rows'])} runs of {len(grouped)} samplers; the largest difference is "
        f"{max(row['gap'] for row in stored['rows']):.0e}.\n\n"
        "The last column is what the *peer* does wrong, as far as it is known. The plan does the same, so that it is the "
        "same sampler; `mended=True` asks for the right formula.\n"
    )
    for package in ("diffusers", "k-diffusion", "ComfyUI"):
        rows = []
        for (owner, name), runs in sorted(grouped.items()):
            if owner != package:
                continue
            recipes = sorted({run["recipe"].split("@")[0] for run in runs})
            known = SCHEDULERS.get(name) or SAMPLERS.get(name)
            slips = (known.slips if known is not None else None) or ""
            differs = f"{max(run['gap'] for run in runs):.0e}"
            rows.append((f"`{name}`", ", ".join(f"`{one}`" for one in recipes), str(len(runs)), differs, slips))
        text += f"\n## {package}, {stored['versions'].get(package, 'unknown version')}\n\n"
        text += table(("name there", "recipe here", "option sets", "differs by", "known slips of the peer"), rows)
    return text + f"\nMade by `{stored['command']}`.\n"


def inverse_page() -> str:
    """The stored run of benchmarks/inverse.py: error, weights of modes and coverage, method by method."""
    kept = stored("inverse.json")
    settings = sorted({(row["d"], row["m"]) for row in kept["rows"]})
    labels = list(dict.fromkeys(row["method"] for row in kept["rows"]))
    rows = {(row["d"], row["m"], row["method"]): row for row in kept["rows"]}

    def figure(where: tuple[int, int], label: str, key: str) -> tuple[float, float, int, int]:
        """Mean, half of its 95 % interval, runs that stayed near the data, and all runs."""
        row = rows.get((*where, label))
        values = [] if row is None else row[key]
        near = [v for v, e in zip(values, row["error"] if row else (), strict=False) if e is not None and e < 100.0]
        mean = sum(near) / max(1, len(near))
        spread = (sum((v - mean) ** 2 for v in near) / max(1, len(near) - 1)) ** 0.5
        return mean, 1.96 * spread / max(1, len(near)) ** 0.5, len(near), len(values)

    def cell(where: tuple[int, int], label: str, key: str) -> str:
        mean, half, near, runs = figure(where, label, key)
        if runs == 0:
            return ""
        if near < runs:
            return f"diverged in {runs - near} of {runs}"
        fewer = "" if runs == figure(where, "exact", key)[3] else f" (of {runs})"
        return f"{mean:.2f} ± {half:.2f}{fewer}" if key == "error" and runs > 1 else f"{mean:.2f}{fewer}"

    counts = "; ".join(
        f"d = {d}: {figure((d, m), 'exact', 'error')[3]}" for d, m in settings if m == min(n for e, n in settings if e == d)
    )
    text = (
        "# Measurements against the exact posterior\n\nA mixture of 25 Gaussians on a lattice of pitch 8, repeated over d "
        "coordinates; m numbers are seen through a random matrix with noise; the posterior is known. The sliced Wasserstein "
        f"distance (p = 1, mean over {kept['slices']} slices) of {kept['samples']} samples to as many exact draws; *exact* "
        "is that of other exact draws, the floor that no method can beat. Mean over problems with its 95 % interval; "
        f"problems in all: {counts} (fewer where a cell says of how many). Every method has 100 evaluations of the "
        "network for a sample, but for those that are named with a number of their own; a *pass* is an evaluation or a "
        "gradient through the network. No setting was tuned to these problems; the plan of `tds, fitted, 20` was fitted to "
        "others of their kind, `spread` of `pigdm` and `tds` is the "
        "standard deviation of the prior's coordinates, which papers scale to one, and the first `rho` of `pnpdm` is four "
        "times that, while `dps`, `reddiff`, `daps`, `stsl`, `sitcom` and `steered` run at defaults meant for data of size "
        "one.\n\n"
    )
    heads = ("method", "passes", *(f"d={d}, m={m}" for d, m in settings))
    for title, key in (
        ("Error", "error"),
        ("Weights of the modes, total variation to the exact ones", "modes"),
        ("Coverage of central intervals of 90 %", "coverage"),
    ):
        text += f"## {title}\n\n"
        lines = []
        for label in labels:
            passes = {f"{p:g}" for w in settings for p in rows.get((*w, label), {}).get("passes", ()) if p is not None}
            shown = "" if label == "exact" else " to ".join(sorted(passes, key=float)[:: max(1, len(passes) - 1)])
            lines.append((f"`{label}`", shown, *(cell(where, label, key) for where in settings)))
        text += table(heads, lines) + "\n"
    return (
        text
        + gaussian_posterior()
        + bar_of(settings, labels, figure, [short_of(rows, settings, label) for label in TWENTY])
        + f"\nMade by `{kept['command']}`, {kept['machine']}, one thread.\n"
    )


def bar_of(
    settings: list[tuple[int, int]],
    labels: list[str],
    figure: Callable[..., tuple[float, float, int, int]],
    short: list[tuple[int, int]],
) -> str:
    """Say in how many settings the best method has at most half the error of DPS and of DDRM at equal evaluations."""
    rows, won, floored = [], 0, 0
    for where in settings:
        dps, ddrm, floor = (figure(where, name, "error")[0] for name in ("dps", "ddrm", "exact"))
        problems = figure(where, "dps", "error")[3]
        others = [name for name in labels if name not in ("exact", "dps", "dps, 1000", "ddrm", "tds, fitted, 20")]
        # on the same problems alone, and none that diverged
        means = {name: f[0] for name in others if (f := figure(where, name, "error"))[2] == f[3] == problems > 0}
        if not means:
            continue
        best = min(means, key=lambda name: means[name])
        ratio = means[best] / min(dps, ddrm)
        won += ratio <= 0.5
        floored += floor > 0.5 * min(dps, ddrm)
        within = "yes" if ratio <= 0.5 else "no"
        rows.append((f"d={where[0]}, m={where[1]}", f"`{best}`", f"{ratio:.2f}", f"{means[best] / floor:.2f}", within))
    text = (
        "## The best method beside DPS and DDRM\n\n"
        f"At 100 evaluations it has at most half of the error of the better of the two in {won} of {len(rows)} settings "
        f"(in {floored} the floor itself is above that half).\n\n"
    )
    head = ("setting", "best", "error over that of the better of DPS and DDRM", "error over the floor", "at most half")
    text += table(head, rows)
    return text + (
        "\nWith 20 evaluations `tds, covariance, 20` has at most the error that DPS has with 1000 in "
        f"{short[0][0]} of {short[0][1]} settings, on the same problems. Its plan is the recipe's. With one that was fitted "
        "to problems of other seeds, four numbers for each dimension (`python benchmarks/inverse_fit.py`), it has so in "
        f"{short[1][0]} of {short[1][1]}.\n"
    )


TWENTY = ("tds, covariance, 20", "tds, fitted, 20")
"""Methods with 20 evaluations."""


def short_of(
    rows: dict[tuple[int, int, str], dict[str, Any]], settings: list[tuple[int, int]], label: str
) -> tuple[int, int]:
    """Count the settings in which 20 evaluations do as well as a thousand of DPS, on problems that both were run on."""
    pairs = [(rows.get((*where, label)), rows.get((*where, "dps, 1000"))) for where in settings]
    sums = []
    for ours, theirs in pairs:
        common = list(zip(ours["error"], theirs["error"], strict=False)) if ours and theirs else []
        if common:
            sums.append(tuple(sum(math.inf if e is None else e for e in errors) for errors in zip(*common, strict=True)))
    return sum(one <= other for one, other in sums), len(sums)


PAGES: dict[str, Callable[[], str]] = {
    "command": command_page,
    "inverse": inverse_page,
    "overhead": overhead_page,
    "paths": paths_page,
    "peers": peers_page,
    "recipes": recipes_page,
    "systems": systems_page,
    "tuned": tuned_page,
    **MEASURED,
}


def write_pages(app: Any) -> None:
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / f"{name}.md").write_text(HEAD + page(), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
