"""Weighted particles: a batch of independent groups, resampled between the rows of a run."""

from __future__ import annotations

import dataclasses
import math
from typing import final

import torch
from torch import Tensor

from retrograde.errors import BadValue, PlanError
from retrograde.noise import Source
from retrograde.particles.increments import increment, target
from retrograde.particles.potential import Potential, PotentialFunction
from retrograde.particles.resampling import branched, scheme
from retrograde.particles.weights import effective_size, log_mean, normalized
from retrograde.state import Memory, Resampled, State

LOG_WEIGHTS, LOG_EVIDENCE = "particles/log_weights", "particles/log_evidence"
_DRAWS = 2**61
"""Added to the occurrence of the draws that resample, apart from those of the rows."""


@final
@dataclasses.dataclass(frozen=True, eq=False)
class Weighted:
    """Particles in groups of `count`: items 0..count-1 of a run are one group, the next `count` another, independent one.

    A row changes the log-weights by what the denoiser's transforms ask (see `retrograde.particles.increments`) and by the
    potential. Where a group's effective sample size falls below `threshold` times its count, and in the last row, it is
    resampled: histories, predictions and what transforms carry go along. Weights live in the run (`state.memory.carried`),
    so a run can be cut, continued and batched, in whole groups. The same seed and items give the same particles.

    What comes out of the last row is, in each group, equally weighted: samples of the target as the count grows. The
    particles of a group are not independent of each other; the groups are.

    Attributes:
        count: particles of a group, K.
        potential: a `Potential`, or a function of data means and path time that is one of scale 1; None for none.
        scheme: "systematic", "stratified", "residual", "multinomial"; "one" fills a group with one of its particles drawn by
            weight, "best" with the heaviest: with threshold=1, a group is one sample and K children in every row (SVDD).
        threshold: resample below this share of the effective sample size; 1 in every row in which weights differ, 0 never.
        low, high: resample at noise levels low <= sigma <= high alone; weights gather elsewhere.
        last: whether to resample after the last row; else samples come with `log_weights(state)`.

    Raises:
        BadValue: a setting outside its range, or a batch that is not made of whole groups.
        UnknownName: another scheme.

    References: Doucet, de Freitas, Gordon, Sequential Monte Carlo Methods in Practice, 2001; Wu, Trippe, Naesseth, Blei,
    Cunningham, 2023, arXiv 2306.17775; Skreta et al., 2025, arXiv 2503.02819.
    """

    count: int
    potential: Potential | PotentialFunction | None = None
    scheme: str = "systematic"
    threshold: float = 0.5
    low: float = 0.0
    high: float = math.inf
    last: bool = True

    def __post_init__(self) -> None:
        scheme(self.scheme)
        if self.count < 1 or not 0.0 <= self.threshold <= 1.0 or not 0.0 <= self.low < self.high:
            given = f"count={self.count}, threshold={self.threshold}, low={self.low}, high={self.high}"
            raise BadValue(given, "count >= 1, 0 <= threshold <= 1, 0 <= low < high", "Weighted(8, threshold=0.5)")
        if self.potential is not None and not isinstance(self.potential, Potential):
            object.__setattr__(self, "potential", Potential(self.potential))

    def resample(self, state: State, noise: Source | None) -> Resampled:
        n, held = len(state.x_t), state.memory.carried
        if n % self.count:
            allowed = f"a multiple of {self.count}, the particles of a group"
            raise BadValue(f"a batch of {n} items", allowed, f"n={-(-n // self.count) * self.count}, batch_size likewise")
        zeros = torch.zeros(n, dtype=torch.float64, device=state.x_t.device)
        total = held.get(LOG_WEIGHTS, zeros)
        gained = increment(state)
        total = total if gained is None else total + gained
        kept: dict[str, Tensor] = {}
        ends = state.row.next_time is None
        if isinstance(self.potential, Potential) and state.prediction is not None and (ends or state.row.time is not None):
            mean = state.x_t if ends else target(state.prediction).data
            t = None if ends else float(state.prediction.t)
            gained, kept = self.potential.increment(mean, t, held, total.view(-1, self.count))
            total = total + gained
            state.ledger.verdicts += 1
        evidence = held.get(LOG_EVIDENCE, zeros)
        groups = total.view(-1, self.count)
        level = None if ends else state.t
        within = level is None or self.low <= _sigma(state, level) <= self.high
        if not (self.last if ends else within and self.threshold > 0.0):
            return Resampled(None, {LOG_WEIGHTS: total, LOG_EVIDENCE: evidence, **kept})
        # equal weights are kept at any threshold: nobody is to be preferred
        size = self.count * (1.0 if ends else self.threshold) - 1e-9 * self.count
        needed = (effective_size(groups) < size)[:, None]
        if not bool(needed.any()):  # one number from the device, against a draw for every item
            return Resampled(None, {LOG_WEIGHTS: total, LOG_EVIDENCE: evidence, **kept})
        places = torch.arange(self.count, device=total.device).expand_as(groups)
        chosen = branched(scheme(self.scheme)(normalized(groups), self._uniform(state, noise).view(groups.shape)))
        first = torch.arange(0, n, self.count, device=total.device)[:, None]
        ancestors = (torch.where(needed, chosen, places) + first).reshape(-1)
        evidence = evidence.view(groups.shape) + torch.where(needed, log_mean(groups)[:, None], 0.0)
        kept = {name: tensor[ancestors] for name, tensor in kept.items()}
        weights = torch.where(needed, 0.0, groups).reshape(-1)
        return Resampled(ancestors, {LOG_WEIGHTS: weights, LOG_EVIDENCE: evidence.reshape(-1), **kept})

    def _uniform(self, state: State, noise: Source | None) -> Tensor:
        """Return a uniform number for each place, keyed by item and row as the noise of the rows is."""
        if noise is None:
            raise PlanError("particles in a run without noise", "a source of noise", "noise=Noise.first(n, seed)")
        t = state.row.time if state.row.time is not None else -1.0 if state.prediction is None else state.prediction.t
        interval = (float(t), -1.0 if state.t is None else state.t)
        occurrence = _DRAWS + state.memory.visits.get(interval, 0)
        normal = noise.draw((1,), interval, occurrence, torch.float64, state.x_t.device)[:, 0]
        return torch.special.ndtr(normal).clamp(max=1.0 - 2.0**-53)


def _sigma(state: State, t: float) -> float:
    if state.prediction is None:
        return math.inf
    path = state.prediction.path
    return path.sigma(t)


def log_weights(state: State | Memory) -> Tensor:
    """Return the log-weights of a state of weighted particles, [batch] float64: within a group, up to a constant."""
    memory = state.memory if isinstance(state, State) else state
    if LOG_WEIGHTS not in memory.carried:
        raise BadValue("log-weights of a run without particles", "a run with particles=Weighted(count)", "pass particles")
    return memory.carried[LOG_WEIGHTS]


def log_evidence(state: State, count: int) -> Tensor:
    """Return log Z for each group, [groups]: of the mean weight that its particles had in all, over all resamplings.

    exp of it is unbiased for the ratio of the normalizers of the last and the first target, where the weights are exact.
    """
    total = state.memory.carried[LOG_EVIDENCE].view(-1, count)[:, 0]
    return total + log_mean(log_weights(state).view(-1, count))
