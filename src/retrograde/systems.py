"""The register of published systems: which paper, which call runs it, which test proves it.

A method registers its paper beside its own definition. The catalogue is the numbered list of the papers this project
set out to implement; `coverage()` counts how many of them are registered.
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.resources import files
from pkgutil import iter_modules
from typing import final

from retrograde.errors import BadValue, UnknownName

HOMES = (
    "paths",
    "models",
    "train",
    "solvers",
    "tune",
    "guidance",
    "compose",
    "search",
    "inverse",
    "restore",
    "edit",
    "accelerate",
    "compress",
    "distill",
    "align",
    "discrete",
    "density",
    "audit",
    "represent",
    "domains",
    "outside",
)

# The command and the page are ways in, not methods; importing them would start what they start.
_NO_METHODS = ("cli", "studio", "__main__")


@final
@dataclass(frozen=True)
class Paper:
    """One entry of the catalogue: number, title, home, kind ("method", "survey", ...) and weight `core` (0 to 3)."""

    number: int
    title: str
    home: str
    kind: str
    core: int


@final
@dataclass(frozen=True)
class System:
    """A published system that runs here.

    `call` is the Python expression that runs it, written with `rg` for the package; `test` is the pytest node that
    proves it. `number` is its place in the catalogue, or None for a paper outside of it. `arxiv` is None for what never
    was on arXiv.

    Raises BadValue for an unknown home, a malformed arXiv id, call or test node.
    """

    title: str
    authors: str | tuple[str, ...]
    year: int
    home: str
    call: str
    test: str
    arxiv: str | None = None
    number: int | None = None

    def __post_init__(self) -> None:
        if self.home not in HOMES:
            raise UnknownName("home", self.home, HOMES)
        if self.arxiv is not None and not re.fullmatch(r"\d{4}\.\d{4,5}|[a-z.-]+/\d{7}", self.arxiv):
            raise BadValue(f"arXiv id {self.arxiv!r}", "'2010.02502', an older id, or None", "leave the version off")
        if not re.fullmatch(r"tests/[\w/]+\.py(::\w+)+", self.test):
            raise BadValue(f"test {self.test!r}", "tests/FOLDER/test_FILE.py::test_NAME", "name the test's pytest node")
        try:
            ast.parse(self.call, mode="eval")
        except SyntaxError as error:
            raise BadValue(f"call {self.call!r}", "one Python expression", "write it as a user would") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Names a user may know it by: the strings that open the calls in `call`, such as the recipe's name."""
        opening = [node.args[0] for node in ast.walk(ast.parse(self.call)) if isinstance(node, ast.Call) and node.args]
        return tuple(arg.value for arg in opening if isinstance(arg, ast.Constant) and isinstance(arg.value, str))

    @property
    def author_list(self) -> tuple[str, ...]:
        """The authors one by one; "et al." becomes BibTeX's "others"."""
        if isinstance(self.authors, tuple):
            return self.authors
        names = re.split(r"\s+and\s+|\s*[,;&]\s*(?:and\s+)?|\s+(?=et al\.?)", self.authors.strip())
        return tuple("others" if name.startswith("et al") else name for name in names if name)

    def bibtex(self) -> str:
        """The entry for a LaTeX bibliography."""
        surname = _key(self.author_list[0].split()[-1])
        name, colon, _ = self.title.partition(":")
        word = name if colon else next((w for w in self.title.split() if len(w) > 3), self.title)
        fields = {"title": f"{{{self.title}}}", "author": " and ".join(self.author_list), "year": str(self.year)}
        if self.arxiv is not None:
            fields |= {"eprint": self.arxiv, "archivePrefix": "arXiv"}
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@misc{{{surname}{self.year}{_key(word)},\n{body}\n}}"


