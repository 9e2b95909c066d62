"""The registry of operators: what can be typed as `blur:sigma=1.5`, and what the law tests run over."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from retrograde.errors import BadValue, UnknownName
from retrograde.operators.operator import Operator

Example = tuple[tuple[int, ...], Mapping[str, Any]]
"""A shape of items and settings."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered operator: its factory, one line about it, and examples on which the laws are tested."""

    name: str
    make: Callable[..., Operator]
    summary: str
    examples: tuple[Example, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """Settings with their defaults."""
        return {p.name: p.default for p in list(inspect.signature(self.make).parameters.values())[1:]}


_OPERATORS: dict[str, Entry] = {}


def operator(name: str, summary: str, *examples: Example) -> Callable[[Callable[..., Operator]], Callable[..., Operator]]:
    """Register a factory: a function from the shape of one item, and settings, to an operator."""

    def register(make: Callable[..., Operator]) -> Callable[..., Operator]:
        _OPERATORS[name] = Entry(name, make, summary, examples)
        return make

    return register


def names() -> tuple[str, ...]:
    """Return the names of all operators."""
    return tuple(sorted(_OPERATORS))


def get(name: str) -> Entry:
    """Return the operator called `name`; an unknown name lists the nearest ones."""
    if name not in _OPERATORS:
        raise UnknownName("operator", name, names())
    return _OPERATORS[name]


def make(name: str, shape: Sequence[int], **settings: Any) -> Operator:
    """Return an operator for items of a shape: `make("blur", (1, 28, 28), sigma=1.5)`, or `make("blur:sigma=1.5", shape)`.

    Bare values are the first settings in turn ("down:4"); names and numbers are read as JSON, everything else as text.

    Raises:
        UnknownName: no such operator or setting.
        BadValue: a setting twice, or one that the operator refuses.
        ShapeError: items it cannot measure.
    """
    name, _, text = name.partition(":")
    entry = get(name)
    return entry.make(tuple(shape), **read(name, text, entry.settings, settings))


def read(name: str, text: str, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of "sigma=1.5,2": those given by name, and those of the text.

    Args:
        name: what they are of.
        settings: those there are, with their defaults; `inspect.Parameter.empty` where one must be given.

    Raises:
        UnknownName, BadValue: as `make`.
    """
    allowed = list(settings)
    found = dict(given)
    if text and allowed == ["steps"]:  # other operators, with settings of their own
        found["steps"], text = text, ""
    for place, part in enumerate(one for one in text.split(",") if one):
        key, equals, value = part.partition("=")
        if not equals:
            key, value = (allowed[place] if place < len(allowed) else part), part
        if key in allowed and key in found:
            raise BadValue(f"{key!r} twice in {name}:{text}", "each setting once", f"leave one {key} out")
        found[key] = _value(value)
    for key in found:
        if key not in allowed:
            raise UnknownName(f"setting of {name}", key, allowed)
    missing = [key for key, default in settings.items() if default is inspect.Parameter.empty and key not in found]
    if missing:
        usage = ", ".join(f"{k}=..." if v is inspect.Parameter.empty else f"{k}={v}" for k, v in settings.items())
        raise BadValue(f"{name} without {missing[0]}", f"the settings {usage}", f"{name}:{missing[0]}=...")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
