"""One start for all conditions: the initial noise whose runs come nearest to a few references, used ever after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from retrograde import systems
from retrograde.errors import BadValue, PlanError
from retrograde.plan import Plan
from retrograde.search.trials import Trials
from retrograde.state import Ledger

Distance = Callable[[Tensor, Tensor], Tensor]
"""From samples and clean data, each [batch, *shape], to one number for each pair, [batch]; less is better."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Boundary:
    """A start that serves all conditions: `rg.sample(denoiser, plan, x=found.repeated(n), condition=...)`.

    Attributes:
        start: the initial state, [*shape].
        item: the number of the item of `rg.sample` whose start it is, under the seed of the search.
        distances: of every candidate, the mean over the references, [candidates] float64.
        ledger: the cost per reference.
    """

    start: Tensor
    item: int
    distances: Tensor
    ledger: Ledger

    def repeated(self, n: int) -> Tensor:
        """Return the start for n items, [n, *shape]."""
        return self.start.expand(n, *self.start.shape).clone()


def boundary(
    denoiser: Any,
    plan: Plan,
    distance: Distance,
    clean: Tensor,
    *,
    condition: Any,
    candidates: int = 100,
    seed: int = 0,
    **options: Any,
) -> Boundary:
    """Return the start, of so many, whose runs of a deterministic plan come nearest to clean data under their conditions.

        x_T* = argmin_k sum_i distance(h(x_T^k, y_i), z_i),     h(x_T, y) the end of the run

    Where data given y are Gaussian, h(x_T, y) = m(y) + L x_T, the mean squared distance is tr(S) + |L x_T|^2, and how
    candidates rank does not depend on y at all; elsewhere that they rank much alike is what the method rests on. With R
    references the mean is off by about 2 |L x_T| sqrt(tr(S)/(d R)). Even references of other conditions rank them so, by
    c + |L x_T|^2. A squared distance looks for the start whose sample is the mean m(y); one of perception has another.

    Args:
        distance: less is better.
        clean: z, references [R, *shape].
        condition: y, one for each reference.
        candidates: starts tried; each is run once for every reference.
        **options: batch_size, dtype, device.

    Raises:
        PlanError: a stochastic plan, whose end is no function of its start; otherwise see `Trials`.
        BadValue: no candidates.

    Reference: Ma, Yang, Wang, Fu, Liu, Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image
    Super-Resolution, 2023, arXiv 2305.15357.
    """
    if plan.stochastic:
        given = f"a boundary condition for {plan.recipe}, which draws noise on the way"
        raise PlanError(given, "a deterministic plan", "rg.plan('ddim', denoiser, nfe=10)")
    if candidates < 1:
        raise BadValue(f"candidates={candidates}", "candidates >= 1", "candidates=100")
    count = len(clean)
    trials = Trials(denoiser, plan, lambda x, i: -distance(x, clean[i].to(x)), count, seed, condition=condition, **options)
    starts = trials.scale * trials.noise(range(candidates))
    references = torch.arange(count)
    size = max(1, (trials.batch_size or count * candidates) // count)
    distances = []
    for k in range(0, candidates, size):
        group = torch.arange(k, min(k + size, candidates))
        places, tried = references.repeat(len(group)), group.repeat_interleave(count)
        ends, _ = trials.run(plan, places, tried.tolist(), starts[tried])
        distances.append(-trials.judge(ends, places)[:, 0].view(len(group), count).mean(1))
    found = torch.cat(distances)
    best = int(found.argmin())
    return Boundary(starts[best], best, found, trials.ledger)


systems.register(
    systems.System(
        title="Solving Diffusion ODEs with Optimal Boundary Conditions for Better Image Super-Resolution",
        authors=("Yiyang Ma", "Huan Yang", "Wenhan Yang", "Jianlong Fu", "Jiaying Liu"),
        year=2023,
        arxiv="2305.15357",
        home="search",
        call="rg.search.boundary(denoiser, plan, distance, clean, condition=degraded, candidates=100)",
        test="tests/search/test_boundary.py::test_candidates_rank_as_the_length_of_what_the_flow_makes_of_them",
    )
)
