"""Speculative sampling: cheap guesses of the next states, judged together by one network call, with the law of the plan.

A stochastic row draws x' = m + c z. A draft draws it around another mean, m_d, and goes on from there; the network is asked
at all drafted states of a window at once. Then, row by row, the drafted state is accepted, or exchanged for one that has the
right law, and what was drafted after it is discarded.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.accelerate.sheet import Sheet
from retrograde.denoisers import AbstractDenoiser, on_path
from retrograde.errors import BadValue, PlanError
from retrograde.noise import Noise, Remembered, Source
from retrograde.plan import Plan, Row
from retrograde.sampling import steps
from retrograde.state import Back, Ledger, State

systems.register(
    systems.System(
        title="Accelerated Diffusion Models via Speculative Sampling",
        authors=("Valentin De Bortoli", "Alexandre Galashov", "Arthur Gretton", "Arnaud Doucet"),
        year=2025,
        arxiv="2501.05370",
        home="accelerate",
        call="rg.accelerate.speculative(denoiser, plan, window=8)",
        test="tests/accelerate/test_speculative.py::test_samples_have_the_law_of_the_plan",
    )
)

_OPTIONS = {"condition", "x", "signal", "anchor", "items", "dtype", "device", "noise"}
_JUDGE = 2**40
"""Added to the occurrence of the draws that accept or reject, apart from those of the rows."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Speculated:
    """What speculative sampling made.

    Attributes:
        samples: [n, *shape].
        rounds: how many network calls each item waited for, one after another, [n]; plan.nfe in a sequential run.
        ledger: what was asked in all, evaluations per item (a mean), the draft's own under its name.
        drafted: how many drafted rows were judged, [n].
        accepted: how many of them were accepted, [n].
    """

    samples: Tensor
    rounds: Tensor
    ledger: Ledger
    drafted: Tensor
    accepted: Tensor


