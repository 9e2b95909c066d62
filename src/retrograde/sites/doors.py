"""Taps: functions that stand in front of a module's forward and decide whether it is computed.

A module with taps has a door in place of its forward. Which taps are behind a door depends on the context of the caller
(thread and task), so two runs over one module do not see each other's, and a caller without taps gets the module as it
is. The last one who leaves takes the door away.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, final

import torch
from torch import nn

from retrograde.errors import UnknownName

ROOT = ""
"""Name of the network itself among its sites."""

Tap = Callable[["Call"], Any]
"""Given a call of a site, returns what the site shall return."""

_Taps = tuple[tuple[str, Tap], ...]
_here: ContextVar[Mapping[nn.Module, tuple[_Taps, _Taps]]] = ContextVar("taps", default=MappingProxyType({}))
"""Of each module the taps that decide, outermost first, and those that only watch what is really computed."""
_lock = threading.RLock()


@final
class Call:
    """One call of a site.

    Attributes:
        site: its name.
        module: the module called.
        args, kwargs: what it was called with.
    """

    __slots__ = ("_compute", "_rest", "args", "kwargs", "module", "site")

    def __init__(
        self,
        site: str,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        compute: Callable[..., Any],
        rest: _Taps,
    ) -> None:
        self.site, self.module, self.args, self.kwargs = site, module, args, kwargs
        self._compute, self._rest = compute, rest

    def compute(self) -> Any:
        """Compute the site as it would have been."""
        return _through(self._rest, self.module, self._compute, self.args, self.kwargs)

    def compute_with(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the site with other inputs."""
        return _through(self._rest, self.module, self._compute, args, kwargs)


@final
class _Door:
    """What stands in place of a module's forward while anybody has a tap on it."""

    def __init__(self, module: nn.Module) -> None:
        # a module that was compiled by itself is entered through its graph: tapped there, the graph stays whole
        self.place = "forward" if module.__dict__.get("_compiled_call_impl") is None else "_compiled_call_impl"
        self.module = module
        self.had = module.__dict__.get(self.place)
        self.compute = getattr(module, self.place)
        self.users = 0
        object.__setattr__(module, self.place, self)

    @torch.compiler.disable(recursive=False)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        deciding, watching = _here.get().get(self.module, ((), ()))
        return _through((*deciding, *watching), self.module, self.compute, args, kwargs)

    def close(self) -> None:
        if self.had is None:
            self.module.__dict__.pop(self.place, None)
        else:
            object.__setattr__(self.module, self.place, self.had)


_doors: dict[nn.Module, _Door] = {}


def _through(
    taps: _Taps,
    module: nn.Module,
    compute: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    if not taps:
        return compute(*args, **kwargs)
    (site, tap), rest = taps[0], taps[1:]
    return tap(Call(site, module, args, kwargs, compute, rest))


@contextlib.contextmanager
def opened(network: nn.Module, taps: Mapping[str, Tap], watching: bool = False) -> Iterator[None]:
    """Put taps in front of the sites of a network, by name, for what this context calls; leaving restores every module.

    A site is a submodule by its dotted path, or "" for the network itself. Contexts nest: the outer tap sees the inner
    one as what it computes. Other threads, and generators that are not running, are not touched.

    Args:
        watching: these taps come after all others, next to the module: they see only what is really computed.

    Raises:
        UnknownName: a site that the network does not have.
    """
    modules = {name: _module(network, name) for name in taps}
    before = _here.get()
    added: dict[nn.Module, tuple[_Taps, _Taps]] = {}
    for name, module in modules.items():
        kinds = list(added.get(module) or before.get(module, ((), ())))
        kinds[watching] = (*kinds[watching], (name, taps[name]))
        added[module] = (kinds[0], kinds[1])
    entered: list[nn.Module] = []
    token = _here.set({**before, **added})
    try:
        for module in added:
            with _lock:
                if module not in _doors:
                    _doors[module] = _Door(module)
                _doors[module].users += 1
            entered.append(module)
        yield
    finally:
        _here.reset(token)
        for module in reversed(entered):
            with _lock:
                door = _doors[module]
                door.users -= 1
                if door.users == 0:
                    door.close()
                    del _doors[module]


def bare(network: Any) -> Any:
    """Return the module inside what `torch.compile` or a parallel wrapper made of it; anything else as it is."""
    for name in ("_orig_mod", "module"):
        inner = getattr(network, name, None) if isinstance(network, nn.Module) else None
        if isinstance(inner, nn.Module) and len(list(network.children())) == 1:
            return bare(inner)
    return network


def _module(network: nn.Module, name: str) -> nn.Module:
    found: Any = network
    for part in name.split(".") if name else ():  # as `get_submodule` looks, at a tenth of its price
        found = found._modules.get(part)
        if found is None:
            break
    else:
        return found
    try:
        return network.get_submodule(name)
    except AttributeError:
        raise UnknownName("site", name, [known for known, _ in network.named_modules() if known]) from None
