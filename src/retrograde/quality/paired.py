"""Errors between items that belong together, with bootstrap intervals over the items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch

from retrograde.errors import BadValue, ShapeError
from retrograde.quality.features import Features, checked, count_in, paired_sets
from retrograde.quality.figure import Figure


def bootstrap(
    values: torch.Tensor,
    statistic: Callable[[torch.Tensor], torch.Tensor | float],
    seed: int,
    level: float = 0.95,
    resamples: int = 1000,
) -> tuple[float, float]:
    """Percentile interval (low, high) of `statistic(values)`, items drawn anew with replacement along dim 0.

    values [n, ...]; `statistic` maps [n, ...] to one number. It needs items that are independent, and n in the
    tens for its level to be near the truth.

    Raises BadValue for fewer than 2 items, a level outside (0, 1), a statistic that is not finite; ShapeError for a
    statistic that is not one number.
    Reference: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife".
    """
    values = checked(values, "values")
    count_in("resamples", resamples, 1)
    if len(values) < 2:
        raise BadValue(f"{len(values)} values", "at least 2", "measure more items")
    if not 0 < level < 1:
        raise BadValue(f"level={level}", "between 0 and 1", "level=0.95")
    generator = torch.Generator().manual_seed(seed)
    draws = torch.empty(resamples, dtype=torch.float64)
    for i in range(resamples):
        pick = torch.randint(len(values), (len(values),), generator=generator)
        draw = torch.as_tensor(statistic(values[pick.to(values.device)]))
        if draw.numel() != 1:
            raise ShapeError(f"a statistic of shape {tuple(draw.shape)}", "one number", "statistic=torch.mean")
        draws[i] = draw.reshape(())
    draws = checked(draws, "statistics")
    low, high = torch.quantile(draws, torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return low, high


@final
@dataclass(frozen=True, eq=False)
class PairedError:
    """Errors of n pairs: figures `rms` and `median` with intervals over the items, and `per_item` [n] float64."""

    rms: Figure
    median: Figure
    per_item: torch.Tensor

    def __str__(self) -> str:
        return f"{self.rms}\n{self.median}"


def paired_error(
    x: torch.Tensor, y: torch.Tensor, features: Features | None = None, *, seed: int = 0, level: float = 0.95
) -> PairedError:
    """Root-mean-square distance between x_i and y_i, and the median over items of each item's own.

    e_i = sqrt(mean over the elements of (x_i - y_i)^2); rms = sqrt(mean_i e_i^2); median = median_i e_i (of an even
    count the mean of the middle two). x, y [n, ...] of equal shapes; units of one element. The median is what a typical
    item sees, the rms is ruled by the worst. A single pair has no interval.

    Raises ShapeError for shapes that differ, BadType, BadValue for what is not finite or empty.
    """
    a, b = paired_sets(x, y, features)
    per_item = (a - b).square().mean(1).sqrt()
    n = len(per_item)
    figures = []
    for name, statistic in (("rms", _rms), ("median", _median)):
        interval = bootstrap(per_item, statistic, seed, level) if n > 1 else None
        settings = f"{level:.0%} interval" if n > 1 else ""
        figures.append(Figure(name, float(statistic(per_item)), n, n, interval=interval, settings=settings))
    return PairedError(figures[0], figures[1], per_item)


def _rms(values: torch.Tensor) -> torch.Tensor:
    return values.square().mean().sqrt()


def _median(values: torch.Tensor) -> torch.Tensor:
    return values.quantile(0.5)
