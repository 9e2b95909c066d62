"""A policy inside a denoiser's network: the transform, and what a policy is given at each evaluation."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, final

from torch import Tensor, nn

from retrograde.denoisers import AbstractDenoiser, Prediction, Transform
from retrograde.denoisers.carried import BRANCHES, CARRIED, carried
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType, BadValue
from retrograde.sites.doors import Tap, bare, opened
from retrograde.sites.find import find
from retrograde.sites.kept import Entry, Kept
from retrograde.sites.ledger import told_reuse
from retrograde.sites.places import Places

REUSE = "reuse"
"""Knob of the rows that reuse what an earlier one computed: True, or what the policy reuses there."""


@final
class Visit:
    """One evaluation of a network under a policy.

    Attributes:
        x_t: the state, [n, *shape].
        t: path time; where items have their own, the first one's (it serves as the entries' clock alone).
        times: path time as it was asked: a number, or a tensor [n] where items have their own.
        network_time: what the network is told, or None where items have their own.
        asked: the value of the policy's knob in this row, None where the row has none.
        n: number of items in this evaluation, branches included.
        branches: how many branches of guidance these are, one after another.
        reused: what the policy did not compute, for the books: sites, and for how many items.
    """

    def __init__(
        self,
        x_t: Tensor,
        t: float | Tensor,
        network_time: float | None,
        asked: Any,
        before: Kept | None,
        patch: Any,
        branches: int = 1,
    ) -> None:
        self.x_t, self.n, self.asked, self.network_time = x_t, len(x_t), asked, network_time
        self.times = t
        self.t = float(t.flatten()[0]) if isinstance(t, Tensor) else t
        self.reused: dict[str, int] = {}
        self.patch, self.branches = patch, branches
        self._before = before.entries if before is not None and before.n == self.n else {}
        self._new: dict[Any, tuple[Entry, ...]] = {}

    def past(self, key: str) -> tuple[Entry, ...]:
        """Return what was kept under a key before this evaluation, newest first."""
        return self._before.get((key, self.patch), ())

    def newest(self, key: str) -> Any:
        """Return the value kept last before this evaluation, or None."""
        past = self.past(key)
        return past[0].value if past else None

    def keep(self, key: str, value: Any, depth: int = 1) -> None:
        """Keep a value, tensors [n, ...] in any structure, and with it the newest depth - 1 of before."""
        self._new[key, self.patch] = (Entry(self.t, value), *self.past(key)[: depth - 1])

    def kept(self, key: str) -> Any:
        """Return what this evaluation kept under a key, or None."""
        entries = self._new.get((key, self.patch), ())
        return entries[0].value if entries else None

    def replace(self, key: str, value: Any) -> None:
        """Put a value in place of the newest one, which keeps its clock."""
        past = self.past(key)
        self._new[key, self.patch] = (Entry(past[0].clock if past else self.t, value), *past[1:])

    def skip(self, *sites: str, items: int | None = None) -> None:
        """Note that these sites are not computed in this evaluation, for all items or so many."""
        self.reused |= dict.fromkeys(sites, self.n if items is None else items)

    def left(self) -> Kept:
        """Return what the next evaluation will find."""
        return Kept(self.n, {**self._before, **self._new})


class Policy(ABC):
    """What to do at which sites of a network; settings alone, frozen: memory is in the visits.

    Attributes:
        knob: the knob of a plan's rows that it obeys, or None.
        title: name of what it keeps, in the run, and of what it saves, in the books.
    """

    knob: ClassVar[str | None] = REUSE
    title: ClassVar[str]

    @abstractmethod
    def taps(self, visit: Visit) -> Mapping[str, Tap]:
        """Return the taps of this evaluation, by site. Without any, the network is as it is, bit by bit."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Within(Transform):
    """A denoiser with a policy inside its network (see `within`)."""

    policy: Policy
    places: Places
    patch: Any = None

    def predict(
        self,
        x_t: Tensor,
        t: float | Tensor,
        condition: Mapping[str, Any] = NOTHING,
        knobs: Mapping[str, Any] = NOTHING,
        network_time: float | None = None,
    ) -> Prediction:
        title, knob = self.policy.title, self.policy.knob
        held: Mapping[str, Any] = carried(knobs)
        told = self.network_time(t) if network_time is None and not isinstance(t, Tensor) else network_time
        asked, before = knobs.get(knob), held.get(title)  # type: ignore[arg-type]
        visit = Visit(x_t, t, told, asked, before, self.patch, knobs.get(BRANCHES, 1))  # type: ignore[arg-type]
        passed = {name: value for name, value in knobs.items() if name not in (knob, CARRIED)}
        if rest := {name: value for name, value in held.items() if name != title}:
            passed[CARRIED] = rest
        with opened(self.places.network, self.policy.taps(visit)):
            made = self.inner.predict(x_t, t, condition, passed, network_time)
        left: Any = {**made.carried, title: visit.left()}
        if not visit.reused:
            return dataclasses.replace(made, carried=left)
        told_reuse(self.places.network, visit.reused)
        counted = {f"{name}:{title}": count for name, count in made.evaluations.items()}
        return dataclasses.replace(made, carried=left, evaluations=counted)


def within(denoiser: AbstractDenoiser, policy: Policy, places: Places | None = None, patch: Any = None) -> Within:
    """Return the denoiser with a policy inside its network.

    It goes directly around the network's denoiser, inside guidance: branches then have each their own memory. Policies
    nest, the outer one sees the inner one as what it computes.

    Args:
        places: where the network is not the denoiser's own module, or its places cannot be found.
        patch: key of what is kept, beside branch and item; denoisers of different patches over one network remember apart.

    Raises:
        BadType: a guided denoiser, or one without a network that is a module.
        BadValue: the same policy twice.
    """
    inner: Any = denoiser
    while isinstance(inner, Within):
        if inner.policy.title == policy.title:
            raise BadValue(f"{policy.title} around {policy.title}", "each policy once", "take one of them away")
        inner = inner.inner
    if places is None:
        places = places_of(inner)
    made = Within(denoiser, policy, places, patch)
    consumed = denoiser.consumes | ({policy.knob} if policy.knob is not None else frozenset())
    object.__setattr__(made, "consumes", consumed)
    return made


def network_of(denoiser: AbstractDenoiser) -> nn.Module:
    """Return the module inside a denoiser, seen through policies.

    Raises:
        BadType: there is none: an oracle, a function, or a guided denoiser.
    """
    inner: Any = denoiser
    while isinstance(inner, Within):
        inner = inner.inner
    network = bare(getattr(inner, "network", None))
    if isinstance(network, nn.Module):
        return network
    if isinstance(inner, Transform):
        raise BadType(
            f"a policy around {type(inner).__name__}",
            "a policy directly around the network's denoiser; guidance goes outside",
            "rg.guide.cfg(rg.accelerate.deepcache(denoiser), 3.0)",
        )
    raise BadType(
        f"{inner.name!r}, which is not made of a torch module",
        "a rg.Denoiser whose network is a torch.nn.Module",
        "rg.Denoiser(module, path, ...), or name the module: places=rg.sites.find(module)",
    )


def places_of(denoiser: AbstractDenoiser) -> Places:
    """Return the places of the network inside a denoiser (see `find`)."""
    return find(network_of(denoiser))
