"""What a comparison is asked: the model, the budgets, the candidates, and on which items."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from retrograde.cli import pictures
from retrograde.cli.complete import configurations
from retrograde.cli.told import Told
from retrograde.denoisers import AbstractDenoiser
from retrograde.plan import Plan

FORMAT = 1
"""Raised when stored figures change their meaning, so that results of older versions are not mixed in."""


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """A comparison to make.

    Attributes:
        model: what was typed; denoiser: what it is.
        nfes: budgets, in network evaluations.
        recipes, grids: names; None for the grids stands for three that suit most paths.
        n: items whose end points are compared with the reference, from the same noise.
        reference_nfe: evaluations of the two reference solvers.
        quality: of whom the quality is measured; "leaders" are the `leading` best recipes at each budget.
        quality_n: samples for it.
        data: what samples are held against: "digits", "digits8", "package.module:function", or None to find out.
        plans: plans of files, with their labels.
        fit: budgets at which plans are fitted.
        effort: how long a fit may take; contest: whether each fit also races the published solvers.
        picture_items: columns of the picture.
        prompts, negative: texts, for models that read them.
        device, dtype: where the network computes, and in which type if not in float32.
    """

    model: str
    denoiser: AbstractDenoiser
    nfes: tuple[int, ...]
    folder: Path
    recipes: tuple[str, ...] = ()
    grids: tuple[str, ...] | None = None
    n: int = 32
    seed: int = 0
    condition: str | None = None
    guidance: float | None = None
    batch_size: int = 64
    reference_nfe: int = 200
    quality: Literal["leaders", "all", "none"] = "leaders"
    leading: int = 3
    quality_n: int = 256
    data: str | None = None
    plans: tuple[tuple[str, Plan], ...] = ()
    fit: tuple[int, ...] = ()
    effort: Any = "seconds"
    contest: bool = True
    plot: bool = True
    picture_items: int = 10
    command: str = ""
    prompts: tuple[str, ...] = ()
    negative: str | None = None
    device: str = "cpu"
    dtype: str | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Digest of everything that decides a stored figure, the model's weights included."""
        parts = [FORMAT, self.model, _weights(self.model), self.denoiser.path.config(), self.seed, self.condition]
        parts += [self.guidance, self.n, self.reference_nfe, self.quality_n, self.data]
        parts += [self.prompts, self.negative, self.denoiser.shape] if self.denoiser.reads else []
        parts += [self.device, self.dtype] if (self.device, self.dtype) != ("cpu", None) else []
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def conditions(self, n: int) -> Any:
        """Return the condition of n items."""
        return self.told(n)

    @cached_property
    def told(self) -> Told:
        """What the model is told."""
        return Told(self.denoiser, self.condition, self.prompts)

    def decoded(self, samples: Tensor) -> Tensor:
        """Return what samples of the denoiser are data of: latents decoded."""
        return pictures.decoded(self.denoiser, samples).cpu()

    def sample(self, plan: Plan, n: int, seed: int | None = None) -> Tensor:
        """Return n samples of a plan, on the CPU, where they are measured; the same noise for every plan."""
        from retrograde.sampling import sample

        used = self.seed if seed is None else seed
        given = {"condition": self.conditions(n), "device": self.device}
        return sample(self.denoiser, plan, n, used, batch_size=self.batch_size, **given).cpu()


def digest(plan: Plan) -> str:
    """Return a digest of a plan's table: equal tables give equal samples, whoever wrote them."""

    def number(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.tolist()
        if dataclasses.is_dataclass(value):
            return [number(getattr(value, field.name)) for field in dataclasses.fields(value)]
        return value

    rows = []
    for row in plan.rows:
        rows.append(
            [row.time, row.next_time, *([number(c) for c in part] for part in (row.states, row.outputs, row.noises))]
        )
        rows[-1].append({key: str(value) for key, value in sorted(row.knobs.items())})
    content = json.dumps([plan.path.config(), plan.basis, plan.start, rows])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _weights(model: str) -> str:
    folder = Path(model)
    if model in configurations():
        folder = Path(__file__).parents[1] / "zoo" / "models" / model
    if (folder / "model_index.json").is_file():
        files = sorted(file for file in folder.glob("*/*") if file.suffix in (".safetensors", ".bin", ".json"))
    else:
        files = [file for file in (folder / "model.safetensors",) if file.is_file()]
    if not files:
        return ""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:  # a pipeline's may be larger than what memory is left
            while part := stream.read(1 << 24):
                digest.update(part)
    return digest.hexdigest()
