"""What a page asks for, checked where it arrives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

import pydantic

from retrograde.errors import BadValue

ITEMS = 64
"""At most so many items in a picture: more do not fit on a screen."""

Option = bool | int | float | str | None


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Level(_Strict):
    """A noise level of a grid: the exact path time it had, or the sigma = s/a it was moved to."""

    time: float | None = None
    sigma: Annotated[float, pydantic.Field(gt=0)] | None = None

    @pydantic.model_validator(mode="after")
    def _one(self) -> Self:
        if (self.time is None) == (self.sigma is None):
            raise ValueError("give either its time or its sigma")
        return self


class Sampler(_Strict):
    """A recipe with its grid, options and perhaps levels moved by hand; or a plan of the shelf, by its key."""

    recipe: str = "dpmpp_2m"
    nfe: Annotated[int, pydantic.Field(ge=1, le=1000)] | None = 8
    grid: str | None = None
    options: dict[str, Option] = {}
    levels: Annotated[list[Level], pydantic.Field(min_length=1, max_length=1000)] | None = None
    plan: str | None = None

    @pydantic.field_validator("options")
    @classmethod
    def _own_fields(cls, options: dict[str, Option]) -> dict[str, Option]:
        if fields := sorted({"name", "path", "nfe", "grid"} & set(options)):
            raise ValueError(f"{', '.join(fields)} cannot be an option: it has a field of its own")
        return options


class Batch(_Strict):
    """Whose samples, how many, from which noise, and of what: numbers, or a text a line dealt to the items in turn."""

    model: str
    n: Annotated[int, pydantic.Field(ge=1, le=ITEMS)] = 12
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**63)] = 0
    condition: str = ""
    guidance: float | None = None
    prompt: Annotated[str, pydantic.Field(max_length=10_000)] = ""
    negative: Annotated[str, pydantic.Field(max_length=10_000)] = ""


class Run(_Strict):
    """Sample one or two plans on the same noise; `replaces` names a running job to stop first."""

    do: Literal["run"]
    batch: Batch
    samplers: Annotated[list[Sampler], pydantic.Field(min_length=1, max_length=2)]
    reference: bool = True
    replaces: int | None = None


class Tune(_Strict):
    """Fit a plan."""

    do: Literal["tune"]
    batch: Batch
    nfe: Annotated[int, pydantic.Field(ge=1, le=40)] = 4
    effort: str = "seconds"
    replaces: int | None = None


class Cancel(_Strict):
    """Stop a job."""

    do: Literal["cancel"]
    job: int


class Shown(_Strict):
    """What the page shows: asked for as Python lines, or as a plan file."""

    batch: Batch
    samplers: Annotated[list[Sampler], pydantic.Field(min_length=1, max_length=2)]


class File(_Strict):
    """A file a person chose: its name, and its content in base64."""

    name: str
    content: str


class Upload(_Strict):
    """A plan file, with its tensors beside it where it has any."""

    files: Annotated[list[File], pydantic.Field(min_length=1, max_length=8)]


Asked = Annotated[Run | Tune | Cancel, pydantic.Field(discriminator="do")]
_ASKED: pydantic.TypeAdapter[Run | Tune | Cancel] = pydantic.TypeAdapter(Asked)


def read(text: str) -> Run | Tune | Cancel:
    """Return what a message of the page asks.

    Raises:
        BadValue: it is not one of the three; the message names the place.
    """
    try:
        return _ASKED.validate_json(text)
    except pydantic.ValidationError as error:
        raise refused(error.errors()) from None


def refused(problems: Sequence[Any]) -> BadValue:
    """Return what is said of a request that breaks its schema: the first place, what it got and what is allowed."""
    first = problems[0]
    place = ".".join(str(part) for part in first["loc"] if part not in ("body", "run", "tune", "cancel")) or "the message"
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    return BadValue(f"{place}={first.get('input')!r}{more}"[:300], first["msg"], f"correct {place}")
