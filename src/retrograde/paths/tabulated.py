"""A path given by a table of its coefficients."""

from __future__ import annotations

import bisect
import dataclasses
from typing import ClassVar

import torch
from torch import Tensor

from retrograde.errors import BadValue
from retrograde.paths.path import Time, Unanchored


@dataclasses.dataclass(frozen=True)
class Tabulated(Unanchored):
    """Path whose a and s are linear between the entries of a table.

    Args:
        times: strictly increasing path times, data end first.
        a_values, s_values: a and s at these times, none of them negative; s/a must rise strictly.

    Raises:
        BadValue: lengths differ, times that do not rise, a negative entry, or an s/a that does not rise.
    """

    name: ClassVar[str] = "tabulated"
    times: tuple[float, ...]
    a_values: tuple[float, ...]
    s_values: tuple[float, ...]
    t_min: float = dataclasses.field(init=False, repr=False, compare=False)
    t_max: float = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("times", "a_values", "s_values"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        t, a, s = self.times, self.a_values, self.s_values
        if not len(t) == len(a) == len(s) >= 2:
            raise BadValue(
                f"columns of {len(t)}, {len(a)} and {len(s)} entries",
                "three of one length >= 2",
                "repeat no column's end",
            )
        for i, (early, late) in enumerate(zip(t, t[1:], strict=False)):
            if not early < late:
                raise BadValue(f"times with {early} then {late} at entry {i}", "times that rise", "sort the table by time")
        if min(*a, *s) < 0.0:
            raise BadValue(f"an entry of {min(*a, *s):g}", "a >= 0 and s >= 0", "end the table where the signal ends")
        # cross-multiplied, so that a = 0 at the noise end is a level too
        if not all(s0 * a1 < s1 * a0 for a0, a1, s0, s1 in zip(a, a[1:], s, s[1:], strict=False)):
            raise BadValue("a table whose s/a does not rise", "strictly rising s/a", "remove entries of equal noise level")
        object.__setattr__(self, "t_min", t[0] if s[0] > 0.0 else t[0] + 1e-3 * (t[1] - t[0]))
        object.__setattr__(self, "t_max", t[-1])

    def _interpolate(self, values: tuple[float, ...], t: Time, derivative: bool = False) -> Time:
        if isinstance(t, Tensor):
            knots = torch.tensor(self.times, dtype=torch.float64, device=t.device)
            table = torch.tensor(values, dtype=torch.float64, device=t.device)
            exact = t.double()
            i = (torch.searchsorted(knots, exact, right=True) - 1).clamp(0, len(values) - 2)
            slope = (table[i + 1] - table[i]) / (knots[i + 1] - knots[i])
            return (slope if derivative else table[i] + (exact - knots[i]) * slope).to(t.dtype)
        i = min(max(bisect.bisect_right(self.times, t) - 1, 0), len(values) - 2)
        slope = (values[i + 1] - values[i]) / (self.times[i + 1] - self.times[i])
        return slope if derivative else values[i] + (t - self.times[i]) * slope

    def a(self, t: Time) -> Time:
        return self._interpolate(self.a_values, t)

    def s(self, t: Time) -> Time:
        return self._interpolate(self.s_values, t)

    def a_dot(self, t: Time) -> Time:
        return self._interpolate(self.a_values, t, derivative=True)

    def s_dot(self, t: Time) -> Time:
        return self._interpolate(self.s_values, t, derivative=True)

    def time_of_positive_sigma(self, sigma: Time) -> Time:
        if not isinstance(sigma, Tensor):
            levels = range(len(self.times))
            i = bisect.bisect_right(levels, 0.0, key=lambda k: self.s_values[k] - sigma * self.a_values[k]) - 1
            i = min(max(i, 0), len(self.times) - 2)
            (a_0, a_1), (s_0, s_1) = self.a_values[i : i + 2], self.s_values[i : i + 2]
            ratio = (sigma * a_0 - s_0) / ((s_1 - s_0) - sigma * (a_1 - a_0))
            return self.times[i] + ratio * (self.times[i + 1] - self.times[i])
        exact = sigma.double()
        t, a, s = (
            torch.tensor(c, dtype=torch.float64, device=exact.device) for c in (self.times, self.a_values, self.s_values)
        )
        i = (torch.searchsorted(s / a, exact, right=True) - 1).clamp(0, len(self.times) - 2)
        # on a segment s0 + r ds = sigma (a0 + r da) is linear in r
        r = (exact * a[i] - s[i]) / ((s[i + 1] - s[i]) - exact * (a[i + 1] - a[i]))
        time = t[i] + r * (t[i + 1] - t[i])
        return time.to(sigma.dtype)
