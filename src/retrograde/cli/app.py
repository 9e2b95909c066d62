"""The commands in one place, and the one place where their errors are shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from retrograde._version import __version__
from retrograde.cli import cite, compare, demo, lists, profile, sample, show, solve, studio, train, tune
from retrograde.cli.console import show_error
from retrograde.errors import RetrogradeError

app = typer.Typer(
    name="retrograde",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run generative models backwards in time: from noise to data.",
    epilog="Start with: retrograde demo",
)

_WORK, _LOOK = "Work", "Look up"

for name, function, panel in (
    ("demo", demo.demo, _WORK),
    ("sample", sample.sample, _WORK),
    ("tune", tune.tune, _WORK),
    ("compare", compare.compare, _WORK),
    ("solve", solve.solve, _WORK),
    ("train", train.train, _WORK),
    ("studio", studio.studio, _WORK),
    ("profile", profile.profile, _LOOK),
    ("show", show.show, _LOOK),
    ("models", lists.models, _LOOK),
    ("recipes", lists.recipes, _LOOK),
    ("grids", lists.grids, _LOOK),
    ("guides", lists.guides, _LOOK),
    ("systems", lists.systems, _LOOK),
    ("cite", cite.cite, _LOOK),
):
    app.command(name, rich_help_panel=panel)(function)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"retrograde {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where an error came from (works after any command).")
    ] = False,
) -> None:
    pass  # `main` reads --traceback itself: it must also hold for errors that are raised before this function runs


def main(arguments: list[str] | None = None) -> None:
    """Run the command and leave with its exit code: 0, 1 for a failure, 2 for bad usage."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    traceback = "--traceback" in given
    given = [argument for argument in given if argument != "--traceback"]
    try:
        app(args=given, prog_name="retrograde")
    except RetrogradeError as error:
        if traceback:
            raise
        show_error(error, as_json="--json" in given)
        # What the user gave is a ValueError or a TypeError; anything else went wrong on the way.
        raise SystemExit(2 if isinstance(error, ValueError | TypeError) else 1) from None
    except OSError as error:
        if traceback:
            raise
        show_error(error, as_json="--json" in given)
        raise SystemExit(1) from None
