"""The finished parts of a fit in a folder, so that one that was interrupted goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, final

import safetensors.torch
import torch
from torch import Tensor

from retrograde.plan import Plan
from retrograde.plan_file import write_atomically


@final
class Journal:
    """Answers known from an earlier call, and keeps new ones; without a folder it keeps nothing.

    What a crash cut short counts as not done. A question has a folder of its own inside the given one, so that a fit with
    other arguments loses nothing of this one.

    Args:
        folder: where the parts lie.
        question: what decides them, as JSON.
        probe: an answer of the network, which tells other weights; parts made with those are dropped.
    """

    def __init__(self, folder: str | PathLike[str] | None = None, question: Any = None, probe: Tensor | None = None) -> None:
        self._began, self._earlier = time.perf_counter(), 0.0
        self._known: dict[str, Any] = {}
        self._plans: dict[str, Plan] = {}
        self._folder: Path | None = None
        if folder is None:
            return
        digest = hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:12]
        self._folder = Path(folder) / digest
        answer = torch.empty(0) if probe is None else probe
        seen = self._stored("probe")
        if seen is not None and not torch.allclose(seen["probe"], answer.cpu(), rtol=1e-3, atol=1e-4):
            shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self.tensors("probe", lambda: {"probe": answer})
        for line in whole_lines(self._folder / "parts.jsonl"):
            self._known[line["name"]], self._earlier = line["value"], line["seconds"]

    @property
    def seconds(self) -> float:
        """What the fit has taken, with the interrupted calls up to the last part they finished."""
        return self._earlier + time.perf_counter() - self._began

    def value(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a part that is JSON, made if it is not known."""
        if name not in self._known:
            self._known[name] = value = make()
            if self._folder is not None:
                line = {"name": name, "value": value, "seconds": round(self.seconds, 3)}
                append_line(self._folder / "parts.jsonl", line)
        return self._known[name]

    def tensors(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        """Return a part that is tensors by name, made if it is not known; on the CPU where it was."""
        if (stored := self._stored(name)) is not None:
            return stored
        made = make()
        if self._folder is not None:
            content = safetensors.torch.save({key: one.detach().cpu().contiguous() for key, one in made.items()})
            write_atomically(self._folder / f"{name}.safetensors", content)
            self.value(f"{name}.safetensors", lambda: len(content))  # for the time it took
        return made

    def plan(self, name: str, make: Callable[[], Plan]) -> Plan:
        """Return a part that is a plan, made if it is not known."""
        if name not in self._plans:
            file = None if self._folder is None else self._folder / f"{name}.json"
            known = file is not None and file.is_file()
            self._plans[name] = Plan.load(file) if file is not None and known else make()
            if file is not None and not known:
                self._plans[name].save(file)
        return self._plans[name]

    def done(self) -> None:
        """Remove the parts: the fit is complete."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # it holds something else
                self._folder.parent.rmdir()

    def _stored(self, name: str) -> dict[str, Tensor] | None:
        file = None if self._folder is None else self._folder / f"{name}.safetensors"
        return safetensors.torch.load_file(file) if file is not None and file.is_file() else None


def whole_lines(file: Path) -> list[dict[str, Any]]:
    """Return the JSON objects in the lines of a file, without what a crash cut short; none where there is no file."""
    lines = []
    for raw in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        lines += [line] if isinstance(line, dict) else []
    return lines


def append_line(file: Path, line: Mapping[str, Any]) -> None:
    """Add a JSON object to the lines of a file; it is on the disk when this returns, and apart from a line cut short."""
    with file.open("a+b") as stream:
        if stream.tell():
            stream.seek(-1, os.SEEK_END)
            stream.write(b"\n" * (stream.read(1) != b"\n"))
        stream.write(json.dumps(line).encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
