"""Pages made of stored benchmarks."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def stored(name: str) -> Any:
    """What a benchmark left in benchmarks/results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows of cells as Markdown."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def gaussian_posterior() -> str:
    """The stored run of benchmarks/inverse_gaussian.py, a section of the page of inverse methods."""
    kept = stored("inverse_gaussian.json")
    text = (
        "## Gaussian data\n\nFour numbers with a Gaussian prior, two mixtures of them seen with noise: mean and "
        f"covariance of the posterior are known. Their relative errors over {kept['runs']} runs, beside the standard "
        "error by which the runs differ: what is well above it is bias, which no more samples take away. A test holds "
        "the methods that are exact for such data to three standard errors.\n\n"
    )
    head = ("method", "exact for", "samples, evaluations", "mean", "standard error", "covariance", "standard error")
    lines = []
    for name, row in kept["methods"].items():
        figures = (f"{row[key]:.3f}" for key in ("mean", "mean_floor", "covariance", "covariance_floor"))
        settings = "".join(f", {key}={value}" for key, value in row["settings"].items())
        exact = {"": "", "gaussian": "Gaussian data", "all": "all data"}[row["exact"]]
        lines.append((f"`{name}`", exact, f"{row['n']}, {row['nfe']}{settings}", *figures))
    return text + table(head, lines) + f"\nMade by `{kept['command']}`.\n\n"


def inverse_digits_page() -> str:
    """The stored run of benchmarks/inverse_digits.py."""
    kept = stored("inverse_digits.json")
    text = (
        f"# Measurements of digits\n\n{kept['items']} unseen digits, measured with noise, and {kept['samples']} samples of "
        f"each method for each, at {kept['nfe']} evaluations (gradients come on top). PSNR in dB of the samples' mean and "
        "of single samples; the part that a classifier takes for the digit that was measured; the distance of its features "
        "to those of the truth; the misfit in standard deviations of the noise; and how often the truth of a pixel lies "
        "between the least and the greatest sample, where samples differ: "
        f"{kept['claimed']:.2f} for samples of the posterior.\n\n"
        "![Truth, mean, standard deviation and samples, for each task](../images/inverse_digits.png)\n\n"
    )
    head = ("task", "method", "PSNR, mean", "PSNR, sample", "same digit", "features", "misfit", "coverage")
    lines = []
    for row in kept["rows"]:
        figures = [f"{row[key]:.1f}" for key in ("psnr_mean", "psnr_sample")]
        figures += [f"{row['same_digit']:.2f}", f"{row['features']:.1f}", f"{row['misfit']:.2f}", f"{row['coverage']:.2f}"]
        lines.append((f"{row['task']} (`{row['operator']}`)", f"`{row['method']}`", *figures))
    return text + table(head, lines) + f"\nMade by `{kept['command']}`, one thread.\n"


def transfer_page() -> str:
    """The stored run of benchmarks/transfer.py."""
    kept = stored("transfer.json")
    text = (
        "# A plan on another model\n\nError on held-out noise (root mean square distance to the end points of a fine "
        "solver, per element) of a plan that was fitted to something else, of a fit to the model itself, and of the best "
        "of the usual recipes. The models were trained on the same digits, on different paths and with different targets; "
        "`w` is the guidance weight.\n\n"
    )
    named = lambda name, weight: f"`{name}`" if weight is None else f"`{name}`, w = {weight:g}"  # noqa: E731
    lines = []
    for row in kept["rows"]:
        errors = [f"{row[name]:.3g}" for name in ("transferred", "own", "recipe")]
        source, target = named(row["source"], row["fitted at"]), named(row["target"], row["weight"])
        lines.append((source, target, str(row["nfe"]), *errors))
    text += table(("fitted to", "run on", "evaluations", "its error", "own fit", "best recipe"), lines)
    commands = sorted({row["command"] for row in kept["rows"]})
    return text + f"\n{kept['rows'][0]['items']} items. Made by `" + "`, `".join(commands) + "`, one thread.\n"


