"""What the studio holds beside the page: loaded models, plans, and the fine references that samples are judged by."""

from __future__ import annotations

import base64
import binascii
import io
import tempfile
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

from torch import Tensor

import retrograde as rg
from retrograde import grids
from retrograde.cli import asked
from retrograde.cli.told import Told
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadFile, BadType, BadValue, RetrogradeError, UnknownName
from retrograde.plan import Plan
from retrograde.studio.request import Batch, File, Level, Sampler

REFERENCE = ("dpmpp_3m", 64)
"""The fine plan that errors are measured to: on the embedded models within 0.003 of 200 evaluations."""

_REFERENCES, _PLANS, _FILES, _BYTES = 4, 32, 64, 64 * 2**20
"""How many references and plans are held, how many files of the folder are listed, how large an upload may be."""


@final
class Shelf:
    """Models by name, plans by key, references by batch; everything but the models is bounded in number.

    Models are those that ship and the one given on the command line: a page cannot load anything else, since loading a
    function runs it.
    """

    def __init__(self, model: str | None = None, folder: Path | None = None) -> None:
        self.models: tuple[str, ...] = tuple(dict.fromkeys([*([model] if model else []), *rg.models()]))
        self._folder = folder or Path.cwd()
        self._lock = threading.RLock()
        self._loaded: dict[str, AbstractDenoiser] = {}
        self._plans: OrderedDict[str, tuple[str, Plan]] = OrderedDict()
        self._references: OrderedDict[Batch, Tensor] = OrderedDict()
        self._made = 0

    def model(self, name: str) -> AbstractDenoiser:
        """Return the denoiser of a name.

        Raises:
            UnknownName: it was not offered.
            BadType: it runs on an anchored path, whose anchor the page has no place for.
        """
        if name not in self.models:
            raise UnknownName("model", name, self.models)
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = asked.model(name)
            denoiser = self._loaded[name]
        if denoiser.path.anchored:
            raise BadType(
                f"{name!r} on the anchored path {denoiser.path.name!r}",
                "models that start from noise alone",
                "rg.sample(denoiser, plan, anchor=y) in Python",
            )
        return denoiser

    def denoiser(self, batch: Batch) -> AbstractDenoiser:
        """Return the denoiser of a batch, guided where it asks for a weight.

        Raises:
            BadValue: a text to lead away from without a weight, or for a model that reads none.
        """
        denoiser, negative = self.model(batch.model), batch.negative.strip() or None
        if negative is not None and (batch.guidance is None or not denoiser.reads):
            reads = f"a weight of guidance for {batch.model!r}" if denoiser.reads else "a model that reads texts"
            raise BadValue("a negative prompt", reads, "guidance 7.5" if denoiser.reads else "leave it empty")
        return denoiser if batch.guidance is None else rg.guide.cfg(denoiser, batch.guidance, negative=negative)

    def condition(self, batch: Batch, n: int | None = None) -> Any:
        """Return the condition of a batch as Python says it: values or texts, one for each of n items, or None.

        Raises:
            BadValue: it is not written as numbers and ranges, names a class the network does not have, or is a text for a
                model that reads none.
        """
        denoiser, text, count = self.model(batch.model), batch.condition.strip() or None, n or batch.n
        texts = tuple(line.strip() for line in batch.prompt.splitlines() if line.strip())
        try:
            Told(denoiser, text, texts or (("",) if denoiser.reads else ()))
            numbers = asked.condition(text, count)
            if not denoiser.reads:
                return numbers
            (name,) = denoiser.reads
            dealt = [texts[i % len(texts)] for i in range(count)] if len(texts) > 1 else "".join(texts)
            return dealt if numbers is None else {name: dealt, **numbers}
        except BadValue as error:  # said as the command's option; the page has a field
            parts = (error.given, error.allowed, error.mend)
            raise BadValue(*(part.replace("--condition", "condition").replace("--p", "p") for part in parts)) from None

    def plan(self, sampler: Sampler, denoiser: AbstractDenoiser) -> Plan:
        """Return the plan a sampler asks for.

        Raises:
            RetrogradeError: what `rg.plan` raises; UnknownName for a key that is not on the shelf.
        """
        if sampler.plan is not None:
            return self.kept(sampler.plan)
        grid: Any = sampler.grid
        options: dict[str, Any] = dict(sampler.options)
        if sampler.levels is not None:
            grid = times(denoiser, sampler.levels)
        return rg.plan(sampler.recipe, denoiser, nfe=sampler.nfe, grid=grid, **options)

    def keep(self, label: str, plan: Plan) -> str:
        """Put a plan on the shelf and return its key; the oldest falls off."""
        with self._lock:
            self._made += 1
            key = f"made:{self._made}"
            self._plans[key] = (label, plan)
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return key

    def kept(self, key: str) -> Plan:
        """Return the plan of a key: one that was kept, or a file of the folder."""
        with self._lock:
            if key in self._plans:
                return self._plans[key][1]
        files = {f"file:{file.name}": file for file in self._files()}
        if key not in files:
            raise UnknownName("plan", key, [*self._plans, *files])
        return Plan.load(files[key])

    def listed(self) -> list[dict[str, Any]]:
        """Return what is known of every plan at hand, newest first; files that are no plans are left out."""
        with self._lock:
            found = [(key, label, plan) for key, (label, plan) in reversed(self._plans.items())]
        for file in self._files():
            try:
                found.append((f"file:{file.name}", file.name, Plan.load(file)))
            except (RetrogradeError, OSError, ValueError):
                continue
        return [
            {
                "key": key,
                "label": label,
                "recipe": plan.recipe,
                "nfe": plan.nfe,
                "path": plan.path.fingerprint,
                "error": (plan.report or {}).get("error") if isinstance(plan.report, dict) else None,
            }
            for key, label, plan in found
        ]

    def _files(self) -> list[Path]:
        found = []
        for file in sorted(self._folder.glob("*.json")):
            if len(found) < _FILES and file.is_file() and b'"retrograde.plan"' in _head(file):
                found.append(file)
        return found

    def receive(self, files: Sequence[File]) -> str:
        """Keep the plan of uploaded files (a .json, its .safetensors, or a .zip of both) and return its key.

        Raises:
            BadValue: no plan is among them, or it is broken.
        """
        contents: dict[str, bytes] = {}
        for file in files:
            contents |= _unpacked(Path(file.name.replace("\\", "/")).name, file.content)
        plans = [name for name in contents if name.endswith(".json")]
        if len(plans) != 1:
            raise BadValue(f"{len(plans)} .json files", "one plan, and its .safetensors", "choose both files")
        with tempfile.TemporaryDirectory() as folder:
            for name, content in contents.items():
                (Path(folder) / name).write_bytes(content)
            try:
                plan = Plan.load(Path(folder) / plans[0])
            except (BadFile, BadValue) as error:
                given = error.given.replace(f"{folder}/", "")
                raise BadValue(given, "a plan file", "write it with plan.save(file)") from None
        return self.keep(plans[0], plan)

    def reference(self, batch: Batch, make: Callable[[], Tensor]) -> Tensor:
        """Return the fine samples of a batch, made where they are not held."""
        if batch in self._references:
            self._references.move_to_end(batch)
        else:
            made = make()
            self._references[batch] = made
            while len(self._references) > _REFERENCES:
                self._references.popitem(last=False)
        return self._references[batch]

    def held(self, batch: Batch) -> Tensor | None:
        """Return the fine samples of a batch where they are held."""
        return self._references.get(batch)


