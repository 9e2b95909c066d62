"""Errors that say what was given, what is allowed, and the one line that mends it.

Every error a user can cause derives from `RetrogradeError` and from the built-in class (`ValueError`, `TypeError`,
`ImportError`) that code which does not know this library would catch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from types import MappingProxyType

_LISTED = 60
"""How many names an error still prints in full."""

_SHOWN = 8
"""How many it prints of a longer list of which none is near."""


class RetrogradeError(Exception):
    """A user's mistake in three parts: what was `given`, what is `allowed`, and the line that `mend`s it."""

    def __init__(self, given: str, allowed: str, mend: str) -> None:
        super().__init__(f"{given}\n  allowed: {allowed}\n  mend: {mend}")
        self.given = given
        self.allowed = allowed
        self.mend = mend

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors home pickled; the default would rebuild them from the one joined message.
        return _rebuild, (type(self), self.given, self.allowed, self.mend)


def _rebuild(cls: type[RetrogradeError], given: str, allowed: str, mend: str) -> RetrogradeError:
    error = cls.__new__(cls)
    RetrogradeError.__init__(error, given, allowed, mend)
    return error


class PlanError(RetrogradeError, ValueError):
    """A table that breaks a law of plans, or that does not fit the denoiser or path it is used with."""


class ShapeError(RetrogradeError, ValueError):
    """A tensor whose shape is not the one the formula needs."""


class BadValue(RetrogradeError, ValueError):
    """An argument outside its range."""


class BadType(RetrogradeError, TypeError):
    """An argument of the wrong kind, or an object that lacks a capability the call needs."""


class BadFile(RetrogradeError, OSError):
    """A file that is not there, or that cannot be read or written."""


class UnknownName(RetrogradeError, ValueError):
    """A name that is not registered; the nearest registered names are offered, and the `source` that lists them all.

    `elsewhere` holds what other libraries call them: such a name is met with the one it has here.
    """

    def __init__(
        self,
        kind: str,
        given: str,
        allowed: Iterable[str],
        source: str = "the list",
        elsewhere: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        names = sorted(allowed)
        near = [elsewhere[given]] if given in elsewhere else get_close_matches(given, names, n=3, cutoff=0.5)
        mend = f"did you mean {' or '.join(repr(name) for name in near)}?" if near else f"choose one {kind} of {source}"
        some = near or names[:_SHOWN]
        listed = names if len(names) <= _LISTED else [*some, f"and {len(names) - len(some)} more"]
        super().__init__(f"unknown {kind} {given!r}", ", ".join(listed) or f"no {kind} is registered", mend)


def described(value: object) -> str:
    """Return what somebody gave, in a few words: "the class VP", "a function", "3.5"."""
    if isinstance(value, type):
        return f"the class {value.__name__}, not one of it"
    plain = value is None or isinstance(value, str | int | float | bool)
    return f"{value!r}" if plain else f"a {type(value).__name__}"


class MissingExtra(RetrogradeError, ImportError):
    """An optional package that is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is needed here and not installed",
            f"the extra {extra!r} brings it",
            f"pip install 'retrograde[{extra}]'",
        )
