"""How long the next step is, given the errors of those before."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, final

from retrograde.errors import BadValue

_LEAST = 1e-8
"""Added to an error before it is inverted, so that a step without error has a finite successor."""


@final
@dataclasses.dataclass(frozen=True)
class StepSize:
    """A PID controller of the step size: h' = h limit(safety E_n^-b1 E_(n-1)^-b2 E_(n-2)^-b3).

    With q the power of h by which the error falls, b1 = (p + i + d)/q, b2 = -(p + 2 d)/q and b3 = d/q; E_(n-1) and E_(n-2)
    belong to accepted steps. A step stands if the factor before `safety` is at least `accept`.

    i = 1 alone is the elementary rule h' = h safety E^(-1/q). With accept = 1, safety = 0.9 and limit "none" it is that
    of DPM-Solver; with accept = 0.81, safety = 1 and limit "arctan", 1 + arctan(f - 1), that of k-diffusion.

    Reference: Gustaf Soderlind, Digital filters in adaptive time-stepping, 2003; the coefficients are those of Lu et al.,
    DPM-Solver, 2022, arXiv 2206.00927, appendix C.

    Raises:
        BadValue: a rule that can never accept or never changes.
    """

    p: float = 0.0
    i: float = 1.0
    d: float = 0.0
    accept: float = 0.81
    safety: float = 1.0
    limit: Literal["arctan", "none"] = "arctan"

    def __post_init__(self) -> None:
        if self.p + self.i + self.d <= 0.0 or self.safety <= 0.0 or not 0.0 < self.accept <= 1.0:
            raise BadValue(str(self), "p + i + d > 0, safety > 0, 0 < accept <= 1", "StepSize()")
        if self.limit not in ("arctan", "none"):
            raise BadValue(f"limit={self.limit!r}", "'arctan' or 'none'", "limit='arctan'")

    def judge(self, error: float, past: tuple[float, float], q: float) -> tuple[bool, float]:
        """Return whether a step with this error stands, and the factor to the next step.

        Args:
            error: in units of the tolerance: 1 is just tolerated.
            past: the errors of the last two accepted steps, newest first; this one's in place of those there are not.
            q: the power of h by which the error of one step falls.
        """
        if not math.isfinite(error):
            return False, 0.1
        newest, middle, oldest = (1.0 / (e + _LEAST) for e in (error, *past))
        b1, b2, b3 = (self.p + self.i + self.d) / q, -(self.p + 2.0 * self.d) / q, self.d / q
        factor = newest**b1 * middle**b2 * oldest**b3
        return self._limited(factor) >= self.accept, self._limited(self.safety * factor)

    def _limited(self, factor: float) -> float:
        return 1.0 + math.atan(factor - 1.0) if self.limit == "arctan" else factor


DPM_SOLVER = StepSize(accept=1.0, safety=0.9, limit="none")
"""The rule of Lu et al., 2022: h' = 0.9 h E^(-1/q), accepted where E <= 1."""
