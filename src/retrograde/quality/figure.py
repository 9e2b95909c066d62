"""One measured number, with the counts it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Figure:
    """A number that never travels without its sample counts: prints as `frechet 3.21 (n=1000 vs 1000)`.

    `interval` is a confidence interval and `standard_error` the error of `value`, where the figure has one. `settings`
    says what else was fixed (number of slices, of neighbours); `warning` says what makes the number doubtful.
    """

    name: str
    value: float
    n_samples: int
    n_reference: int
    interval: tuple[float, float] | None = None
    standard_error: float | None = None
    settings: str = ""
    warning: str | None = None

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        text = f"{self.name} {self.value:.4g}"
        if self.standard_error is not None:
            text += f" ± {self.standard_error:.2g}"
        if self.interval is not None:
            text += f" [{self.interval[0]:.4g}, {self.interval[1]:.4g}]"
        counts = f"n={self.n_samples} vs {self.n_reference}"
        text += f" ({counts}, {self.settings})" if self.settings else f" ({counts})"
        return f"{text}; warning: {self.warning}" if self.warning else text
