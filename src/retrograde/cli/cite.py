"""`retrograde cite`: whom to credit."""

from __future__ import annotations

from typing import Annotated

import typer

from retrograde.cli import complete, console, options


def cite(
    name: Annotated[
        str,
        typer.Argument(
            help="A recipe, an arXiv id, or a title.",
            autocompletion=complete.recipes,
            show_default=False,
            metavar="NAME",
        ),
    ],
    as_json: options.AsJson = False,
) -> None:
    """Print the BibTeX entry of a method.

    retrograde cite dpmpp_2m
    """
    import retrograde as rg

    entry = rg.cite(name)
    if as_json:
        console.emit({"name": name, "bibtex": entry})
    else:
        console.say(entry)
