"""What a network said at the rows of a plan, asked for many rows in one call: the ground of sampling many rows at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde.accelerate.answered import Answered
from retrograde.denoisers import AbstractDenoiser, Prediction
from retrograde.denoisers.anchor import ANCHOR
from retrograde.denoisers.denoiser import NOTHING
from retrograde.errors import BadType
from retrograde.plan import Plan, Row
from retrograde.state import Ledger


@final
class Sheet:
    """The answers at the rows that ask, item by item; where there is none yet, the newest data mean before it stands for it.

    Or, where a draft is given, what that denoiser says.

    A loop over the `denoiser` of the sheet runs on these answers; `ask` fills them in, but for the first row's, which is
    asked when the loop comes to it. Rows of unlike knobs, or told another time than is usual, have calls of their own.

    Attributes:
        asking: the rows that ask, in order.
        denoiser: what the loop is given.
        place: which of them the loop asks next; whoever drives the loop sets it.
        states: for each of them the state at which the loop last asked, [n, *shape].
        known: whether there is an answer, [rows, n].
        ledger: what the answers cost; evaluations are means over items.
    """

    def __init__(self, plan: Plan, inner: AbstractDenoiser, n: int, draft: AbstractDenoiser | None = None) -> None:
        self.asking = [row for row in plan.rows if row.time is not None]
        self.denoiser = Answered(inner, self._answer)
        self.place = 0
        self.states: list[Tensor] = [torch.empty(0)] * len(self.asking)
        self.known = torch.zeros(len(self.asking), n, dtype=torch.bool)
        self.ledger = Ledger()
        self._inner, self._n, self._draft = inner, n, draft
        self._values: list[Tensor | None] = [None] * len(self.asking)
        self._kinds = [""] * len(self.asking)
        self._ahead: Tensor | None = None
        self._condition: Mapping[str, Any] = NOTHING

    def _answer(self, x_t: Tensor, t: float | Tensor, condition: Mapping[str, Any]) -> Prediction:
        j, self._condition = self.place, condition
        self.states[j] = x_t
        if j == 0 and not bool(self.known[0].all()):  # where every item begins there is nothing to wait for
            items = torch.arange(self._n)
            self.ask(torch.zeros_like(items), items, x_t)
        made = self._filled(j, x_t, t, condition)
        if self._draft is None and j + 1 < len(self.asking) and not bool(self.known[j + 1].all()):
            data = made.data
            known = self._mask(self.known[j], x_t)
            self._ahead = data if self._ahead is None else torch.where(known, data, self._ahead)
        return made

    def _filled(self, j: int, x_t: Tensor, t: float | Tensor, condition: Mapping[str, Any]) -> Prediction:
        value, kind, path, anchor = self._values[j], self._kinds[j], self._inner.path, condition.get(ANCHOR)
        if value is not None and bool(self.known[j].all()):
            return Prediction(x_t, t, path, value, kind, anchor=anchor)
        if self._draft is not None:
            held = self._drafted(j, x_t, t)
        else:
            ahead = torch.zeros_like(x_t) if self._ahead is None else self._ahead
            held = Prediction(x_t, t, path, ahead, "data", anchor=anchor)
        if value is None:
            return held
        made = torch.where(self._mask(self.known[j], x_t), value, held.read(kind))
        return Prediction(x_t, t, path, made, kind, anchor=anchor)

    def _drafted(self, j: int, x_t: Tensor, t: float | Tensor) -> Prediction:
        """Ask the draft, for the items without an answer."""
        draft: Any = self._draft
        items = (~self.known[j]).nonzero().flatten().to(x_t.device)
        condition = {name: value[items] for name, value in self._condition.items() if name in (ANCHOR, *draft.conditions)}
        began = time.perf_counter()
        with torch.no_grad():
            made = draft.predict(x_t[items], t, condition)
        evaluations = {name: count * len(items) / self._n for name, count in made.evaluations.items()}
        self.ledger.count(evaluations, time.perf_counter() - began)
        value = torch.zeros_like(x_t).index_copy(0, items, made.value)
        return Prediction(x_t, t, self._inner.path, value, made.kind, anchor=self._condition.get(ANCHOR))

    @staticmethod
    def _mask(of: Tensor, like: Tensor) -> Tensor:
        return of.to(like.device).reshape(-1, *(1,) * (like.ndim - 1))

    def ask(self, rows: Tensor, items: Tensor, x_t: Tensor) -> None:
        """Ask the network at pairs of row and item, [pairs], with their states [pairs, *shape], and note the answers.

        Raises:
            BadType: an answer of two quantities, or one that remembers from row to row.
        """
        groups: dict[int, list[int]] = {}
        for j in rows.unique().tolist():
            alike = (k for k in groups if _alike(self.asking[k], self.asking[j], self._inner))
            groups.setdefault(next(alike, j), []).append(j)
        for together in groups.values():
            of = torch.isin(rows, torch.tensor(together))
            self._ask(together, rows[of], items[of], x_t[of.to(x_t.device)])
        self.known[rows, items] = True

    def _ask(self, together: Sequence[int], rows: Tensor, items: Tensor, x_t: Tensor) -> None:
        first, device = self.asking[together[0]], x_t.device
        own: Any = first.time
        told = first.network_time
        if len(together) > 1:
            times = [self.asking[j].time for j in rows.tolist()]
            own, told = torch.tensor(times, dtype=torch.float64, device=device), None
        places = items.to(device)
        condition = {name: value[places] if isinstance(value, Tensor) else value for name, value in self._condition.items()}
        began = time.perf_counter()
        with torch.no_grad():
            made = self._inner.predict(x_t, own, condition, first.knobs, told)
        share = len(rows) / self._n
        self.ledger.count({k: share * v for k, v in made.evaluations.items()}, time.perf_counter() - began)
        if made.heads or made.carried:
            what = "answers with two quantities" if made.heads else f"remembers {sorted(made.carried)} from row to row"
            raise BadType(
                f"rows asked together of {self._inner.name!r}, which {what}",
                "a denoiser of one quantity, without memory: a row is asked before the one that would hand it over",
                "take the policy or momentum out, or sample row by row: rg.sample(denoiser, plan)",
            )
        self._note(made, rows, items)

    def _note(self, made: Prediction, rows: Tensor, items: Tensor) -> None:
        for j in rows.unique().tolist():
            of = rows == j
            value, kind = made.value[of.to(made.value.device)], made.kind
            kept = self._values[j]
            if bool(of.sum() == self._n):
                self._values[j], self._kinds[j] = value, kind
                continue
            if kept is None:
                kept = value.new_zeros(self._n, *value.shape[1:])
            elif kind != self._kinds[j]:
                value = made.read(self._kinds[j])[of.to(made.value.device)]
                kind = self._kinds[j]
            self._values[j] = kept.index_copy(0, items[of].to(value.device), value)
            self._kinds[j] = kind


def _alike(one: Row, other: Row, denoiser: AbstractDenoiser) -> bool:
    """Whether two rows may be asked in one call, which is told each row's time and one set of knobs."""
    usual = all(row.network_time in (None, denoiser.network_time(row.time or 0.0)) for row in (one, other))
    return usual and dict(one.knobs) == dict(other.knobs)
