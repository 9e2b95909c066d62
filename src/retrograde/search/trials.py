"""What every search does: runs of a plan for candidates of several searches at once, judged and booked."""

from __future__ import annotations

import dataclasses
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from retrograde.denoisers import AbstractDenoiser, checked_denoiser, prepare_condition
from retrograde.errors import BadType, BadValue, PlanError, ShapeError, described
from retrograde.noise import Noise
from retrograde.plan import Plan
from retrograde.sampling import steps
from retrograde.state import Ledger, State

Verifier = Callable[[Tensor, Tensor], Tensor]
"""From data [batch, *shape], and for each the number of the search that it is a candidate of [batch], to one number each,
[batch]; more is better, -inf is never chosen where anything else is there."""

_APART = 2**32
"""Between the numbers of two candidates of one search, which are items of the run: candidate 0 is the plain sample."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """What a search found, and what it cost.

    Attributes:
        samples: the best candidate of each search, [n, *shape].
        verdicts: what each verifier says of it, [n, verifiers] float64.
        starts: the initial state whose plain run it is, [n, *shape]; None where runs branched on the way.
        trace: after each round the evaluations spent so far, per search, and the verdicts of the best [n, verifiers].
        ledger: the cost per search: network evaluations, and `verdicts`, the answers of all verifiers; means over the
            searches, where these differ.
    """

    samples: Tensor
    verdicts: Tensor
    starts: Tensor | None
    trace: tuple[tuple[float, Tensor], ...]
    ledger: Ledger


@final
class Trials:
    """The bench of one call of a search: n searches with one plan, and the books of what they spend.

    Raises:
        BadType: something that is no verifier.
        BadValue: n, batch_size or the list of verifiers is empty; when it judges also: a verdict that is no number.
        PlanError: a path with an anchor, or whose noise is not Gaussian.
    """

    def __init__(
        self,
        denoiser: Any,
        plan: Plan,
        verifier: Verifier | Sequence[Verifier],
        n: int,
        seed: int = 0,
        *,
        condition: Any = None,
        batch_size: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.denoiser: AbstractDenoiser = checked_denoiser(denoiser)
        self.verifiers = tuple(verifier) if isinstance(verifier, Sequence) else (verifier,)
        for one in self.verifiers:
            _check(one)
        if n < 1 or not self.verifiers or (batch_size is not None and batch_size < 1):
            given = f"n={n}, {len(self.verifiers)} verifiers, batch_size={batch_size}"
            raise BadValue(given, "at least one of each", "search.random(denoiser, plan, verifier, n=1)")
        if plan.path.anchored or plan.path.degrees != float("inf"):
            given = f"a search on path {plan.path.name!r}"
            raise PlanError(given, "a path without anchor, with Gaussian noise", "make the plan for rg.paths.VP()")
        if plan.start is None:
            raise PlanError(
                "a search with a plan that starts at the data", "one that starts at a noise level", "cut it earlier"
            )
        self.plan, self.n, self.seed, self.batch_size = plan, n, seed, batch_size
        self.dtype, self.device = dtype, device
        self.condition = prepare_condition(self.denoiser, condition, n, device)
        self.scale: float = plan.path.s(plan.start)
        self.ledger = Ledger()

    def numbers(self, searches: Tensor, candidate: Tensor | int) -> list[int]:
        """Return the numbers of items, by which their noise is keyed, of these candidates of these searches."""
        return (searches + _APART * torch.as_tensor(candidate)).tolist()

    def noise(self, numbers: Sequence[int]) -> Tensor:
        """Return standard normal noise of initial states, [batch, *shape]: that of `sample` for these items."""
        return Noise(self.seed, numbers).prior(self.denoiser.shape, self.dtype, self.device)

    def draw(self, numbers: Sequence[int], interval: tuple[float, float]) -> Tensor:
        """Return standard normal noise of an interval, or of a stream of the search's own, [batch, *shape]."""
        return Noise(self.seed, numbers).draw(self.denoiser.shape, interval, 0, self.dtype, self.device)

    def state(self, plan: Plan, searches: Tensor, numbers: Sequence[int], **start: Any) -> State:
        """Run a plan for candidates of these searches [batch] from x= or state=, book it, return the last state."""
        condition = {name: value[searches.to(value.device)] for name, value in self.condition.items()} or None
        loop = steps(plan, self.denoiser, seed=self.seed, items=numbers, condition=condition, **start)
        last = next(iter(deque(loop, 1)), None)
        if last is None:
            raise BadValue("a search with a plan of no rows", "at least one row", "rg.plan('ddim', denoiser, nfe=10)")
        share = len(searches) / self.n
        self.ledger.count({name: share * each for name, each in last.ledger.evaluations.items()}, last.ledger.seconds)
        self.ledger.rows += last.ledger.rows
        return last

    def run(self, plan: Plan, searches: Tensor, numbers: Sequence[int], x: Tensor) -> tuple[Tensor, Tensor]:
        """Run a plan from x in batches; return the last states and the newest data means, each [batch, *shape]."""
        size = len(searches) if self.batch_size is None else self.batch_size
        ends, means = [], []
        for i in range(0, len(searches), size):
            last = self.state(plan, searches[i : i + size], numbers[i : i + size], x=x[i : i + size])
            ends.append(last.x_t)
            means.append(last.mean)
        return torch.cat(ends), torch.cat(means)

    def judge(self, data: Tensor, searches: Tensor, graph: bool = False) -> Tensor:
        """Return what every verifier says of candidates [batch, *shape] of these searches, [batch, verifiers] float64.

        Args:
            graph: whether torch records how a verdict came about, for a gradient.
        """
        verdicts = []
        for verifier in self.verifiers:
            with torch.set_grad_enabled(graph):
                verdict = verifier(data, searches)
            if not isinstance(verdict, Tensor) or verdict.shape != data.shape[:1]:
                what = f"shape {list(verdict.shape)}" if isinstance(verdict, Tensor) else described(verdict)
                raise ShapeError(
                    f"verdicts of {what} for {len(data)} candidates",
                    "one number for each, [batch]",
                    "sum over the axes of an item: .flatten(1).sum(1)",
                )
            verdicts.append(verdict.double())
        found = torch.stack(verdicts, 1)
        if found.isnan().any():
            raise BadValue("a verdict that is NaN", "numbers, or -inf for what must not be chosen", "mend the verifier")
        self.ledger.verdicts += len(self.verifiers) * len(data) / self.n
        return found


