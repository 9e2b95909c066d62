"""What a model is told: numbers by --condition, texts by --prompt, dealt to the items in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from retrograde.cli import asked
from retrograde.errors import BadValue

if TYPE_CHECKING:
    from torch import Tensor

    from retrograde.denoisers import AbstractDenoiser

EXAMPLE = '--prompt "a red cat"'


def texts(prompts: Sequence[str] | None, file: Path | None) -> tuple[str, ...]:
    """Return the texts of --prompt and, after them, the lines of --prompts that are not blank."""
    if file is None:
        return tuple(prompts or ())
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError) as error:
        raise BadValue(f"--prompts {file}: {error}", "a text file with a prompt a line", EXAMPLE) from None
    if not any(lines):
        raise BadValue(f"--prompts {file}, in which nothing is written", "a text file with a prompt a line", EXAMPLE)
    return (*(prompts or ()), *(line for line in lines if line))


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Told:
    """The conditions of items, by number of items; texts are read once.

    Args:
        condition: what --condition says.
        prompts: texts, of which item i has that of number i modulo how many there are.

    Raises:
        BadValue: texts for a model that reads none, none for one that reads them, or a class that there is not.
    """

    denoiser: AbstractDenoiser
    condition: str | None = None
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        asked.check_labels(self.denoiser, self.condition)
        reads, name = self.denoiser.reads, self.denoiser.name
        bare = self.condition is not None and "=" not in self.condition
        if self.prompts and not reads:
            given = f"--prompt for {name!r}, which reads no text"
            if "prompt" in self.denoiser.conditions:
                allowed = "a pipeline saved with its text encoders, or embeddings, in Python"
                raise BadValue(given, allowed, "rg.sample(den, plan, condition={'prompt': embeddings})")
            names = ", ".join(self.denoiser.conditions)
            allowed = f"--condition, with values for {names}" if names else "no condition at all: it takes none"
            raise BadValue(given, allowed, "leave out --prompt")
        if reads and not self.prompts:
            if bare:
                raise BadValue(f"--condition {self.condition} for {name!r}, which reads texts", "a text", EXAMPLE)
            allowed = "a text, several that are dealt to the items in turn, or '' for none"
            raise BadValue(f"no --prompt for {name!r}, which makes what a text says", allowed, EXAMPLE)
        if self.prompts and bare:
            others = ", ".join(sorted(set(self.denoiser.conditions) - set(reads)))
            allowed = f"values by name, for {others}" if others else "a text alone"
            raise BadValue(f"--condition {self.condition} beside --prompt", allowed, "leave out --condition")

    def __call__(self, n: int) -> Any:
        """Return what `sample` takes as the condition of n items."""
        numbers = asked.condition(self.condition, n)
        if not self.prompts:
            return numbers
        places = [i % len(self.prompts) for i in range(n)]
        read = {key: value[0] if len(self.prompts) == 1 else value[places] for key, value in self._read.items()}
        return {**read, **(numbers or {})}

    @cached_property
    def _read(self) -> Mapping[str, Tensor]:
        (reader,) = self.denoiser.reads.values()
        return reader(list(self.prompts))
