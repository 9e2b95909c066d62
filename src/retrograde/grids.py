"""Grids: explicit arrays of path times, noisiest first, used exactly as given.

A grid holds the times at which a one-evaluation-per-step plan asks the network; the data end is not on it, it is the
plan's last row. Every grid is a function (path, n, ...) to a tuple of n floats.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence

import numpy as np

from retrograde import systems
from retrograde.errors import BadValue, UnknownName
from retrograde.paths import Path, quantiles

Grid = tuple[float, ...]

_GRIDS: dict[str, Callable[..., Grid]] = {}


def grid(function: Callable[..., Grid]) -> Callable[..., Grid]:
    """Register a grid under its function's name."""
    _GRIDS[function.__name__] = function
    return function


def names() -> tuple[str, ...]:
    """Return the names of all grids."""
    return tuple(sorted(_GRIDS))


def get(name: str) -> Callable[..., Grid]:
    """Return the grid called `name`; an unknown name lists the nearest ones."""
    if name not in _GRIDS:
        raise UnknownName("grid", name, names())
    return _GRIDS[name]


def options_of(name: str) -> list[str]:
    """Return the names of a grid's options."""
    return [p for p in inspect.signature(get(name)).parameters if p not in ("path", "n")]


def levels(path: Path, sigma_min: float | None = None, sigma_max: float | None = None) -> tuple[float, float]:
    """Return the range of finite noise levels (sigma_min, sigma_max) of a path, each replaced where given.

    A path whose noise end holds no signal (sigma infinite) ends at 0.999 of its time range; grids put their first point
    on the true end.
    """
    low = path.sigma(path.t_min) if sigma_min is None else sigma_min
    high = path.sigma(path.t_max) if sigma_max is None else sigma_max
    if math.isinf(high):
        high = path.sigma(0.999 * path.t_max)
    if not 0.0 < low < high:
        raise BadValue(f"sigma_min={low:g}, sigma_max={high:g}", "0 < sigma_min < sigma_max", "swap them")
    return low, high


def from_sigmas(path: Path, sigmas: Sequence[float]) -> Grid:
    """Return the path times of explicit noise levels s/a, noisiest first (a closing zero is dropped: the end is a row)."""
    values = [float(s) for s in sigmas]
    return tuple(path.time_of_sigma(s) for s in (values[:-1] if values and values[-1] == 0.0 else values))


def _from_levels(path: Path, sigmas: Sequence[float] | np.ndarray, sigma_min: float | None, sigma_max: float | None) -> Grid:
    times = [path.time_of_sigma(float(s)) for s in sigmas]
    # the inverse rounds: the ends of the path are exactly the ends of the grid
    if sigma_min is None and len(times) > 1:
        times[-1] = path.t_min
    if sigma_max is None:
        times[0] = path.t_max
    return tuple(times)


def _fractions(n: int) -> np.ndarray:
    if n < 1:
        raise BadValue(f"a grid of {n} points", "n >= 1", "n=1")
    return np.linspace(0.0, 1.0, n) if n > 1 else np.zeros(1)


