"""Results as they come, one JSON line each, so that a comparison that was stopped goes on where it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrograde.cli.console import plain
from retrograde.tune.journal import append_line, whole_lines

Line = dict[str, Any]


class Store:
    """The lines of one question in a file that may hold those of others.

    A line that a crash cut short is left out; what has another fingerprint (another seed, other weights) is not found.
    """

    def __init__(self, file: Path, fingerprint: str) -> None:
        self._file = file
        self._fingerprint = fingerprint
        self._lines: dict[tuple[str, str], Line] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        for line in whole_lines(file):
            if line.get("of") == fingerprint:
                self._lines[line["kind"], line["key"]] = line["value"]

    def get(self, kind: str, key: str) -> Line | None:
        """Return a stored value."""
        return self._lines.get((kind, key))

    def put(self, kind: str, key: str, value: Line) -> Line:
        """Store a value; it is on the disk when this returns."""
        value = plain(value)
        append_line(self._file, {"of": self._fingerprint, "kind": kind, "key": key, "value": value})
        self._lines[kind, key] = value
        return value