def _check(verifier: Any) -> None:
    """Refuse what is no function of data and searches.

    Raises:
        BadType: it is not; for instance it takes data alone.
    """
    if not callable(verifier):
        raise BadType(f"{described(verifier)}, as a verifier", "a function of data and searches", "lambda x, i: ...")
    try:
        inspect.signature(verifier).bind(None, None)
    except TypeError:
        given = f"{described(verifier)}, as a verifier, which does not take two arguments"
        mend = "lambda data, searches: verifier(data), where all searches want the same"
        raise BadType(given, "a function of data [batch, *shape] and searches [batch]", mend) from None
    except ValueError:  # written in another language, it does not say what it takes
        return


def standing(verdicts: Tensor) -> Tensor:
    """Return how candidates stand within their search, [n, K], from the verdicts of them all, [n, K, verifiers].

    One verifier: its verdict. Several: the mean over verifiers of the rank, ties at the mean of their ranks, so that no
    verifier's units matter.
    """
    if verdicts.shape[-1] == 1:
        return verdicts[..., 0]
    above = (verdicts[:, :, None] > verdicts[:, None, :]).double().sum(2)
    below = (verdicts[:, :, None] < verdicts[:, None, :]).double().sum(2)
    return (above - below).mean(-1)


def best(verdicts: Tensor) -> Tensor:
    """Return the place of the best candidate of each search, [n], from verdicts [n, K, verifiers]."""
    return standing(verdicts).argmax(1)


def of_each(values: Tensor, places: Tensor) -> Tensor:
    """Return the candidates at these places [n] of values [n, K, ...]."""
    return values[torch.arange(len(values), device=values.device), places.to(values.device)]