def universal_page() -> str:
    """The stored run of benchmarks/universal.py."""
    kept = stored("universal.json")
    text = (
        "# One fit for all budgets and guidance weights\n\nError of the plans of a universal fit on held-out noise (root "
        "mean square distance to the end points of a fine solver, per element), and in brackets its ratio to that of a fit "
        "of `tune` for exactly that weight and budget. Weights 1, 2, 4 and 8 were fitted; at others the coefficients are "
        "interpolated.\n\n"
    )
    for model, fit in kept["fits"].items():
        current = [row for row in kept["rows"] if row["model"] == model and row.get("of") == fit["evaluations"]]
        rows = {(row["weight"], row["nfe"]): row for row in current}
        budgets, weights = (sorted({key[place] for key in rows}) for place in (1, 0))
        lines = []
        for nfe in budgets:
            cells = [rows.get((weight, nfe)) for weight in weights]
            shown = [f"{c['universal']:.3g} ({c['universal'] / c['own']:.2f})" if c else "" for c in cells]
            lines.append((str(nfe), *shown))
        near = sum(row["universal"] <= 1.1 * row["own"] for row in rows.values())
        own = sum(row["evaluations"] for row in rows.values())
        together = ", ".join(fit["validation_error"])
        learned = " or ".join(str(n) for n in sorted({row["learned from"] for row in rows.values()}))
        text += (
            f"## `{model}`\n\n{table(('evaluations', *(f'weight {weight:g}' for weight in weights)), lines)}\n{near} of "
            f"{len(rows)} are within a tenth of their own fit; {fit['items']} items. The universal fit (budgets "
            f"{together}, at four weights) took {fit['evaluations']:,} evaluations over all items, the {len(rows)} fits "
            f"beside it {own:,}; each of these learned from {learned} items.\n\n"
        )
    commands = sorted({row["command"] for row in kept["rows"] if "of" in row})
    return text + "Made by `" + "`, `".join(commands) + "`, one thread.\n"


NAMED = {
    "mixture64": "A mixture of 500 digits of 8 by 8, in closed form",
    "digits8-flow": "A UNet on digits of 8 by 8, velocity on the straight path",
    "digits8-noise": "A UNet on digits of 8 by 8, noise on the discrete cosine path",
    "digits14": "A perceptron on digits of 14 by 14, v on a VP path",
    "digits14:guided3": "The same, guided with weight 3",
    "digits:labels": "A UNet on digits of 28 by 28 that is told the class",
    "digits": "The same, told no class",
}


def twice_page() -> str:
    """The stored run of benchmarks/tuned_twice.py."""
    kept = with_tuned(stored("tuned_twice.json"))
    text = (
        "# How many times more evaluations a recipe needs\n\nError is the root mean square distance, per element, to the "
        f"end points a fine solver reaches from the same noise, over {kept['items']} items that the fit never saw, with the "
        "95% bootstrap interval; *learned* is that over items the fit learned from. The recipe is the best of all "
        f"deterministic ones ({kept['recipes']} are registered) on all grids. *Factor* is the largest of 1, 1.5, 1.7, 2, "
        "2.5, 3 and 3.5 up to which the best recipe with so many times the evaluations (rounded up) is no nearer than the "
        "fit by the root mean square, and after the slash by the median over items; *or more* where no race was run above. "
        "What the corrections of all rows cost together is counted in evaluations, by multiply-accumulates. FD is the "
        f"Fréchet distance of {kept['frechet_samples']} samples to the training data, on pixels (`digits`: on features of a "
        "classifier), and, after the slash, to samples of the fine solver from other noise. "
        f"torch {kept['torch']}.\n\n"
    )
    head = ("N", "error", "median", "learned", "corrections cost", "FD")
    head = (*head, "best recipe at 2N", "its median", "its FD", "factor", "fit")
    held, pairs = 0, 0
    for model, title in NAMED.items():
        races = {int(budget): race for budget, race in kept["races"].get(model, {}).items()}
        rows = [row for row in kept["rows"] if row["model"] == model and 2 * row["nfe"] in races]
        lines = []
        for row in rows:
            nfe, rival = row["nfe"], races[2 * row["nfe"]]
            cost = row["corrections"]["evaluations"] if row["corrections"] else 0.0
            named = f"{rival['rms']:.4f}: {rival['recipe']} on {rival['grid']}"
            reached = " / ".join(factor(row, races, figure) for figure in ("rms", "median"))
            low, high = row["interval"]
            learned = f"{row['learned_rms']:.4f}" if "learned_rms" in row else ""
            errors = (f"{row['rms']:.4f} ({low:.4f} to {high:.4f})", f"{row['median']:.4f}", learned)
            shown = (f"{cost:.2f}", apart(row), named, f"{rival['median']:.4f}", apart(rival), reached)
            lines.append((str(nfe), *errors, *shown, f"{row['seconds']:.0f} s, {row['effort']}"))
            held += row["rms"] <= rival["rms"]
        pairs += len(rows)
        if rows:
            fine = f"Samples of the fine solver have a Fréchet distance of {rows[0]['fine_frechet']:.3f} to the data."
            text += f"## `{model}`\n\n{title}. {fine}\n\n{table(head, lines)}\n"
    text += f"With twice the evaluations the best recipe is no nearer in {held} of {pairs} pairs of model and budget.\n\n"
    commands = sorted({row["command"] for row in kept["rows"]})
    return text + "Made by `" + "`, `".join(commands) + "`, one thread.\n"


