"""What the command prints: results on stdout; progress, remarks and errors on stderr."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retrograde.errors import RetrogradeError

Advance = Callable[..., None]
"""advance(units, text=None): so many units of work are done; what is being worked on."""


def emit(value: Any) -> None:
    """Print a result as JSON on stdout; what is not finite becomes null."""
    print(json.dumps(plain(value), indent=1, allow_nan=False), flush=True)


def plain(value: Any) -> Any:
    """Return a value as JSON holds it: tuples as lists, NaN and infinity as None, all else as text."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def say(text: str = "") -> None:
    """Print a line of a result on stdout."""
    print(text, flush=True)


def note(text: str) -> None:
    """Print a remark on stderr."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[str] = (), title: str = "") -> None:
    """Print a table on stdout; columns named in `numbers` are aligned to the right, the last one may wrap."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        made.add_column(
            column, justify="right" if column in numbers else "left", overflow="fold", no_wrap=column != columns[-1]
        )
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    # Through a pipe there is no width to fit, and a wrapped cell would break what reads the lines.
    Console(width=None if sys.stdout.isatty() else 200).print(made)


@contextmanager
def progress(text: str, total: float) -> Generator[Advance, None, None]:
    """A progress bar on stderr, silent where stderr is not a terminal; yields its `Advance`."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=total)

        def advance(units: float, text: str | None = None) -> None:
            bar.update(task, advance=units, description=text)

        yield advance


def show_error(error: Exception, *, as_json: bool) -> None:
    """Print an error on stderr as given, allowed and mend; with `as_json` also as JSON on stdout."""
    if isinstance(error, RetrogradeError):
        parts = {"given": error.given, "allowed": error.allowed, "mend": error.mend}
        text = f"{error.given}\n  allowed: {error.allowed}\n  mend: {error.mend}"
    else:
        parts = {"given": str(error)}
        text = str(error)
    note(f"error: {text}")
    if as_json:
        emit({"error": {"kind": type(error).__name__, **parts}})


@contextmanager
def left_alone(file: Path, then: str = "the same command makes the same again") -> Generator[None, None, None]:
    """Say of work that was interrupted what became of the file it would have written, nothing, and what to do then."""
    try:
        yield
    except KeyboardInterrupt:
        note(f"interrupted: {file} is as it was; {then}")
        raise


def command_line() -> str:
    """Return the command that is running, as one would type it again."""
    return shlex.join(["retrograde", *sys.argv[1:]])
