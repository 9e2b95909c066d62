"""`retrograde sample`: draw items from a model into a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrograde.cli import asked, complete, console, options, output, pictures
from retrograde.errors import BadValue

if TYPE_CHECKING:
    from retrograde.denoisers import AbstractDenoiser
    from retrograde.plan import Plan, Row
    from retrograde.run import State


def sample(
    model: options.Model,
    solver: Annotated[
        str | None,
        typer.Option(
            "--solver", help="Recipe (`retrograde recipes`); dpmpp_2m by default.", autocompletion=complete.recipes
        ),
    ] = None,
    nfe: Annotated[int | None, typer.Option("--nfe", min=1, help="Network evaluations per item; 10 by default.")] = None,
    grid: Annotated[
        str | None, typer.Option("--grid", help="Grid (`retrograde grids`).", autocompletion=complete.grids)
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="Option of recipe or grid, such as eta=0.5; repeatable.")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Plan file to run, instead of --solver, --nfe and --grid.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many items.")] = 16,
    seed: options.Seed = 0,
    condition: options.Condition = None,
    guidance: options.Guidance = None,
    threshold: options.Threshold = None,
    batch_size: options.BatchSize = 64,
    convert: options.Convert = False,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="File: .png (pictures), .npz, .safetensors; samples.png or .npz by default."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw items from a model into a file.

    retrograde sample digits --nfe 8 --condition 0-9 -n 20 -o digits.png
    """
    both = {"--solver": solver, "--nfe": nfe, "--grid": grid, "--set": option or None}
    if plan is not None and (beside := [name for name, value in both.items() if value is not None]):
        raise BadValue(
            f"--plan beside {', '.join(beside)}", "a plan, or a recipe to make one", f"leave out {beside[0]} or --plan"
        )
    denoiser = asked.model(model, guidance)
    out = out or Path("samples.png" if pictures.is_picture(denoiser.shape) else "samples.npz")
    output.check(out, denoiser.shape)
    asked.check_labels(denoiser, condition)
    import retrograde as rg

    if threshold is not None:
        denoiser = rg.guide.threshold(denoiser, threshold)
    if plan is not None:
        table = asked.plan_file(plan, denoiser, convert=convert)
    else:
        table = rg.plan(solver or "dpmpp_2m", denoiser, nfe=nfe or 10, grid=grid, **asked.settings(option or []))
    made_by = {
        "command": console.command_line(),
        "model": model,
        "recipe": table.recipe,
        "path": table.path.config(),
        "nfe": table.nfe,
        "seed": seed,
        "condition": condition,
        "guidance": guidance,
        "threshold": threshold,
    }
    cost = _draw(denoiser, table, n, seed, condition, batch_size, out, made_by)
    if as_json:
        console.emit({"file": str(out), "n": n, **made_by, **cost})
    else:
        console.say(f"{out}: {n} items by {table.recipe}, {cost['evaluations']} evaluations each, {cost['seconds']:.2f} s")


def _draw(
    denoiser: AbstractDenoiser,
    plan: Plan,
    n: int,
    seed: int,
    condition: str | None,
    batch_size: int,
    out: Path,
    made_by: dict[str, Any],
) -> dict[str, Any]:
    import retrograde as rg
    from retrograde.run import NonFinite

    given = asked.condition(condition, n)
    with console.progress("sampling", len(plan) * math.ceil(n / batch_size)) as advance:
        watch = Watch(advance)
        try:
            samples = rg.sample(denoiser, plan, n, seed, batch_size=batch_size, condition=given, controllers=[watch])
        except NonFinite as error:
            if error.samples is not None:
                output.write(out, error.samples, error.finished, made_by)
                error.mend += f"\n  written: {len(error.finished)} of {n} items, those that were finite, to {out}"
            raise
    output.write(out, samples, range(n), made_by)
    return {"evaluations": watch.evaluations, "seconds": watch.seconds}


class Watch:
    """A controller that only looks: it moves the progress bar and remembers the cost."""

    consumes: frozenset[str] = frozenset()

    def __init__(self, advance: console.Advance) -> None:
        self._advance = advance
        self._finished = 0.0
        self.evaluations = 0
        self.seconds = 0.0

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...]:
        """Leave the rows as they are."""
        if state is None:
            self._finished = self.seconds
        return remaining

    def correct(self, state: State) -> Any:
        """Leave the state as it is."""
        self._advance(1)
        self.evaluations = state.ledger.nfe
        self.seconds = self._finished + state.ledger.seconds
        return state.x_t
