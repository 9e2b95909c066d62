"""Sampling in parallel along time: all rows of a window asked in one call, again and again, until nothing moves.

The states a plan asks at solve a triangular system of equations: each follows from the answers at those before it. A sweep
guesses them all, asks the network for all of them at once, and runs the plan's linear part on the answers: a Picard
iteration. Whatever was guessed, each sweep makes one more state exactly that of the sequential run.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.accelerate.sheet import Sheet
from retrograde.denoisers import AbstractDenoiser, on_path
from retrograde.errors import BadValue
from retrograde.noise import Noise, Remembered
from retrograde.plan import Plan, Row
from retrograde.sampling import steps
from retrograde.state import Back, Ledger, State

systems.register(
    systems.System(
        title="Parallel Sampling of Diffusion Models",
        authors=("Andy Shih", "Suneel Belkhale", "Stefano Ermon", "Dorsa Sadigh", "Nima Anari"),
        year=2023,
        arxiv="2305.16317",
        home="accelerate",
        call="rg.accelerate.picard(denoiser, plan, window=16)",
        test="tests/accelerate/test_picard.py::test_it_is_the_sequential_run_after_at_most_as_many_rounds",
    )
)
systems.register(
    systems.System(
        title="Accelerating Parallel Sampling of Diffusion Models",
        authors=("Zhiwei Tang", "Jiasheng Tang", "Hao Luo", "Fan Wang", "Tsung-Hui Chang"),
        year=2024,
        arxiv="2402.09970",
        home="accelerate",
        call="rg.accelerate.picard(denoiser, plan, window=16, anderson=3)",
        test="tests/accelerate/test_picard.py::test_anderson_acceleration_takes_fewer_rounds",
    )
)

_OPTIONS = {"condition", "x", "signal", "anchor", "items", "dtype", "device", "noise"}


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Swept:
    """What sampling in parallel made.

    Attributes:
        samples: [n, *shape].
        rounds: how many network calls each item waited for, one after another, [n]; plan.nfe in a sequential run.
        ledger: what was asked in all, evaluations per item (a mean); more than in a sequential run.
    """

    samples: Tensor
    rounds: Tensor
    ledger: Ledger


@final
class _Mixing:
    """Anderson's acceleration of sweeps, in the triangular form: a row's weights look at it and the rows before it alone."""

    def __init__(self, sweeps: int, scales: Tensor) -> None:
        self._scales = scales
        self._changes: collections.deque[tuple[int, tuple[Tensor, Tensor]]] = collections.deque(maxlen=sweeps)
        self._last: tuple[int, tuple[Tensor, Tensor, Tensor]] | None = None

    def __call__(self, first: int, guesses: Tensor, made: Tensor, of: Tensor) -> Tensor:
        """Return the next guesses [rows, n, *shape], from row `first` on.

        Args:
            guesses: what was asked, [rows, n, *shape].
            made: the states that followed.
            of: where both are of this sweep, [rows, n]; elsewhere `made` is handed back.
        """
        shape, count = made.shape, len(made)
        weights = of[..., None].to(made)
        g, f = guesses.flatten(2), made.flatten(2)
        r = (f - g) * weights
        if self._last is not None:
            had, before = self._last
            g_last, r_last, w_last = (_rows(x, had, first, count) for x in before)
            both = weights * w_last
            self._changes.append((first, ((g - g_last) * both, (r - r_last) * both)))
        self._last = first, (g, r, weights)
        if not self._changes:
            return made
        d_g, d_r = (torch.stack([weights * _rows(c[k], had, first, count) for had, c in self._changes]) for k in (0, 1))
        scales = self._scales[first : first + count].to(made.device, torch.float64).reshape(-1, 1, 1)
        near, towards = d_r.double() / scales, r.double() / scales
        gram = torch.einsum("arnd,brnd->rnab", near, near).cumsum(0)
        right = torch.einsum("arnd,rnd->rna", near, towards).cumsum(0)
        size = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        gamma = torch.linalg.solve(gram + (1e-8 * size + 1e-30) * eye, right).to(f)
        return (f - torch.einsum("rna,arnd->rnd", gamma, d_g + d_r)).reshape(shape)


def _rows(x: Tensor, had: int, first: int, count: int) -> Tensor:
    """Return rows first..first+count of a tensor that begins at row `had`, zeros where it has none."""
    made = x.new_zeros(count, *x.shape[1:])
    begin, end = max(had, first), min(had + len(x), first + count)
    if begin < end:
        made[begin - first : end - first] = x[begin - had : end - had]
    return made


@final
class _Sweeps:
    """The controller of one run: at the end of the window it asks for all rows in it, and takes them back."""

    consumes: frozenset[str] = frozenset()

    def __init__(self, plan: Plan, sheet: Sheet, n: int, window: int, tolerance: float, anderson: int) -> None:
        self._plan, self._sheet, self._window, self._tolerance = plan, sheet, window, tolerance
        self._rows = [index for index, row in enumerate(plan.rows) if row.time is not None]
        path, times = plan.path, [plan.rows[index].time for index in self._rows]
        self._scales = torch.tensor([math.hypot(path.a(t), path.s(t)) for t in times if t is not None])
        self._mixing = _Mixing(anderson, self._scales) if anderson else None
        self._before: dict[int, State] = {}  # in front of each row of the window
        self._guesses: dict[int, Tensor] = {}
        self._last = 1  # the row at which the next sweep begins
        self._done = torch.ones(n, dtype=torch.long)  # of each item, the answers that are final: the first row is exact
        self._exact = self._done.clone()
        self.rounds = torch.ones(n, dtype=torch.long)

    def rewrite(self, remaining: tuple[Row, ...], state: State | None) -> tuple[Row, ...] | Back:
        if remaining[0].time is None:
            return remaining
        place = self._sheet.place = self._rows.index(len(self._plan.rows) - len(remaining))
        if state is None or place == 0:
            return remaining
        self._before[place] = state
        return self._swept(place, remaining, state) if place >= self._last else remaining

    def correct(self, state: State) -> Tensor:
        return state.x_t

    def _swept(self, place: int, remaining: tuple[Row, ...], state: State) -> tuple[Row, ...] | Back:
        made = [*self._sheet.states[:place], state.x_t]
        first = int(self._done.min())
        self._settle(first, made)
        open_ = self._done < len(self._rows)
        if not bool(open_.any()):
            self._last = len(self._rows)
            return remaining
        end = min(len(self._rows), int(self._done[open_].max()) + self._window)
        if end - 1 > place:
            self._last = end - 1
            return remaining
        first = int(self._done[open_].min())
        rows = torch.arange(first, place + 1)[:, None]
        wanted = open_ & (rows >= self._done) & (rows < self._done + self._window)
        guesses = torch.stack(made[first:])
        if self._mixing is not None:
            of = self._sheet.known[first : place + 1] & (rows >= self._done)
            asked = torch.stack([self._guesses.get(j, made[j]) for j in range(first, place + 1)])
            mixed = self._mixing(first, asked, guesses, of)
            exact = (rows == self._done).reshape(*of.shape, *(1,) * (guesses.ndim - 2)).to(guesses.device)
            guesses = torch.where(exact, guesses, mixed)
        self._guesses = dict(enumerate(guesses, first))
        self._exact = self._done.clone()
        self.rounds += open_
        places, items = wanted.nonzero().unbind(1)
        self._sheet.ask(places + first, items, guesses[wanted.to(guesses.device)])
        if first == place:
            return remaining
        self._sheet.place = first  # the loop runs the first of these rows without asking again
        return Back(self._before[first], self._plan.rows[self._rows[first] :])

    def _settle(self, first: int, made: list[Tensor]) -> None:
        """Count the answers that are final: of each item the first open one, and those after it that moved no further."""
        for j in range(first, len(made)):
            final = (self._done == j) & self._sheet.known[j]
            if j in self._guesses:
                moved = (made[j] - self._guesses[j]).flatten(1).double().square().mean(1).sqrt().cpu()
                final &= (self._exact == j) | (moved <= self._tolerance * self._scales[j])
            self._done += final


def picard(
    denoiser: AbstractDenoiser,
    plan: Plan,
    n: int = 1,
    seed: int = 0,
    *,
    window: int | None = None,
    tolerance: float = 1e-3,
    anderson: int = 0,
    **options: Any,
) -> Swept:
    """Sample a plan with fewer network calls one after another, each for many rows at once.

    The states x_1 .. x_N at which the rows ask fulfil x_j = L_j(m_1(x_1), .., m_{j-1}(x_{j-1})), L_j linear: the rows of the
    plan, with their noise. A sweep takes guesses g_j, asks the network at all of a window in one call, and makes

        x_j = L_j(m_1(g_1), .., m_{j-1}(g_{j-1})),

    the next guesses. The first open state of an item is exact, so its answer is final; so are those after it, one by one,
    whose state lies within the tolerance of its guess. Then the window moves on. After at most N rounds all are, and with
    tolerance 0 the samples are those of `rg.sample`, to the rounding of a batch; with window 1 they are bit by bit. Every
    plan whose rows share a run will do, multistep and stochastic ones too: each row keeps its noise.

    With `anderson` = m, guesses are x_j - sum_k gamma_jk (dg_jk + dr_jk) with the changes dg of guesses and dr of residuals
    r = x - g over the last m sweeps, and gamma_j = argmin sum_{l<=j} |r_l - sum_k gamma_jk dr_lk|^2 over the rows up to j
    alone, so that what is exact remains so.

    It pays where a network call for a window takes hardly longer than for one row, on an accelerator that one sample does
    not fill; it costs more evaluations in all. Each item has its own window, so that a sample does not depend on others.

    Args:
        window: how many rows are asked together for each item; all by default.
        tolerance: by how much a state may miss its guess, root mean square, in units of sqrt(a^2 + s^2) of its level.
        anderson: how many earlier sweeps are mixed in; 0 for plain Picard iterations.
        **options: what `rg.sample` takes of condition, x, signal, anchor, items, dtype, device and noise.

    Raises:
        BadValue: a window below 1, a negative tolerance or number, or an option of other kinds of runs.
        BadType: a denoiser that answers with two quantities, or remembers from row to row.

    References: Shih et al., 2023, arXiv 2305.16317 (sliding window, tolerance; there relative to the noise of a step);
    Tang et al., 2024, arXiv 2402.09970 (the triangular system, Anderson's acceleration).
    """
    window = plan.nfe if window is None else window
    if window < 1 or not tolerance >= 0 or anderson < 0:
        given = f"window={window}, tolerance={tolerance}, anderson={anderson}"
        raise BadValue(given, "window >= 1, tolerance >= 0, anderson >= 0", "window=16, tolerance=1e-3, anderson=2")
    if wrong := sorted(set(options) - _OPTIONS):
        raise BadValue(f"the option {wrong[0]!r}", f"one of {', '.join(sorted(_OPTIONS))}", "rg.sample(denoiser, plan, ...)")
    many = [options[k] for k in ("x", "signal", "items", "anchor") if options.get(k) is not None]
    n = max([n, *(len(one) for one in many if not isinstance(one, Tensor) or one.ndim > len(denoiser.shape))])
    inner = on_path(denoiser, plan.path)
    plan = plan.bind(inner)
    sheet = Sheet(plan, inner, n)
    sweeps = _Sweeps(plan, sheet, n, window, tolerance, anderson)
    items = options.get("items")
    source = Remembered(options.pop("noise", Noise)(seed, range(n) if items is None else items))  # a row that runs again
    run = steps(plan, sheet.denoiser, n, seed, controllers=[sweeps], noise=lambda seed, items: source, **options)
    last = collections.deque(run, maxlen=1)
    return Swept(last[0].x_t, sweeps.rounds, sheet.ledger)