def with_tuned(kept: dict[str, Any]) -> dict[str, Any]:
    """Those results with the fits and races of benchmarks/tuned_plans.py where they have none of that model and budget."""
    rows, races = [*kept["rows"]], {model: dict(raced) for model, raced in kept["races"].items()}
    known = {(row["model"], row["nfe"]) for row in rows}
    for row in stored("tuned_plans.json")["rows"]:
        parts = [row.get(name, {}) for name in ("fitted", "x1.7", "x2", "fine")]
        if (row["model"], row["nfe"]) in known or not all("frechet" in part for part in parts):
            continue
        fit, *rivals, fine = parts
        key = {"model": row["model"], "nfe": row["nfe"], "fine_frechet": fine["frechet"], "command": row["command"]}
        rows.append({**fit, **key})
        for rival in rivals:
            races.setdefault(row["model"], {}).setdefault(str(rival["nfe"]), rival)
    return {**kept, "rows": sorted(rows, key=lambda row: (row["model"], row["nfe"])), "races": races}


FACTORS = (1.0, 1.5, 1.7, 2.0, 2.5, 3.0, 3.5)


def factor(row: dict[str, Any], races: dict[int, dict[str, Any]], figure: str) -> str:
    """The largest factor up to which no raced budget's best recipe is nearer than a fit."""
    raced = {one: races[math.ceil(one * row["nfe"])] for one in FACTORS if math.ceil(one * row["nfe"]) in races}
    lost = min((one for one, race in raced.items() if race[figure] < row[figure]), default=math.inf)
    won = [one for one in raced if one < lost]
    more = " or more" if won and max(won) == max(raced) else ""
    return f"{max(won):g}{more}" if won else f"under {min(raced):g}"


def apart(one: dict[str, Any]) -> str:
    """Both Fréchet distances of a plan's samples."""
    return f"{one['frechet']:.3f} / {one['frechet_to_fine']:.3f}"


