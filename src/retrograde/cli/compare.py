"""`retrograde compare`: which sampler for this model, at which cost."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrograde.cli import asked, complete, console, options, told

if TYPE_CHECKING:
    from retrograde.cli.question import Question


class Quality(StrEnum):
    """Of whom the quality of samples is measured."""

    leaders = "leaders"
    all = "all"
    none = "none"


def compare(
    model: options.Model,
    nfe: Annotated[str, typer.Option("--nfe", help="Budgets in network evaluations.", metavar="3-6,8")] = "3-6,8,10",
    solver: Annotated[
        str, typer.Option("--solver", help="all, or recipes by name: a,b.", autocompletion=complete.recipes)
    ] = "all",
    grid: Annotated[
        str | None,
        typer.Option(
            "--grid", help="all, or grids by name: a,b; three usual ones by default.", autocompletion=complete.grids
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=2, help="Items for the error to the reference.")] = 32,
    plan: Annotated[list[Path] | None, typer.Option("--plan", help="Plan file to compare too; repeatable.")] = None,
    tune: Annotated[bool, typer.Option("--tune/--no-tune", help="Also fit plans to the model.")] = True,
    tune_at: Annotated[str, typer.Option("--tune-at", help="Budgets to fit at, among those of --nfe.")] = "3-5",
    quality: Annotated[
        Quality,
        typer.Option("--quality", help="Of whom to measure sample quality; leaders are the three best at each budget."),
    ] = Quality.leaders,
    quality_n: Annotated[int, typer.Option("--quality-n", min=10, help="Samples for the quality.")] = 256,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Real items to hold samples against: digits, digits8, or package.module:function."),
    ] = None,
    seed: options.Seed = 0,
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    negative_prompt: options.NegativePrompt = None,
    condition: options.Condition = None,
    guidance: options.Guidance = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: options.Frames = None,
    batch_size: options.BatchSize = 64,
    reference_nfe: Annotated[int, typer.Option("--reference-nfe", min=20, help="Evaluations of the references.")] = 200,
    convert: options.Convert = False,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw the chart (needs matplotlib).")] = True,
    out: options.Out = Path("comparison"),
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare published solvers and fitted plans on one model, and write a page about it.

    DIR receives report.html, results.json, plot.png, plot.svg and pictures.png. A comparison that was stopped goes on
    where it was when it is asked for again.

    retrograde compare digits --nfe 3-8 --condition 0-9 -o comparison

    retrograde compare my-pipeline/ --prompts prompts.txt --guidance 7.5 --solver ddim,dpmpp_2m,unipc_2 --batch-size 4
    """
    from retrograde import grids, recipes
    from retrograde.cli.question import Question

    budgets = asked.numbers(nfe, "--nfe")
    chosen = tuple(asked.names(solver, recipes.names(), "recipe"))
    written = told.texts(prompt, prompts)
    size: dict[str, Any] = {"height": height, "width": width, "frames": frames}
    denoiser = asked.model(model, guidance, negative_prompt, device=device, dtype=dtype, **size)
    question = Question(
        model=model,
        denoiser=denoiser,
        nfes=tuple(budgets),
        folder=out,
        recipes=chosen,
        grids=None if grid is None else tuple(asked.names(grid, grids.names(), "grid")),
        n=n,
        seed=seed,
        condition=condition,
        prompts=written,
        negative=negative_prompt,
        guidance=guidance,
        batch_size=batch_size,
        reference_nfe=reference_nfe,
        quality=quality.value,
        quality_n=quality_n,
        data=data,
        plans=tuple((str(file), asked.plan_file(file, denoiser, convert=convert)) for file in plan or ()),
        fit=tuple(b for b in asked.numbers(tune_at, "--tune-at") if b in budgets) if tune else (),
        plot=plot,
        device=device,
        dtype=dtype,
        command=console.command_line(),
    )
    _ = question.told  # refuses what the model cannot be told, before any work
    conclude(question, as_json=as_json)


def conclude(question: Question, *, as_json: bool) -> None:
    """Answer a question and print what came of it."""
    from retrograde.cli.comparison import answer

    results = answer(question)
    if as_json:
        console.emit(results)
        return
    show(results)
    folder = question.folder
    written = [name for name in ("report.html", "results.json", "plot.png", "pictures.png") if (folder / name).is_file()]
    console.say(f"written: {', '.join(str(folder / name) for name in written)}")


def show(results: dict[str, Any]) -> None:
    """Print the best of each budget and the verdict."""
    rows = []
    for pick in results["picks"]:
        for kind in ("recipe", "fitted"):
            if (entry := pick[kind]) is not None:
                name = entry["label"] if kind == "recipe" else f"{entry['label']} plan"
                figures = (f"{entry['rms']:.4g}", f"{entry['median']:.4g}")
                rows.append((str(pick["nfe"]), name, entry["grid"], *figures))
    columns = ("nfe", "best", "grid", "rms error", "median")
    console.table(columns, rows, numbers=("nfe", "rms error", "median"), title="error to the reference, same noise")
    for line in results["verdict"]:
        console.say(f"- {line}")
    if results["failures"]:
        console.say(f"- {len(results['failures'])} did not run; report.html says why")