def fine(denoiser: AbstractDenoiser) -> Plan:
    """Return the plan errors are measured to."""
    name, nfe = REFERENCE
    return rg.plan(name, denoiser, nfe=nfe, grid=fine_grid(denoiser))


def fine_grid(denoiser: AbstractDenoiser) -> str | None:
    """Return the grid of that plan: the usual one, or "uniform" where crowded levels would ask a network's step twice."""
    name, nfe = REFERENCE
    try:
        rg.plan(name, denoiser, nfe=nfe)
    except BadValue:
        return "uniform"
    return None


def times(denoiser: AbstractDenoiser, levels: Sequence[Level]) -> tuple[float, ...]:
    """Return the path times of levels, each as the network can be asked at it; beyond the range means at its end."""
    path = denoiser.path
    low, high = grids.levels(path)
    found = []
    for level in levels:
        if level.sigma is None:
            found.append(float(level.time or 0.0))
        else:
            at_end = level.sigma >= high
            found.append(denoiser.snap(path.t_max if at_end else path.time_of_sigma(max(level.sigma, low))))
    return tuple(found)


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(4096)
    except OSError:
        return b""


def _unpacked(name: str, content: str) -> dict[str, bytes]:
    """Return the files of an uploaded one: itself, or the entries of a .zip."""
    try:
        raw = base64.b64decode(content, validate=True)
        if not name.endswith(".zip"):
            return {name: raw}
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            if len(entries) > 4 or sum(entry.file_size for entry in entries) > _BYTES:
                raise BadValue(f"{name} of {len(entries)} files", "a plan and its tensors", "choose these two files")
            return {Path(entry.filename).name: archive.read(entry) for entry in entries}
    except (binascii.Error, zipfile.BadZipFile) as error:
        raise BadValue(f"{name}: {error}", "a .json, .safetensors or .zip file", "choose another file") from None
