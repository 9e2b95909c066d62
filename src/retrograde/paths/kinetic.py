"""Kinetic energy of paths, and the path that has the least of it for given data.

For data with second moment M = E|x_0|^2 in d dimensions and mmse(r) = E|x_0 - E[x_0|x_t]|^2 at the signal-to-noise ratio
r = a/s, the velocity of the probability flow has

    E|u|^2 = M a'^2 + d s'^2 - mmse(a/s) (a' - a s'/s)^2.

In the plane (sqrt(d) s, sqrt(M) a) with radius R and angle theta this is R'^2 + R^2 g^2 theta'^2, where

    g^2 = 1 - mmse/linear,   linear = M d/(M r^2 + d),   tan theta = r sqrt(M/d),

compares the data with a Gaussian of the same moments, whose mmse is `linear`. With phi = integral of g dtheta the metric is
that of a flat plane in polar coordinates: paths of least energy are straight there, and run through at an even speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from retrograde import systems
from retrograde.errors import BadValue
from retrograde.paths.path import Path
from retrograde.paths.tabulated import Tabulated

Mmse = Callable[[float], float]
"""From the signal-to-noise ratio a/s to E|x_0 - E[x_0|x_t]|^2, summed over the elements of an item."""

_LEAST_GAIN = 5e-3
"""Where the data are locally Gaussian an angle costs nothing; a little cost makes the path unique and keeps it smooth. It
adds at most 6e-5 sqrt(M d) to the energy."""


def kinetic_optimal(mmse: Mmse, second_moment: float, dimension: int, points: int = 200, quadrature: int = 200) -> Tabulated:
    """Return the path of least kinetic energy from the data (a = 1, s = 0) to noise (a = 0, s = 1), tabulated.

    Where M and d differ much, a or s may pass 1 on the way: so does the optimum.

    Args:
        mmse: error of the exact denoiser of the data (see `retrograde.denoisers.mmse`).
        second_moment: M = E|x_0|^2, summed over the elements of an item.
        dimension: d, the number of elements.
        points: entries of the table spread evenly in time; others lie evenly in angle.
        quadrature: evaluations of `mmse`.

    Raises:
        BadValue: a second moment that is not positive, or fewer than two points.

    Reference: Shaul, Chen, Nickel, Le, Lipman, On Kinetic Optimal Probability Paths for Generative Models, 2023, arXiv
    2306.06626.
    """
    if not second_moment > 0.0 or points < 2:
        raise BadValue(f"second_moment={second_moment}, points={points}", "second_moment > 0, points >= 2", "points=200")
    noise, data = math.sqrt(dimension), math.sqrt(second_moment)
    width = 0.5 * math.pi / quadrature
    theta = width * (np.arange(quadrature) + 0.5)
    ratio = np.tan(theta) * noise / data
    linear = second_moment * np.cos(theta) ** 2
    share = np.array([mmse(float(r)) for r in ratio]) / linear
    gain = np.sqrt(np.clip(1.0 - share, _LEAST_GAIN**2, 1.0))
    phi = np.concatenate([[0.0], np.cumsum(gain) * width])
    # the straight line from the data, at the angle phi[-1], to the noise, at 0: where it meets phi, and evenly in time
    at_angles = data * np.sin(phi[-1] - phi) / (data * np.sin(phi[-1] - phi) + noise * np.sin(phi))
    times = np.unique(np.concatenate([at_angles, np.linspace(0.0, 1.0, points)]))
    times = times[np.concatenate([[True], np.diff(times) > 1e-9])]
    x = (1.0 - times) * data * math.cos(phi[-1]) + times * noise
    y = (1.0 - times) * data * math.sin(phi[-1])
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    turned = np.interp(angle, phi, width * np.arange(quadrature + 1))
    a, s = radius * np.sin(turned) / data, radius * np.cos(turned) / noise
    times[-1], a[0], s[0], a[-1], s[-1] = 1.0, 1.0, 0.0, 0.0, 1.0
    return Tabulated(tuple(times.tolist()), tuple(a.tolist()), tuple(s.tolist()))


def kinetic_energy(path: Path, mmse: Mmse, second_moment: float, dimension: int, points: int = 1000) -> float:
    """Return the integral of E|u|^2 over the path's times from t_min to t_max, by the midpoint rule."""
    knots = np.linspace(path.t_min, path.t_max, points + 1)
    if isinstance(path, Tabulated):
        knots = np.unique(np.concatenate([knots, np.clip(path.times, path.t_min, path.t_max)]))
    total = 0.0
    for t, width in zip((0.5 * (knots[1:] + knots[:-1])).tolist(), np.diff(knots).tolist(), strict=True):
        a, s, a_dot, s_dot = path.a(t), path.s(t), path.a_dot(t), path.s_dot(t)
        total += width * (second_moment * a_dot**2 + dimension * s_dot**2 - mmse(a / s) * (a_dot - a * s_dot / s) ** 2)
    return float(total)


systems.register(
    systems.System(
        title="On Kinetic Optimal Probability Paths for Generative Models",
        authors=("Neta Shaul", "Ricky T. Q. Chen", "Maximilian Nickel", "Matt Le", "Yaron Lipman"),
        year=2023,
        arxiv="2306.06626",
        home="paths",
        call="rg.paths.kinetic_optimal(rg.denoisers.mmse(denoiser, data), second_moment, dimension)",
        test="tests/paths/test_kinetic.py::test_no_perturbed_path_has_less_energy",
    )
)
