"""The places of a network that have a role: a chain of blocks, attention, the ladder of a UNet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, final

from torch import Tensor, nn

from retrograde.errors import BadType, UnknownName
from retrograde.sites.doors import Call


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Block:
    """A block of a network: something that changes features and could be left out.

    Attributes:
        name: its site.
        bypass: given a call, what it returns where its work is left out: its input, through the shortcut if there is one.
    """

    name: str
    bypass: Callable[[Call], Any]


@final
@dataclasses.dataclass(frozen=True)
class Ladder:
    """A UNet as rungs: skip connection k is made on the way down and taken on the way up.

    Cut at rung m, what lies above (skips 0..m, and what takes them) needs from below one tensor only: the output of the
    last site of `takes[m + 1]`.

    Attributes:
        makes: for each skip connection the sites that make it from the one before, in order.
        middle: sites between the way down and the way up.
        takes: for each skip connection the sites that take it, and what follows until the next is taken.
        whole: containers, each with the sites in it: where all are left out, the container is.
    """

    makes: tuple[tuple[str, ...], ...]
    middle: tuple[str, ...]
    takes: tuple[tuple[str, ...], ...]
    whole: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def rungs(self) -> int:
        """Number of skip connections."""
        return len(self.makes)

    @property
    def encoder(self) -> tuple[str, ...]:
        """Sites of the way down and of the middle."""
        return (*(site for part in self.makes for site in part), *self.middle)

    @property
    def decoder(self) -> tuple[str, ...]:
        """Sites of the way up, in the order in which they run."""
        return tuple(site for part in reversed(self.takes) for site in part)

    def below(self, rung: int) -> tuple[str, ...]:
        """Sites that need not run where what comes up to a rung is known; the last one makes it."""
        down = (site for part in self.makes[rung + 1 :] for site in part)
        up = (site for part in reversed(self.takes[rung + 1 :]) for site in part)
        return (*down, *self.middle, *up)

    def gathered(self, sites: tuple[str, ...]) -> tuple[str, ...]:
        """Return the sites with containers in place of those they hold, where all of them are there; order is kept."""
        found = list(sites)
        for name, held in self.whole:
            if held and set(held) <= set(found):
                place = max(found.index(site) for site in held)
                found[place] = name
                found = [site for site in found if site not in held]
        return tuple(found)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Places:
    """What was found in a network (see `retrograde.sites.find`).

    Attributes:
        network: the module.
        chain: blocks that hand one state of tokens on, in order (a transformer), or ().
        blocks: every block that could be left out, in order: the chain, or the residual and attention blocks of a UNet.
        attention: sites of self-attention; those of joint attention over text and image too.
        cross: sites of cross-attention.
        ladder: the rungs of a UNet, or None.
    """

    network: nn.Module
    chain: tuple[Block, ...] = ()
    blocks: tuple[Block, ...] = ()
    attention: tuple[str, ...] = ()
    cross: tuple[str, ...] = ()
    ladder: Ladder | None = None

    def need(self, what: str) -> Any:
        """Return one of the attributes.

        Raises:
            BadType: the network has none of it.
        """
        value = getattr(self, what)
        if not value:
            has = [f.name for f in dataclasses.fields(self)[1:] if getattr(self, f.name)]
            raise BadType(
                f"{type(self.network).__name__}, in which no {what} was found",
                f"a network with it; found: {', '.join(has) or 'nothing'}",
                f"name the places yourself: rg.sites.Places(network, {what}=...)",
            )
        return value

    def __str__(self) -> str:
        lines = [type(self.network).__name__]
        lines += [f"  chain      {len(self.chain)} blocks: {_short([b.name for b in self.chain])}"] if self.chain else []
        lines += [f"  blocks     {len(self.blocks)}: {_short([b.name for b in self.blocks])}"] if self.blocks else []
        lines += [f"  attention  {len(self.attention)}: {_short(self.attention)}"] if self.attention else []
        lines += [f"  cross      {len(self.cross)}: {_short(self.cross)}"] if self.cross else []
        if self.ladder is not None:
            lines.append(f"  ladder     {self.ladder.rungs} rungs, middle {_short(self.ladder.middle)}")
            lines += [
                f"    {k:>2}  down {_short(self.ladder.makes[k])}  up {_short(self.ladder.takes[k])}"
                for k in range(self.ladder.rungs)
            ]
        return "\n".join(lines)


def _short(names: Any) -> str:
    names = list(names)
    return " ".join(names) if len(names) <= 4 else f"{names[0]} {names[1]} ... {names[-1]}"


def through(call: Call) -> Any:
    """Bypass of a block that returns one tensor: its input, the first tensor it was given."""
    return next(x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Tensor))


def shortcut(name: str) -> Callable[[Call], Any]:
    """Return the bypass of a residual block whose shortcut is its child `name` (or nothing: the input)."""

    def bypass(call: Call) -> Any:
        way = getattr(call.module, name, None)
        return through(call) if way is None else way(through(call))

    return bypass


def streams(order: tuple[str, ...], parameters: tuple[str, ...]) -> Callable[[Call], Any]:
    """Return the bypass of a block that returns a tuple of its arguments, changed.

    Args:
        order: names of the arguments in the order in which they are returned.
        parameters: names of the block's arguments in turn.
    """

    def bypass(call: Call) -> Any:
        given = dict(zip(parameters, call.args, strict=False)) | call.kwargs
        return tuple(given[name] for name in order)

    return bypass


def matching(network: nn.Module, pattern: str) -> tuple[str, ...]:
    """Return the sites of a network whose dotted path matches a pattern, in the order in which it holds them.

    In each part of the path `*`, `?` and `[...]` stand for characters, as in file names; a part `**` stands for any number
    of parts: "layers.*" are the layers, "**.attn" every attention by that name.

    Raises:
        UnknownName: nothing matches.
    """
    parts = pattern.split(".")
    names = [name for name, _ in network.named_modules() if name]
    found = tuple(name for name in names if _matches(name.split("."), parts))
    if not found:
        raise UnknownName("site", pattern, names)
    return found


def _matches(name: list[str], parts: list[str]) -> bool:
    if not parts or not name:
        return not name and all(part == "**" for part in parts)
    if parts[0] == "**":
        return _matches(name, parts[1:]) or _matches(name[1:], parts)
    return fnmatchcase(name[0], parts[0]) and _matches(name[1:], parts[1:])


def chain(network: nn.Module, names: Sequence[str] | str) -> tuple[Block, ...]:
    """Return blocks by name, or by a pattern (see `matching`), each with one tensor in and out."""
    return tuple(Block(name, through) for name in (matching(network, names) if isinstance(names, str) else names))