@final
@dataclass(frozen=True)
class Coverage:
    """How many papers of the catalogue with core above 0 are registered: `homes[home] = (registered, all)`."""

    homes: dict[str, tuple[int, int]]
    numbers: frozenset[int]

    @property
    def done(self) -> int:
        """Papers registered."""
        return sum(done for done, _ in self.homes.values())

    @property
    def total(self) -> int:
        """Papers that can be implemented."""
        return sum(total for _, total in self.homes.values())

    def __str__(self) -> str:
        lines = [f"{home:<12}{done:>4} of {total}" for home, (done, total) in self.homes.items()]
        return "\n".join([*lines, f"{'all':<12}{self.done:>4} of {self.total}"])


_registered: dict[tuple[str, str], System] = {}


@cache
def catalogue() -> tuple[Paper, ...]:
    """Every paper of the catalogue, by number."""
    text = files("retrograde").joinpath("catalogue.json").read_text(encoding="utf-8")
    return tuple(Paper(**entry) for entry in json.loads(text))


def register(system: System) -> System:
    """Enrol a system and return it, its catalogue number filled in from the title.

    Raises BadValue when the number belongs to another title, or when another entry has the same title and call.
    """
    numbers = {_fold(paper.title): paper.number for paper in catalogue()}
    number = numbers.get(_fold(system.title))
    if system.number is not None and system.number != number:
        allowed = f"number {number}" if number is not None else "no number: the title is not in the catalogue"
        raise BadValue(f"number {system.number} for {system.title!r}", allowed, "leave `number` out, it is looked up")
    system = replace(system, number=number)
    held = _registered.setdefault((_fold(system.title), system.call), system)
    if held != system:
        raise BadValue(
            f"a second entry for {system.title!r} with the same call",
            "one entry for each title and call",
            "remove one of the two",
        )
    return held


def all() -> tuple[System, ...]:
    """Every registered system, by home and title; imports the modules that register them."""
    _import_methods()
    return tuple(sorted(_registered.values(), key=lambda s: (HOMES.index(s.home), s.title, s.call)))


def by_title(title: str) -> tuple[System, ...]:
    """The entries of one paper: one for each call that runs it.

    Raises UnknownName for a title that is not registered.
    """
    found = tuple(system for system in all() if _fold(system.title) == _fold(title))
    if not found:
        raise UnknownName("title", title, {system.title for system in all()})
    return found


def cite(name: str) -> str:
    """BibTeX of a paper, asked for by its title, its arXiv id or the name of a recipe or model: `cite("ddim")`.

    Raises UnknownName when nothing registered goes by that name.
    """
    found = [s for s in all() if _fold(name) == _fold(s.title) or name == s.arxiv or name in s.names]
    if not found:
        raise UnknownName("system", name, {known for s in all() for known in (s.title, *s.names)})
    return "\n\n".join(dict.fromkeys(system.bibtex() for system in found))


def coverage() -> Coverage:
    """Count the catalogue's registered papers, home by home; papers with nothing to run (core 0) are left out."""
    numbers = frozenset(system.number for system in all() if system.number is not None)
    homes: dict[str, tuple[int, int]] = {}
    for home in HOMES:
        due = [paper.number for paper in catalogue() if paper.home == home and paper.core > 0]
        if due:
            homes[home] = (len(numbers.intersection(due)), len(due))
    return Coverage(homes, numbers)


@cache
def _import_methods(package: str = "retrograde") -> None:
    for module in iter_modules(import_module(package).__path__, f"{package}."):
        if module.name.rpartition(".")[2] in _NO_METHODS:
            continue
        try:
            import_module(module.name)
        except ImportError as error:
            # A missing optional package hides the systems that need it; our own mistakes do not pass.
            if (error.name or "retrograde").split(".")[0] == "retrograde":
                raise
            continue
        if module.ispkg:
            _import_methods(module.name)


def _fold(title: str) -> str:
    return " ".join(re.findall(r"\w+", title.casefold()))


def _key(words: str) -> str:
    return re.sub(r"[^a-z0-9+]", "", words.casefold()) or "anon"
