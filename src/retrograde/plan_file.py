"""Plans as files and as text: versioned JSON with tensors beside it in safetensors, and the printed table."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from os import PathLike
from pathlib import Path as File
from typing import Any, Literal

import pydantic
import safetensors.torch
import torch
from torch import Tensor

from retrograde import paths
from retrograde.errors import BadValue
from retrograde.plan import Plan, Row

VERSION = 1


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class TensorName(_Strict):
    """Where a tensor coefficient lies in the safetensors file beside the plan."""

    tensor: str


class RowFile(_Strict):
    """A row as JSON."""

    time: float | None
    next_time: float | None
    network_time: float | None = None
    states: list[float | TensorName]
    outputs: list[float | TensorName] = []
    noises: list[float | TensorName] = []
    knobs: dict[str, Any] = {}
    renoise: bool = False


class PlanFile(_Strict):
    """A plan as JSON; the schema of the file."""

    format: Literal["retrograde.plan"]
    version: Literal[1]
    recipe: str
    path: dict[str, Any]
    basis: str
    start: float
    misses: list[str] = []
    history: int = 0
    provenance: dict[str, Any] = {}
    report: dict[str, Any] | None = None
    rows: list[RowFile]


def write_atomically(file: str | PathLike[str], content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    target = File(file)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def save(plan: Plan, file: str | PathLike[str]) -> None:
    """Write a plan; tensor coefficients go to the same name with the ending .safetensors, first."""
    tensors: dict[str, Tensor] = {}

    def coefficient(value: float | Tensor, name: str) -> float | dict[str, str]:
        if not isinstance(value, Tensor):
            return float(value)
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}

    rows = []
    for k, row in enumerate(plan.rows):
        entry: dict[str, Any] = dataclasses.asdict(dataclasses.replace(row, states=(), outputs=(), noises=()))
        for part in ("states", "outputs", "noises"):
            entry[part] = [coefficient(v, f"rows.{k}.{part}.{i}") for i, v in enumerate(getattr(row, part))]
        rows.append(entry)
    report = plan.report
    content = {
        "format": "retrograde.plan",
        "version": VERSION,
        "recipe": plan.recipe,
        "path": plan.path.config(),
        "basis": plan.basis,
        "start": plan.start,
        "misses": list(plan.misses),
        "history": plan.history,
        "provenance": dict(plan.provenance),
        "report": dataclasses.asdict(report)
        if dataclasses.is_dataclass(report) and not isinstance(report, type)
        else report,
        "rows": rows,
    }
    if tensors:
        write_atomically(_tensor_file(file), safetensors.torch.save(tensors))
    write_atomically(file, json.dumps(content, indent=1).encode())


def _tensor_file(file: str | PathLike[str]) -> File:
    return File(file).with_suffix(".safetensors")


def load(file: str | PathLike[str]) -> Plan:
    """Read a plan file.

    Raises:
        BadValue: not a plan file, an unknown version, an unknown or missing field; the message names the place.
    """
    text = File(file).read_text()
    try:
        parsed = PlanFile.model_validate_json(text)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise BadValue(
            f"{file}: {place}: {first['msg']} ({error.error_count()} problems in all)",
            f"a plan file of version {VERSION}",
            "write it with plan.save(file)",
        ) from None
    named = any(isinstance(c, TensorName) for row in parsed.rows for c in (*row.states, *row.outputs, *row.noises))
    tensors = safetensors.torch.load_file(_tensor_file(file)) if named else {}

    def coefficient(value: float | TensorName) -> float | Tensor:
        return tensors[value.tensor] if isinstance(value, TensorName) else value

    rows = tuple(
        Row(
            row.time,
            row.next_time,
            tuple(map(coefficient, row.states)),
            tuple(map(coefficient, row.outputs)),
            tuple(map(coefficient, row.noises)),
            row.network_time,
            row.knobs,
            row.renoise,
        )
        for row in parsed.rows
    )
    return Plan(
        paths.from_config(parsed.path),
        rows,
        parsed.basis,
        parsed.recipe,
        parsed.start,
        tuple(parsed.misses),
        parsed.history,
        parsed.provenance,
        parsed.report,
    )


def text(plan: Plan) -> str:
    """Return the plan as a table: the specification of a sampler."""
    head = f"{plan.recipe}  path {plan.path.fingerprint}  basis {plan.basis}  nfe {plan.nfe}"
    head += "  stochastic" if plan.stochastic else "  deterministic"
    if plan.misses:
        head += f"  misses: {', '.join(plan.misses)}"
    if plan.history:
        head += f"  needs {plan.history} earlier predictions"
    table = [("row", "time", "sigma", "told", "next", "states", "outputs", "noises", "knobs")]
    for k, row in enumerate(plan.rows):
        level = plan.path.sigma(row.time) if row.time is not None else None
        made = "data" if row.next_time is None else f"{row.next_time:.5g}" + (" up" if row.renoise else "")
        knobs = " ".join(f"{name}={value}" for name, value in row.knobs.items())
        numbers = (_numbers(row.states), _numbers(row.outputs), _numbers(row.noises))
        table.append((str(k), _number(row.time), _number(level), _number(row.network_time), made, *numbers, knobs))
    kept = [i for i in range(len(table[0])) if any(line[i] for line in table[1:])]
    widths = [max(len(line[i]) for line in table) for i in kept]
    lines = ["  ".join(line[i].ljust(w) for i, w in zip(kept, widths, strict=True)).rstrip() for line in table]
    return "\n".join([head, *lines])


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _numbers(values: tuple[float | Tensor, ...]) -> str:
    shown = (f"[{'x'.join(map(str, v.shape))}]" if isinstance(v, torch.Tensor) else f"{v:+.6g}" for v in values)
    return " ".join(shown)