def reflected(z: Tensor, delta: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return noise z' that is standard normal, and z + delta as often as any such noise can be; and where it is.

        z' = z + delta                        where u <= N(z + delta)/N(z),
        z' = z - 2 e <e, z>, e = delta/|delta|  elsewhere,

    for z standard normal and u uniform: the reflection is maximal, with probability 2 Phi(-|delta|/2) of the first.

    Args:
        z, delta: [n, *shape].
        uniform: u [n], in float64.

    Reference: Bou-Rabee, Eberle, Zimmer, Coupling and Convergence for Hamiltonian Monte Carlo, 2020, arXiv 1805.00452.
    """
    flat, shift = z.flatten(1).double(), delta.flatten(1).double()
    along, square = (flat * shift).sum(1), shift.square().sum(1)
    accepted = uniform.to(z.device).log() <= -(along + 0.5 * square)
    factor = torch.where(square > 0, 2 * along / torch.where(square > 0, square, 1.0), 0.0)
    shape = (-1, *(1,) * (z.ndim - 1))
    mirrored = z - factor.reshape(shape).to(z) * delta
    return torch.where(accepted.reshape(shape), z + delta, mirrored), accepted


@final
class _Speculation:
    """The controller of one run: rows are drafted to the end of the window, asked there, taken back and judged."""

    consumes: frozenset[str] = frozenset()

    def __init__(self, plan: Plan, sheet: Sheet, n: int, window: int, noise: Source) -> None:
        self._plan, self._sheet, self._window, self._noise = plan, sheet, window, noise
        self._rows = [index for index, row in enumerate(plan.rows) if row.time is not None]
        self._place = -1  # the newest row that asked
        self._before: dict[int, State] = {}
        self._made: dict[int, Tensor] = {}  # the state after each row, final or drafted
        self._last = 1  # the row at which the window is asked
        self._final = torch.zeros(n, dtype=torch.long)  # of each item, the rows that are done
        self._draft = torch.zeros(len(plan.rows), n, dtype=torch.bool)
        self.rounds = torch.ones(n, dtype=torch.long)
        self.drafted, self.accepted = torch.zeros(n, dtype=torch.long), torch.zeros(n, dtype=torch.long)

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...] | Back:
        if remaining[0].time is None:
            return remaining
        place = self._place = self._sheet.place = self._rows.index(len(self._plan.rows) - len(remaining))
        if state is None or place == 0:
            return remaining
        self._before[place] = state
        return self._asked(place, remaining, state) if place >= self._last else remaining

    def _asked(self, place: int, remaining: tuple[Row, ...], state: State) -> tuple[Row, ...] | Back:
        next_ = torch.bucketize(self._final, torch.tensor(self._rows))  # of each item, the row to be asked next
        next_ += (next_ == place) & self._sheet.known[place]  # this one was, at this very state
        open_ = next_ < len(self._rows)
        if not bool(open_.any()):
            self._last = len(self._rows)
            return remaining
        end = min(len(self._rows), int(next_[open_].max()) + self._window)
        if end - 1 > place:
            self._last = end - 1
            return remaining
        first = int(next_[open_].min())
        rows = torch.arange(first, place + 1)[:, None]
        wanted = open_ & (rows >= next_) & (rows < next_ + self._window)
        states = torch.stack([*self._sheet.states[first:place], state.x_t])
        places, items = wanted.nonzero().unbind(1)
        self._sheet.ask(places + first, items, states[wanted.to(states.device)])
        self.rounds += open_
        if first == place:
            return remaining
        self._place = self._sheet.place = first  # the loop runs the first of these rows without asking again
        return Back(self._before[first], self._plan.rows[self._rows[first] :])

    def correct(self, state: State) -> Tensor:
        index = state.index
        known = torch.ones_like(self._draft[0]) if self._place < 0 else self._sheet.known[self._place]
        before, judged = index < self._final, (self._final == index) & known
        made = state.x_t
        if index in self._made:
            made = torch.where(_per_item(before | (judged & self._draft[index]), made), self._made[index], made)
            made = self._judged(index, state, made, judged & self._draft[index])
        self._draft[index] = ~(before | judged)
        self._final += judged
        self._made[index] = made
        return made

    def _judged(self, index: int, state: State, drafted: Tensor, of: Tensor) -> Tensor:
        """Return the states with those of some items accepted or exchanged: drafted, against what the row really makes."""
        if not bool(of.any()):
            return drafted
        row, change = state.row, drafted - state.x_t
        if row.noises and row.noises[0] != 0.0:
            c: Any = row.noises[0]
            z = state.memory.noises[0]
            began: Any = self._plan.start if index == 0 else self._plan.rows[index - 1].next_time
            interval = (-1.0 if began is None else began, -1.0 if state.t is None else state.t)
            visit = state.memory.visits[interval] - 1
            normal = self._noise.draw((1,), interval, _JUDGE + visit, torch.float64, z.device)
            z_new, accepted = reflected(z, change / c, torch.special.ndtr(normal[:, 0]))
            exchanged = state.x_t + c * (z_new - z)
        else:
            accepted, exchanged = change.flatten(1).abs().amax(1) == 0, state.x_t
        accepted = accepted.cpu()
        self.drafted += of
        self.accepted += of & accepted
        refused = of & ~accepted
        self._draft[index + 1 :, refused] = False
        self._sheet.known[self._place + 1 :, refused] = False
        return torch.where(_per_item(refused, drafted), exchanged, drafted)


def _per_item(of: Tensor, like: Tensor) -> Tensor:
    return of.to(like.device).reshape(-1, *(1,) * (like.ndim - 1))


def speculative(
    denoiser: AbstractDenoiser,
    plan: Plan,
    n: int = 1,
    seed: int = 0,
    *,
    window: int = 8,
    draft: AbstractDenoiser | None = None,
    **options: Any,
) -> Speculated:
    """Sample a stochastic plan exactly in law, with fewer network calls one after another.

    From the newest final state the next rows are run on drafted predictions: the data mean that the network gave last, or
    those of a `draft`, a small network. One call asks the network at all these states. In turn each row's drafted state
    m_d + c z is then judged against the row's law N(m, c^2) (see `reflected`): with delta = (m_d - m)/c it is kept with
    probability min(1, N(z + delta)/N(z)); otherwise the mirrored m + c (z - 2 e <e, z>) takes its place, and drafting begins
    anew. Either way the state has the row's law given those before it, so that the samples have the law of the plan (they
    are others than those of the seed). Every call makes at least one row final, the last row of a window needs no
    judgement, and with window 1 nothing is drafted: the samples are those of `rg.sample`, bit by bit. Rows without noise
    accept a draft only if it is exact.

    Drafts are accepted where |delta| is small: short steps with much noise. It costs more evaluations in all, and pays where
    the call for a window takes hardly longer than for one row.

    Args:
        window: how many rows are asked together for each item.
        draft: a cheap denoiser of the same data; its conditions are those of the same name.
        **options: what `rg.sample` takes of condition, x, signal, anchor, items, dtype, device and noise.

    Raises:
        BadValue: a window below 1, or an option of other kinds of runs.
        PlanError: rows that use noise drawn by earlier ones, or noise with a coefficient that is no number.
        BadType: a denoiser that answers with two quantities, or remembers from row to row.

    Reference: De Bortoli, Galashov, Gretton, Doucet, 2025, arXiv 2501.05370 (their draft without training freezes the drift,
    here the data mean is frozen).
    """
    if window < 1:
        raise BadValue(f"window={window}", "window >= 1", "window=8")
    if wrong := sorted(set(options) - _OPTIONS):
        raise BadValue(f"the option {wrong[0]!r}", f"one of {', '.join(sorted(_OPTIONS))}", "rg.sample(denoiser, plan, ...)")
    for index, row in enumerate(plan.rows):
        if len(row.noises) > 1 or not all(isinstance(c, float) for c in row.noises):
            given = f"row {index} of {plan.recipe}, whose noise is not one number times a fresh draw"
            raise PlanError(given, "rows x' = m + c z", "another stochastic recipe: 'ddpm'")
    many = [options[k] for k in ("x", "signal", "items", "anchor") if options.get(k) is not None]
    n = max([n, *(len(one) for one in many if not isinstance(one, Tensor) or one.ndim > len(denoiser.shape))])
    items = options.get("items")
    source = Remembered(options.pop("noise", Noise)(seed, range(n) if items is None else items))
    inner = on_path(denoiser, plan.path)
    plan = plan.bind(inner)
    sheet = Sheet(plan, inner, n, None if draft is None else on_path(draft, plan.path))
    judge = _Speculation(plan, sheet, n, window, source)
    run = steps(plan, sheet.denoiser, n, seed, controllers=[judge], noise=lambda seed, items: source, **options)
    last = collections.deque(run, maxlen=1)
    return Speculated(last[0].x_t, judge.rounds, sheet.ledger, judge.drafted, judge.accepted)
