"""`retrograde studio`: a page that shows what a plan does."""

from __future__ import annotations

from typing import Annotated

import typer

from retrograde.cli import complete, console, options


def studio(
    model: Annotated[
        str | None,
        typer.Argument(
            help="Model to begin with, beside those that ship: a name, a model folder, or package.module:function.",
            autocompletion=complete.models,
            metavar="MODEL",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; 8787 or the next free one by default, 0 for any.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen at; any but loopback lets other machines in.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    as_json: options.AsJson = False,
) -> None:
    """Open a page that shows what a plan does: samples as they form, plans side by side, levels to drag, a fit.

    It needs the extra "studio", works offline, and listens on this machine only.

    retrograde studio digits
    """
    from retrograde.studio import serve

    def announce(address: str) -> None:
        if as_json:
            console.emit({"address": address})
        else:
            console.say(f"studio: {address}  (Ctrl-C stops it)")

    serve(model, host=host, port=port, browser=browser, announce=announce)
