"""Plans as files and as text: versioned JSON with tensors beside it in safetensors, and the printed table."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from os import PathLike
from pathlib import Path as File
from typing import Any, Literal

import pydantic
import safetensors.torch
from torch import Tensor

from retrograde import paths
from retrograde.correction import Correction
from retrograde.errors import BadFile, BadValue
from retrograde.linear import LinearMap
from retrograde.plan import Coefficient, Plan, Row

VERSION = 1


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class TensorName(_Strict):
    """Where a tensor coefficient lies in the safetensors file beside the plan."""

    tensor: str


class MapName(_Strict):
    """Where the parts of a linear map lie in that file."""

    basis: str
    gains: str
    rest: float


class CorrectionNames(_Strict):
    """Where the weights of a correction lie in that file."""

    weights: dict[str, str]
    inputs: int
    fold: int


Stored = float | TensorName | MapName


class RowFile(_Strict):
    """A row as JSON."""

    time: float | None
    next_time: float | None
    network_time: float | None = None
    states: list[Stored]
    outputs: list[Stored] = []
    noises: list[Stored] = []
    knobs: dict[str, Any] = {}
    renoise: bool = False
    shift: TensorName | None = None
    anchor: Stored | None = None
    correction: CorrectionNames | None = None


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
    tensors: str | None = None
    rows: list[RowFile]


def check_writable(file: str | PathLike[str]) -> None:
    """Refuse, before any work, a file that could not be written at its end.

    Raises:
        BadFile: a folder, or a place where no file can be made.
    """
    _, handle, name = _begun(file)
    os.close(handle)
    os.unlink(name)


def _begun(file: str | PathLike[str]) -> tuple[File, int, str]:
    """Return the path of a file, and the handle and the name of one beside it that will take its place."""
    target = File(file)
    if target.is_dir():
        raise BadFile(f"{file}, a folder", "the name of a file", f"{target / 'plan.json'}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return target, *tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise BadFile(f"{file}: {error.strerror}", "a file in a folder that can be written", "another folder") from error


def write_atomically(file: str | PathLike[str], content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    target, handle, name = _begun(file)
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


def packed(plan: Plan) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a plan as what JSON can hold, `PlanFile` without the name of a file of tensors, and its tensors by name."""
    tensors: dict[str, Tensor] = {}

    def coefficient(value: Coefficient, name: str) -> float | dict[str, Any]:
        if isinstance(value, LinearMap):
            parts = {part: coefficient(getattr(value, part), f"{name}.{part}") for part in ("basis", "gains")}
            return {**{part: entry["tensor"] for part, entry in parts.items()}, "rest": value.rest}  # type: ignore[index]
        if not isinstance(value, Tensor):
            return float(value)
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}

    rows = []
    for k, row in enumerate(plan.rows):
        plain = dataclasses.replace(row, states=(), outputs=(), noises=(), shift=None, anchor=None, correction=None)
        entry: dict[str, Any] = dataclasses.asdict(plain)
        del entry["anchor"]
        if row.anchor is not None:
            entry["anchor"] = coefficient(row.anchor, f"rows.{k}.anchor")
        if row.shift is not None:
            entry["shift"] = coefficient(row.shift, f"rows.{k}.shift")
        if (learned := row.correction) is not None:
            places = {name: f"rows.{k}.correction.{name}" for name in learned.weights}
            tensors |= {place: learned.weights[name].detach().cpu().contiguous() for name, place in places.items()}
            entry["correction"] = {"weights": places, "inputs": learned.inputs, "fold": learned.fold}
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
        "tensors": None,
        "rows": rows,
    }
    return content, tensors


def save(plan: Plan, file: str | PathLike[str]) -> None:
    """Write a plan as JSON, atomically; tensors go first, to a file beside it that is named by its content.

    A reader sees the old pair or the new one: the JSON names the file its tensors are in.
    """
    content, tensors = packed(plan)
    if tensors:
        stored = safetensors.torch.save(tensors)
        content["tensors"] = f"{File(file).stem}.{hashlib.sha256(stored).hexdigest()[:12]}.safetensors"
        write_atomically(File(file).with_name(content["tensors"]), stored)
    write_atomically(file, json.dumps(content, indent=1).encode())


def load(file: str | PathLike[str]) -> Plan:
    """Read a plan file.

    Raises:
        BadFile: no such file, or one that cannot be read.
        BadValue: not a plan file, an unknown version, an unknown or missing field; the message names the place.
    """
    try:
        text = File(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "no text"
        raise BadFile(f"{file}: {what}", "a plan file", "the file that plan.save(file) wrote") from None
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
    tensors: dict[str, Tensor] = {}
    if parsed.tensors is not None:
        beside = File(file).with_name(parsed.tensors)
        if not beside.is_file():
            raise BadValue(f"{file} without {parsed.tensors}", "a plan and its tensors side by side", "copy both files")
        tensors = safetensors.torch.load_file(beside)
    return unpacked(parsed, tensors)


def unpacked(parsed: PlanFile, tensors: Mapping[str, Tensor]) -> Plan:
    """Return the plan of what `packed` made."""

    def coefficient(value: Stored) -> Coefficient:
        if isinstance(value, MapName):
            return LinearMap(tensors[value.basis], tensors[value.gains], value.rest)
        return tensors[value.tensor] if isinstance(value, TensorName) else value

    def correction(value: CorrectionNames | None) -> Correction | None:
        if value is None:
            return None
        return Correction({name: tensors[place] for name, place in value.weights.items()}, value.inputs, value.fold)

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
            None if row.shift is None else tensors[row.shift.tensor],
            None if row.anchor is None else coefficient(row.anchor),
            correction(row.correction),
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
    lines = table(plan)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    aligned = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([head, *aligned])


def table(plan: Plan) -> list[tuple[str, ...]]:
    """Return the printed table as text: the names of its columns, then its rows; columns that hold nothing are left out."""
    made = [
        ("row", "time", "sigma", "told", "next", "states", "outputs", "noises", "anchor", "shift", "correction", "knobs")
    ]
    for k, row in enumerate(plan.rows):
        level = plan.path.sigma(row.time) if row.time is not None else None
        to = "data" if row.next_time is None else f"{row.next_time:.5g}" + (" up" if row.renoise else "")
        knobs = " ".join(f"{name}={value}" for name, value in row.knobs.items())
        anchor, shift = (_numbers(() if c is None else (c,)) for c in (row.anchor, row.shift))
        numbers = (_numbers(row.states), _numbers(row.outputs), _numbers(row.noises), anchor, shift)
        learned = "" if row.correction is None else f"{row.correction.parameters} weights"
        made.append((str(k), _number(row.time), _number(level), _number(row.network_time), to, *numbers, learned, knobs))
    kept = [i for i in range(len(made[0])) if any(line[i] for line in made[1:])]
    return [tuple(line[i] for i in kept) for line in made]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _numbers(values: tuple[Coefficient, ...]) -> str:
    return " ".join(map(_shown, values))


def _shown(value: Coefficient) -> str:
    if isinstance(value, LinearMap):
        return f"map[{value.basis.shape[0]}, rank {value.basis.shape[1]}]"
    return f"[{'x'.join(map(str, value.shape))}]" if isinstance(value, Tensor) else f"{value:+.6g}"