@grid
def karras(path: Path, n: int, *, rho: float = 7.0, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """Levels uniform in sigma^(1/rho) from sigma_max to sigma_min (Karras et al., 2022, arXiv 2206.00364)."""
    low, high = levels(path, sigma_min, sigma_max)
    u = _fractions(n)
    return _from_levels(path, (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho, sigma_min, sigma_max)


@grid
def log_snr(path: Path, n: int, *, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """Levels uniform in log(a^2/s^2) (Lu et al., DPM-Solver, 2022, arXiv 2206.00927)."""
    low, high = levels(path, sigma_min, sigma_max)
    return _from_levels(path, high * (low / high) ** _fractions(n), sigma_min, sigma_max)


@grid
def sigma(path: Path, n: int, *, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """Levels uniform in sigma = s/a."""
    low, high = levels(path, sigma_min, sigma_max)
    return _from_levels(path, high + _fractions(n) * (low - high), sigma_min, sigma_max)


@grid
def uniform(path: Path, n: int, *, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """Times t_max (1 - i/n): n equal steps of path time down to t = 0, which is the data end and not on the grid."""
    return _in_time(path, n, 1.0, sigma_min, sigma_max)


@grid
def quadratic(path: Path, n: int, *, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """Times uniform in sqrt(t): (sqrt(t_max) (1 - i/n))^2 (Song et al., DDIM, 2020, arXiv 2010.02502)."""
    return _in_time(path, n, 2.0, sigma_min, sigma_max)


@grid
def power(path: Path, n: int, *, power: float = 0.3, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """Times t_min + (t_max - t_min) (1 - i/(n - 1))^power: both ends of the path's range (Yue et al., 2024, 2403.07319).

    On a path whose time is the logarithm of its noise these are ResShift's steps: power 0.3 crowds them at the noise end.
    """
    if not power > 0.0:
        raise BadValue(f"power={power}", "power > 0", "power=0.3")
    high = path.t_max if sigma_max is None else path.time_of_sigma(sigma_max)
    low = path.t_min if sigma_min is None else path.time_of_sigma(sigma_min)
    inner = (low + (high - low) * float(1.0 - u) ** power for u in _fractions(n)[1:])
    return (high, *inner)


def _in_time(path: Path, n: int, power: float, sigma_min: float | None, sigma_max: float | None) -> Grid:
    _fractions(n)
    high = path.t_max if sigma_max is None else path.time_of_sigma(sigma_max)
    low = 0.0 if sigma_min is None else path.time_of_sigma(sigma_min)
    u = np.arange(n) / n if sigma_min is None else _fractions(n)
    root = high ** (1 / power) + u * (low ** (1 / power) - high ** (1 / power))
    return (high, *(float(t) for t in root[1:] ** power))


@grid
def cosine(path: Path, n: int, *, sigma_min: float | None = None, sigma_max: float | None = None) -> Grid:
    """Levels with atan(sigma) uniform: equal angles on the circle a = cos, s = sin (Nichol and Dhariwal, 2021)."""
    low, high = levels(path, sigma_min, sigma_max)
    angles = math.atan(high) + _fractions(n) * (math.atan(low) - math.atan(high))
    return _from_levels(path, np.tan(angles), sigma_min, sigma_max)


@grid
def shifted(path: Path, n: int, *, shift: float = 3.0, sigma_max: float | None = None) -> Grid:
    """Flow times u = u_max (1 - i/n) with every sigma = u/(1 - u) times `shift`; u_max makes the first the path's end.

    The resolution shift of Esser et al., 2024, arXiv 2403.03206, u -> shift u/(1 + (shift - 1) u); applied once, here. On
    the flow path u_max = 1; where the noise end has a finite level the shifted grid starts at that level.
    """
    if not shift > 0.0:
        raise BadValue(f"shift={shift}", "shift > 0", "shift=3.0")
    _fractions(n)
    high = path.sigma(path.t_max) if sigma_max is None else sigma_max
    u_max = 1.0 / (1.0 + shift / high)
    times = tuple(path.time_of_sigma(shift * u / (1.0 - u)) for u in (u_max * (1.0 - i / n) for i in range(1, n)))
    if times and times[-1] < 0.0:
        least = path.sigma(path.t_min)
        raise BadValue(
            f"{n} shifted levels on path {path.name!r}", f"levels sigma >= {least:.4g}", "fewer, or grid='log_snr'"
        )
    return (path.t_max if sigma_max is None else path.time_of_sigma(sigma_max), *times)


@grid
def logit_normal(path: Path, n: int, *, mean: float = 0.0, std: float = 1.0, sigma_max: float | None = None) -> Grid:
    """Even shares of the logit-normal law of times: dense in the middle, where such training looks most (2403.03206)."""
    return _shares(path, n, sigma_max, lambda u: quantiles.logit_normal(u, mean, std))


@grid
def mode(path: Path, n: int, *, scale: float = 1.29, sigma_max: float | None = None) -> Grid:
    """Even shares of the law "mode" of times: dense in the middle, or for scale < 0 at both ends (arXiv 2403.03206)."""
    return _shares(path, n, sigma_max, lambda u: quantiles.mode(u, scale))


@grid
def cosmap(path: Path, n: int, *, sigma_max: float | None = None) -> Grid:
    """Even shares of the law "cosmap": on the flow path the noise levels of the cosine schedule (arXiv 2403.03206)."""
    return _shares(path, n, sigma_max, quantiles.cosmap)


def _shares(path: Path, n: int, sigma_max: float | None, quantile: Callable[[float], float]) -> Grid:
    _fractions(n)
    high = path.t_max if sigma_max is None else path.time_of_sigma(sigma_max)
    return (high, *(high * quantile(1.0 - i / n) for i in range(1, n)))


systems.register(
    systems.System(
        title="Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
        authors=("Patrick Esser", "Sumith Kulal", "Andreas Blattmann", "Rahim Entezari", "Jonas Müller", "et al."),
        year=2024,
        arxiv="2403.03206",
        home="paths",
        call="rg.plan('euler', path, nfe=50, grid='shifted', shift=rg.paths.resolution_shift(1024**2, 512**2))",
        test="tests/paths/test_quantiles.py::test_shifted_times_hide_as_much_of_a_larger_image",
    )
)


@grid
def karras_in_time(
    path: Path,
    n: int,
    *,
    power: float = 1.2,
    count: int = 12,
    rho: float = 7.0,
    stop: int = 9,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
) -> Grid:
    """Times uniform in t^(1/power), from the first to the `stop`-th of `count` Karras levels: it ends above zero noise.

    t_i = (t_start^(1/r) + i/(n - 1) (t_end^(1/r) - t_start^(1/r)))^r. Made for few steps whose last state is decoded as it
    is: plan[:-1] leaves out the closing row, n - 1 evaluations; its samples keep the variance sigma_end^2 (Li, 2025, arXiv
    2510.02390, with count=12, rho=7, stop=9 for eight steps and count=8, rho=5, stop=6 for five or six).

    Raises:
        BadValue: stop outside 1..count - 1, or a power that is not positive.
    """
    if not 0 < stop < count or power <= 0.0:
        raise BadValue(f"stop={stop}, count={count}, power={power}", "0 < stop < count, power > 0", "stop=9, count=12")
    auxiliary = karras(path, count, rho=rho, sigma_min=sigma_min, sigma_max=sigma_max)
    start, end = auxiliary[0], auxiliary[stop]
    root = start ** (1 / power) + _fractions(n) * (end ** (1 / power) - start ** (1 / power))
    return (start, *(float(t) for t in root[1:] ** power))


systems.register(
    systems.System(
        title="Hyperparameters are all you need: Using five-step inference for an original diffusion model to generate "
        "images comparable to the latest distillation model",
        authors=("Zilai Li",),
        year=2025,
        arxiv="2510.02390",
        home="tune",
        call="rg.plan('dpmpp_2m', path, nfe=9, grid='karras_in_time')[:-1]",
        test="tests/recipes/test_stopping_early.py::test_decoding_as_is_costs_exactly_the_variance_of_the_stop",
    )
)


systems.register(
    systems.System(
        title="Align Your Steps: Optimizing Sampling Schedules in Diffusion Models",
        authors=("Amirmojtaba Sabour", "Sanja Fidler", "Karsten Kreis"),
        year=2024,
        arxiv="2404.14507",
        home="tune",
        call="rg.plan('dpmpp_2m', path, nfe=10, grid='align_your_steps', model='sd15')",
        test="tests/test_grids.py::test_align_your_steps_is_its_table",
    )
)


ALIGN_YOUR_STEPS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}
"""Noise levels of Sabour et al., Align Your Steps, 2024, arXiv 2404.14507, for three public models (10 steps)."""


@grid
def align_your_steps(path: Path, n: int, *, model: str = "sd15") -> Grid:
    """Levels of a published table, interpolated in log sigma over n points (arXiv 2404.14507).

    With n = 11 the table itself, whose ends are those of the models' schedules rounded to three decimals: on such a schedule
    they are put on its ends.

    Raises:
        UnknownName: no such table.
        BadValue: a path that does not reach the ends of the table.
    """
    if model not in ALIGN_YOUR_STEPS:
        raise UnknownName("Align-Your-Steps table", model, ALIGN_YOUR_STEPS)
    table = ALIGN_YOUR_STEPS[model]
    places = _fractions(n) * (len(table) - 1)
    values = np.exp(np.interp(places, np.arange(len(table)), np.log(table)))
    low, high = levels(path)
    clipped = np.clip(values, low, high)
    if np.max(np.abs(clipped - values)) > 5e-4:
        raise BadValue(
            f"the {model} table, {table[0]} >= sigma >= {table[-1]}, on a path of {high:.4g} >= sigma >= {low:.4g}",
            "a path that covers the table",
            "grid='karras'",
        )
    return tuple(min(max(t, path.t_min), path.t_max) for t in from_sigmas(path, clipped.tolist()))


def make(path: Path, n: int, spec: str | Sequence[float], **options: object) -> Grid:
    """Return the grid of a name with options, or an explicit array of n path times exactly as given.

    Raises:
        UnknownName: no such grid.
        BadValue: an option the grid does not have, or an array of another length.
    """
    if isinstance(spec, str):
        function = get(spec)
        allowed = options_of(spec)
        if unknown := sorted(set(options) - set(allowed)):
            raise BadValue(f"grid {spec!r} with {unknown}", f"the options {allowed}", f"remove {unknown}")
        return function(path, n, **options)
    times = tuple(float(t) for t in spec)
    if len(times) != n:
        raise BadValue(f"a grid of {len(times)} times", f"{n} for this recipe and nfe", "leave nfe out: the grid decides")
    return times
