"""Leaving out runs of blocks of a transformer: what a run adds to the features is kept, and added again.

For a run of neighbouring blocks h -> h', kept is d = h' - h; a run that is left out answers h + d. The decision is made
item by item: where only some items are to be computed, the blocks are asked for those alone, so that a sample does not
depend on the others in its batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from retrograde.sites import Block, Call, Tap, Visit

Decide = Callable[[Call], Tensor | bool]
"""Whether to compute, when a run begins: True or False, or a mask of the items [n]."""


def _together(change: Callable[..., Any], *trees: Any) -> Any:
    """Apply a function to the tensors of alike trees; what is no tensor in the first stays."""
    flat = [tree_flatten(tree)[0] for tree in trees]
    made = [change(*xs) if all(isinstance(x, Tensor) for x in xs) else xs[0] for xs in zip(*flat, strict=True)]
    return tree_unflatten(made, tree_flatten(trees[0])[1])


def added(after: Any, before: Any) -> Any:
    """Return what was added, tensor by tensor; None where a block answers with none."""
    return _pairs(after, before, lambda one, other: one - other)


def plus(before: Any, change: Any) -> Any:
    """Return the features with a change; None where the change is None."""
    return _pairs(change, before, lambda one, other: other + one)


def _pairs(first: Any, second: Any, change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    if isinstance(first, tuple | list):
        return tuple(None if a is None else change(a, b) for a, b in zip(first, second, strict=True))
    return change(first, second)


def some(tree: Any, items: Tensor, n: int) -> Any:
    """Return the entries of some items, of every tensor that has one entry for each."""
    return tree_map(lambda x: x[items] if isinstance(x, Tensor) and x.ndim and x.shape[0] == n else x, tree)


def _doubtful(features: Any, n: int) -> bool:
    """Whether as many tokens as items run through a block: a table of positions then looks like one entry per item."""
    streams = [x.shape[1:-1] for x in tree_flatten(features)[0] if isinstance(x, Tensor)]
    return any(n in sizes for sizes in streams) or n == sum(math.prod(sizes) for sizes in streams)


@final
@dataclasses.dataclass
class Run:
    """One run of blocks in one evaluation.

    Attributes:
        blocks: the blocks, in order.
        visit: the evaluation.
        decide: asked at the first block, with its call.
        key: what the change is kept under.
        predict: from the visit and the key, the change to add where the run is left out; the last one by default.
        depth: how many changes are kept.
    """

    blocks: Sequence[Block]
    visit: Visit
    decide: Decide
    key: str
    predict: Callable[[Visit, str], Any] = Visit.newest
    depth: int = 1
    _begin: Any = None
    _computed: Tensor | bool = True

    def taps(self) -> Mapping[str, Tap]:
        """Return the taps of the run's blocks."""
        return {block.name: self._tap(k) for k, block in enumerate(self.blocks)}

    def _tap(self, k: int) -> Tap:
        def tap(call: Call) -> Any:
            if k == 0:
                self._start(call)
            here = self.blocks[k].bypass(call)
            made = here if self._computed is False else self._compute(call, here)
            return self._end(made) if k == len(self.blocks) - 1 else made

        return tap

    def _start(self, call: Call) -> None:
        self._begin = self.blocks[0].bypass(call)
        known = self.visit.newest(self.key) is not None
        self._computed = self.decide(call) if known else True
        if isinstance(self._computed, Tensor):
            count = int(self._computed.sum())
            self._computed = self._computed if 0 < count < self.visit.n else count > 0
        spared = 0 if self._computed is True else self.visit.n
        if isinstance(self._computed, Tensor):
            spared -= int(self._computed.sum())
        if spared:
            self.visit.skip(*(block.name for block in self.blocks), items=spared)

    def _compute(self, call: Call, here: Any) -> Any:
        if self._computed is True:
            return call.compute()
        items = torch.as_tensor(self._computed).nonzero().flatten()
        n = self.visit.n
        if _doubtful(here, n):
            return call.compute()  # all of them: `_end` takes of each item what it shall have
        made = call.compute_with(*some(call.args, items, n), **some(call.kwargs, items, n))
        if isinstance(made, tuple) and any(x is None for x in made):
            here = tuple(h if m is not None else None for h, m in zip(here, made, strict=True))
        return _together(lambda whole, part: whole.index_copy(0, items.to(whole.device), part), here, made)

    def _end(self, made: Any) -> Any:
        if self._computed is True:
            self.visit.keep(self.key, added(made, self._begin), self.depth)
            return made
        instead = plus(self._begin, self.predict(self.visit, self.key))
        if self._computed is False:
            return instead
        mask = torch.as_tensor(self._computed)

        def choose(one: Tensor, other: Tensor) -> Tensor:
            return torch.where(mask.to(one.device).reshape(-1, *(1,) * (one.ndim - 1)), one, other)

        whole = _together(choose, made, instead)
        change = _together(choose, added(made, self._begin), self.visit.newest(self.key))
        self.visit.replace(self.key, change)
        return whole
