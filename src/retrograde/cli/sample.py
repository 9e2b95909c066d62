"""`retrograde sample`: draw items from a model into a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retrograde.cli import asked, complete, console, options, output, pictures, steering, told
from retrograde.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

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
        list[str] | None,
        typer.Option("--set", help="Option of recipe, grid or plan, such as eta=0.5 or start=0.99; repeatable."),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Plan file to run, instead of --solver, --nfe and --grid.")
    ] = None,
    adaptive: Annotated[
        str | None,
        typer.Option(
            "--adaptive",
            help="Pair of methods that chooses its own steps, such as dpm_23 (--set rtol=0.01), instead of a plan.",
            metavar="PAIR",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many items.")] = 16,
    seed: options.Seed = 0,
    prompt: options.Prompt = None,
    prompts: options.Prompts = None,
    negative_prompt: options.NegativePrompt = None,
    condition: options.Condition = None,
    guidance: options.Guidance = None,
    guide: options.Guide = None,
    threshold: options.Threshold = None,
    height: options.Height = None,
    width: options.Width = None,
    frames: options.Frames = None,
    batch_size: options.BatchSize = 64,
    convert: options.Convert = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            help="File: .png (pictures), .npz, .safetensors; or a folder, for a .png of each item. samples.png or .npz by "
            "default.",
        ),
    ] = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = None,
    as_json: options.AsJson = False,
) -> None:
    """Draw items from a model into a file; those of a latent model are decoded.

    retrograde sample digits --nfe 8 --condition 0-9 -n 20 -o digits.png

    retrograde sample my-pipeline/ --prompt "a red cat" --guidance 7.5 -n 4 -o cats/
    """
    made = {"--solver": solver, "--nfe": nfe, "--grid": grid}
    _alone("--plan", plan, made | {"--set": option or None, "--adaptive": adaptive})
    _alone("--adaptive", adaptive, made)
    written = told.texts(prompt, prompts)
    size: dict[str, Any] = {"height": height, "width": width, "frames": frames}
    place: dict[str, Any] = {"device": device, "dtype": dtype}
    denoiser = asked.model(model, guidance, negative_prompt, **place, **size)
    shape = pictures.data_shape(denoiser)
    out = out or Path("samples.png" if pictures.is_picture(shape) else "samples.npz")
    output.check(out, shape)
    conditions = told.Told(denoiser, condition, written)
    import retrograde as rg

    towards = (guidance is not None and negative_prompt is None) or steering.leads_nowhere(guide or [])
    if towards and denoiser.conditions and condition is None and not written:
        console.note("note: guidance without --condition or --prompt leads from the model to itself")
    denoiser, steered = steering.guided(denoiser, guide or [], **place)
    if threshold is not None:
        denoiser = rg.guide.threshold(denoiser, threshold)
    deciding: dict[str, Any] = {}
    if plan is not None:
        table = asked.plan_file(plan, denoiser, convert=convert)
    elif adaptive is not None:
        from retrograde.noise import Brownian

        chosen = rg.controllers.adaptive(denoiser, adaptive, **asked.options(option or [], rg.controllers.adaptive))
        table = chosen.plan
        deciding = {"controllers": [chosen]} | ({"noise": Brownian} if chosen.pair.stochastic else {})
    else:
        table = rg.plan(solver or "dpmpp_2m", denoiser, nfe=nfe or 10, grid=grid, **asked.settings(option or []))
    table = steered(table)
    made_by = {
        "command": console.command_line(),
        "model": model,
        "recipe": table.recipe,
        "path": table.path.config(),
        "nfe": None if deciding else table.nfe,
        "seed": seed,
        "condition": condition,
        "prompts": written or None,
        "negative_prompt": negative_prompt,
        "guidance": guidance,
        "guide": guide,
        "threshold": threshold,
        **place,
    }
    given = {"condition": conditions(n), "batch_size": batch_size, "device": device}
    output.check_place(out)
    with console.left_alone(out):
        cost = _draw(denoiser, table, n, seed, out, made_by, given | deciding)
    if as_json:
        console.emit({"file": str(out), "n": n, **made_by, **cost})
    else:
        console.say(f"{out}: {n} items by {table.recipe}, {cost['evaluations']} evaluations each, {cost['seconds']:.2f} s")


def _alone(name: str, value: Any, others: dict[str, Any]) -> None:
    """Raise BadValue where an option that decides the plan stands beside others that do."""
    if value is not None and (beside := [other for other, given in others.items() if given is not None]):
        allowed = "one way to decide the steps"
        raise BadValue(f"{name} beside {', '.join(beside)}", allowed, f"leave out {beside[0]} or {name}")


def _draw(
    denoiser: AbstractDenoiser,
    plan: Plan,
    n: int,
    seed: int,
    out: Path,
    made_by: dict[str, Any],
    options: dict[str, Any],
) -> dict[str, Any]:
    import retrograde as rg
    from retrograde.run import NonFinite

    with console.progress("sampling", len(plan) * math.ceil(n / options["batch_size"])) as advance:
        watch = Watch(advance)
        options["controllers"] = [*options.get("controllers", ()), watch]
        try:
            samples = rg.sample(denoiser, plan, n, seed, **options)
        except NonFinite as error:
            if error.samples is not None:
                _write(denoiser, out, error.samples, error.finished, made_by)
                error.mend += f"\n  written: {len(error.finished)} of {n} items, those that were finite, to {out}"
            raise
    files = _write(denoiser, out, samples, range(n), made_by)
    return {"evaluations": watch.evaluations, "seconds": watch.seconds, "files": [str(file) for file in files]}


def _write(
    denoiser: AbstractDenoiser, out: Path, samples: Tensor, items: Sequence[int], made_by: dict[str, Any]
) -> list[Path]:
    latents = None if denoiser.codec is None else samples
    return output.write(out, pictures.decoded(denoiser, samples).cpu(), items, made_by, latents)


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
