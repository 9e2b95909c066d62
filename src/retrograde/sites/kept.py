"""What a policy keeps of one evaluation for the next: features by site, one entry per item.

It travels with the run like every other memory of a transform: nothing is stored in the network or in the transform, so
no state survives the run, runs do not meet, and items that are cut, joined or resampled take their features along.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten


@final
@dataclasses.dataclass(frozen=True)
class Like:
    """What stands for the output of a site whose value nobody will read: its shape [n, *shape], type and device."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def zeros(self, n: int) -> Tensor:
        """Return a tensor of this shape for n items that takes no memory."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(n, *self.shape)


def outline(tree: Any) -> Any:
    """Return a site's output with `Like` in place of its tensors."""
    return _each(Tensor, lambda x: Like(tuple(x.shape[1:]), x.dtype, x.device), tree)


def filled(tree: Any, n: int) -> Any:
    """Return an outline with zeros for n items."""
    return _each(Like, lambda x: x.zeros(n), tree)


def _each(kind: type, change: Callable[[Any], Any], tree: Any) -> Any:
    """Change what is of a kind; tensors and tuples of them, which most sites return, without the general walk's price."""
    if isinstance(tree, kind):
        return change(tree)
    if type(tree) is tuple:
        return tuple(_each(kind, change, part) for part in tree)
    return tree_map(lambda x: change(x) if isinstance(x, kind) else x, tree)


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """What was kept at one evaluation: its clock (the path time) and the value, tensors [n, ...] in any structure."""

    clock: float
    value: Any


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """Entries by key, newest first, for n items. It is cut, indexed and joined like a tensor [n, ...].

    Parts that are joined in the order they were cut are the whole again, without a copy. Of parts that were kept at
    different evaluations, entries that all have at one clock are joined, the others forgotten: what is missing is computed.
    """

    n: int
    entries: Mapping[Any, tuple[Entry, ...]]
    cut: tuple[Kept, int, int] | None = None

    def __getitem__(self, items: Any) -> Kept:
        """Return what was kept of some items; `items` is an index tensor or a list."""
        index = torch.as_tensor(items)
        return Kept(int(index.numel()), self._each(lambda x: x[index.to(x.device)]))

    def chunk(self, parts: int) -> list[Kept]:
        """Return the parts of a batch of branches."""
        size = self.n // parts
        return [Kept(size, self._each(lambda x, i=i: x[i * size : (i + 1) * size]), (self, i, parts)) for i in range(parts)]

    def _each(self, change: Callable[[Tensor], Tensor]) -> dict[Any, tuple[Entry, ...]]:
        def of(entry: Entry) -> Entry:
            return Entry(entry.clock, tree_map(lambda x: change(x) if isinstance(x, Tensor) else x, entry.value))

        return {key: tuple(map(of, past)) for key, past in self.entries.items()}

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return joined(args[0]) if function is torch.cat and not kwargs and len(args) == 1 else NotImplemented


def joined(parts: Sequence[Kept]) -> Kept:
    """Return what was kept of all items of several parts."""
    if parts[0].cut is not None:
        whole, _, count = parts[0].cut
        if count == len(parts) and all(part.cut == (whole, i, count) for i, part in enumerate(parts)):
            return whole
    entries: dict[Any, tuple[Entry, ...]] = {}
    for key, past in parts[0].entries.items():
        others = [part.entries.get(key, ()) for part in parts]
        clocks = [tuple(entry.clock for entry in other) for other in others]
        if len(set(clocks)) == 1:
            entries[key] = tuple(Entry(past[i].clock, _cat([other[i].value for other in others])) for i in range(len(past)))
    return Kept(sum(part.n for part in parts), entries)


def _cat(trees: Sequence[Any]) -> Any:
    flat = [tree_flatten(tree) for tree in trees]
    leaves = zip(*(leaves for leaves, _ in flat), strict=True)
    return tree_unflatten([torch.cat(cast(Any, x)) if isinstance(x[0], Tensor) else x[0] for x in leaves], flat[0][1])
