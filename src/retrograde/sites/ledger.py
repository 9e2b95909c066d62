"""What a network computed and what a policy spared: multiply-accumulates as counted by operators, and seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, final

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from retrograde.sites.doors import ROOT, Call, Tap, opened


@final
@dataclasses.dataclass
class Book:
    """The books of one network while `counted` or `timed` was open.

    Attributes:
        macs: multiply-accumulates that were computed, by site; of the whole network under "".
        seconds: seconds spent, by site, likewise.
        calls: how often each site was really computed.
        spared: how often each site was left out by a policy.
        spared_macs: what these would have cost, by what the site cost per item when it was last computed. Sites that
            never were computed while the books were open are missing.
        per_item: multiply-accumulates of one item, as the site was last computed.
    """

    macs: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    calls: dict[str, int] = dataclasses.field(default_factory=dict)
    spared: dict[str, int] = dataclasses.field(default_factory=dict)
    spared_macs: dict[str, float] = dataclasses.field(default_factory=dict)
    per_item: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> int:
        """Multiply-accumulates of the whole network."""
        return self.macs.get(ROOT, 0)

    @property
    def saved(self) -> float:
        """Multiply-accumulates that policies spared."""
        return sum(self.spared_macs.values())


_books: ContextVar[tuple[tuple[nn.Module, Book], ...]] = ContextVar("books", default=())


def told_reuse(network: nn.Module, sites: Mapping[str, int]) -> None:
    """Enter into the open books of a network that its sites were not computed, each for so many items."""
    for module, book in _books.get():
        inside = next((name for name, part in module.named_modules() if part is network), None)
        if inside is not None:
            for name, n in sites.items():
                site = ".".join(part for part in (inside, name) if part)
                book.spared[site] = book.spared.get(site, 0) + 1
                if site in book.per_item:
                    book.spared_macs[site] = book.spared_macs.get(site, 0.0) + n * book.per_item[site]


def _cpu_attention(query: Any, key: Any, value: Any, *rest: Any, out_val: Any = None, **options: Any) -> int:
    """Floating-point operations of the CPU's fused attention, from shapes [..., length, channels]; two products."""
    *batch, length, channels = query
    heads = 1
    for size in batch:
        heads *= size
    return 2 * heads * length * key[-2] * (channels + value[-1])


def counter() -> FlopCounterMode:
    """Return the counter of operators that knows the fused attention of the CPU too."""
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={fused: _cpu_attention, fused.default: _cpu_attention})


@contextlib.contextmanager
def counted(network: nn.Module, sites: Iterable[str] | None = None) -> Iterator[Book]:
    """Count multiply-accumulates of a network and of some of its sites (all of them), as the operators that ran say.

    Counting slows the network; measure seconds with `timed`. Convolutions, products of matrices and attention count;
    norms, activations and additions do not.
    """
    book, mode = Book(), counter()

    def taken(call: Call) -> Any:
        before = mode.get_total_flops()
        result = call.compute()
        spent = (mode.get_total_flops() - before) // 2
        _entered(book, call, spent)
        return result

    every = [name for name, _ in network.named_modules() if name] if sites is None else sites
    with _opened(network, every, taken, book), mode:
        yield book


def _entered(book: Book, call: Call, spent: int) -> None:
    book.macs[call.site] = book.macs.get(call.site, 0) + spent
    book.calls[call.site] = book.calls.get(call.site, 0) + 1
    n = next((x.shape[0] for x in (*call.args, *call.kwargs.values()) if isinstance(x, torch.Tensor) and x.ndim), 1)
    book.per_item[call.site] = spent / max(n, 1)


@contextlib.contextmanager
def timed(network: nn.Module, sites: Iterable[str] = ()) -> Iterator[Book]:
    """Measure the seconds of a network and of some of its sites, waiting for its device after each."""
    book = Book()

    def taken(call: Call) -> Any:
        _wait(call)
        began = time.perf_counter()
        result = call.compute()
        _wait(call)
        book.seconds[call.site] = book.seconds.get(call.site, 0.0) + time.perf_counter() - began
        book.calls[call.site] = book.calls.get(call.site, 0) + 1
        return result

    with _opened(network, sites, taken, book):
        yield book


def _wait(call: Call) -> None:
    if any(isinstance(x, torch.Tensor) and x.is_cuda for x in (*call.args, *call.kwargs.values())):
        torch.cuda.synchronize()


@contextlib.contextmanager
def _opened(network: nn.Module, sites: Iterable[str], tap: Tap, book: Book) -> Iterator[None]:
    token = _books.set((*_books.get(), (network, book)))
    taps: Mapping[str, Tap] = dict.fromkeys((ROOT, *sites), tap)
    try:
        with opened(network, taps, watching=True):
            yield
    finally:
        _books.reset(token)