def families_page() -> str:
    """The stored run of benchmarks/families.py: errors of every family, and over that of four predictions alone."""
    kept = stored("families.json")
    text = (
        "# What each family of tables is worth\n\nOn the same noise levels (those that the search of effort `minutes` finds "
        f"for scalar coefficients) each family is fitted to the same {kept['learned']} trajectories. Root mean square "
        f"distance, per element, to the end points of the fine solver on {kept['items']} other items; in brackets its ratio "
        "to *four predictions*, which is the state and the four newest predictions with scalar coefficients, the ratio of "
        "the medians over items, and the ratio of errors on the items learned from. *and*, *in* and *told times* add to "
        "four predictions. What a row gains by a correction is [elsewhere](tuned.md), since that wants many more items.\n\n"
    )
    rows, names = kept["rows"], list(dict.fromkeys(name for row in kept["rows"] for name in row["families"]))
    lines = []
    for name in names:
        cells = []
        for row in rows:
            one, plain = row["families"].get(name), row["families"]["four predictions"]
            ratios = [one[key] / plain[key] for key in ("rms", "median", "learned_rms")] if one else []
            cells.append(f"{one['rms']:.4f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)})" if one else "")
        lines.append((name, *cells))
    commands = sorted({row["command"] for row in rows})
    head = ("a row has", *(f"`{row['model']}`, {row['nfe']}" for row in rows))
    return text + table(head, lines) + "\nMade by `" + "`, `".join(commands) + "`, one thread.\n"


def baselines_page() -> str:
    """The stored run of benchmarks/baselines.py: errors of every tuner, who was best, and what each fit asked for."""
    kept = stored("baselines.json")
    rows = {(row["model"], row["nfe"], row["tuner"]): row for row in kept["rows"]}
    others = sorted({tuner for _, _, tuner in rows} - {"tune"})
    pairs = list(dict.fromkeys(key[:2] for key in rows if key[2] != "tune"))
    settings = kept["rows"][0]["settings"]
    numbers = [row["settings"]["numbers"] for row in kept["rows"] if row["tuner"] == "tune"]
    efforts = {
        f"{one['fit']} trajectories of {one['levels']} levels, {one['validation']} more to validate" for one in numbers
    }
    text = (
        "# The tuner beside other people's\n\nError is the distance, per element, to the end points of a fine solver from "
        "the same noise. `rg.tune` ran without its races of published solvers, and each tuner of `rg.baselines` was given "
        "as many network evaluations for its fit as `tune` asked for at that model and budget, "
        "over all items, reference included. Trajectories, steps of descent or trials are as many as that allows, so the "
        "others have more or fewer of them than in their papers; `dmn` asks for none. Those that begin on a published grid "
        "begin on the best of five, which was not counted. Coefficients of descents are common to all samples, also where a "
        "paper predicts them for each (`amed`), and distances are squared errors where a paper has a trained one.\n\n"
        f"`mixture64` is a Gaussian mixture over 500 of the 8x8 digits. {settings['items']} items that no fit saw; "
        f"`tune` with {' or '.join(sorted(efforts))}; the best in bold. Errors on the mixture are mostly those of few items "
        "that end at another digit than the fine solver's: beyond four evaluations the middle item tells more.\n\n"
    )
    for key, title in (
        ("rms", "Root mean square error"),
        ("median", "Median error, over items"),
    ):
        held = {pair: {one: rows[*pair, one][key] for one in ("tune", *others) if (*pair, one) in rows} for pair in pairs}
        lines = []
        for tuner in ("tune", *others):
            cells = [f"{held[pair][tuner]:.4f}" if tuner in held[pair] else "not run" for pair in pairs]
            best = [held[pair].get(tuner) == min(held[pair].values()) for pair in pairs]
            lines.append((f"`{tuner}`", *(f"**{cell}**" if won else cell for cell, won in zip(cells, best, strict=True))))
        text += f"## {title}\n\n{table(('', *(f'`{model}`, {nfe}' for model, nfe in pairs)), lines)}\n"
        nearer = {
            pair: [f"`{one}`" for one in others if held[pair].get(one, math.inf) <= held[pair]["tune"]] for pair in pairs
        }
        lost = [f"{', '.join(names)} on `{model}` at {nfe}" for (model, nfe), names in nearer.items() if names]
        text += f"Nearer than `tune`: {'; '.join(lost) or 'none'}.\n\n"
    text += (
        "## Pair by pair\n\nOn how many pairs of model and budget the error of `tune` is smaller than the other's, the "
        "geometric mean of the other's error over that of `tune`, and the evaluations of its fits over those of `tune`.\n\n"
    )
    lines = []
    for one in others:
        both = [(rows[*pair, "tune"], rows[*pair, one]) for pair in pairs if (*pair, one) in rows]
        won = [f"{sum(a[key] < b[key] for a, b in both)} of {len(both)}" for key in ("rms", "median")]
        means = [math.prod(b[key] / a[key] for a, b in both) ** (1 / len(both)) for key in ("rms", "median")]
        parts = [b["evaluations"] / a["evaluations"] for a, b in both]
        cost = " to ".join(sorted({f"{part:.2f}" for part in (min(parts), max(parts))}))
        lines.append((f"`{one}`", *won, *(f"{mean:.2f}" for mean in means), cost))
    head = ("against", "smaller error", "smaller median", "ratio of errors", "ratio of medians", "evaluations")
    commands = sorted({row["command"] for row in kept["rows"]})
    return text + table(head, lines) + "\nMade by `" + "`, `".join(commands) + "`, one thread.\n"


