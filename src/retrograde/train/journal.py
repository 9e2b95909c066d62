"""What a training says while it runs: a progress bar for people, JSON lines for programs."""

import json
from pathlib import Path
from types import TracebackType
from typing import Any, final

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@final
class Journal:
    """Append one JSON object a line to `file`, and draw a bar where the output is a terminal.

    Lines of steps after `step`, left by a training that went on after its last checkpoint, are dropped first.
    """

    def __init__(self, file: Path, steps: int, step: int, progress: bool) -> None:
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
        file.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")
        self._file = file.open("a", encoding="utf-8")
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
        )
        self._bar = Progress(*columns, TimeRemainingColumn(), disable=not progress)
        self._task = self._bar.add_task("training", total=steps, completed=step, loss=float("nan"))

    def __enter__(self) -> "Journal":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()
        self._file.close()

    def advance(self, step: int, loss: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step, loss=loss)

    def write(self, **entry: Any) -> None:
        """Append one line, at once readable by others."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