REUSED = {
    "digits": "`digits`, a UNet",
    "dit8": "A transformer of six blocks, trained on digits of 8 by 8",
    "digits guided": "`digits`, guided with weight 2",
    "dit8 guided": "The transformer, guided with weight 2",
}


def reuse_page() -> str:
    """The stored runs of benchmarks/reuse.py and benchmarks/reuse_speed.py."""
    kept, speed = stored("reuse.json"), stored("reuse_speed.json")
    text = (
        "# Reuse, fewer steps and fitted plans\n\nEvery policy over 20 steps of DDIM, beside as many steps of DDIM as its "
        "multiply-accumulates pay for, and beside a plan fitted for as many evaluations (`digits`: at most 12). Parts are "
        "of the uncached run, seconds of one thread for a batch. Distances are root mean squares per element, "
        "to the uncached run and to the end points of a fine solver; the third is the Fréchet distance to the data, of few "
        "samples: it tells small differences of one model apart no better than chance.\n\n"
    )
    head = ("policy", "MACs", "seconds", "in steps", "to uncached", "steps", "to fine", "steps", "fitted")
    head = (*head, "Fréchet", "steps", "fitted")
    for name, title in REUSED.items():
        if name not in kept:
            continue
        whole, *rows = kept[name]["rows"]
        lines = []
        for row in rows:
            fewer, fit, seconds = row["same recipe"], row["fitted"], row["seconds"]
            part = (row["macs"] / whole["macs"], seconds["here"] / seconds["uncached"])
            far = [row["to uncached"], fewer["to uncached"], *(one["to fine"] for one in (row, fewer, fit))]
            figures = [f"{one:.3f}" for one in far] + [f"{one['frechet']:.2f}" for one in (row, fewer, fit)]
            lines.append((row["case"], *(f"{one:.0%}" for one in part), str(row["steps it pays for"]), *figures))
        text += (
            f"## {title}\n\n{kept[name]['items']} samples. Uncached: {whole['macs']:.3g} multiply-accumulates an item, "
            f"{whole['to fine']:.3f} to the fine solver, Fréchet distance {whole['frechet']:.2f}.\n\n{table(head, lines)}\n"
        )
    lines = [
        (
            name,
            f"{row['part']:.0%}",
            f"{row['seconds']['median']:.0%}",
            " to ".join(f"{q:.0%}" for q in row["seconds"]["quartiles"]),
        )
        for name, row in speed["unet costs"]["rows"].items()
    ]
    text += (
        "## A UNet of Stable Diffusion's shape with random weights\n\nCosts alone, ten steps: parts of the uncached run, "
        "pair by pair in turns.\n\n" + table(("policy", "MACs", "seconds, median", "quartiles"), lines)
    )
    return text + "\nMade by `python -m benchmarks reuse reuse_speed`, one thread.\n"


MEASURED: dict[str, Callable[[], str]] = {
    "baselines": baselines_page,
    "families": families_page,
    "inverse_digits": inverse_digits_page,
    "reuse": reuse_page,
    "transfer": transfer_page,
    "twice": twice_page,
    "universal": universal_page,
}
