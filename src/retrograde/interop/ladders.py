"""Where a peer's scheduler looks: the levels of a run, what the network is told there, and how the run starts and ends.

Peers make their levels in float64 and round them to float32; so does this, so that the tables are theirs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from retrograde.errors import BadValue, MissingExtra
from retrograde.interop import trained
from retrograde.paths import Path

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Ladder:
    """The levels a scheduler runs down.

    Attributes:
        path: the path they belong to.
        times: path times at which the network is asked, noisiest first.
        end: path time of the last state; None for the data.
        tell: from a path time to what the peer tells its network there; None to leave that to the denoiser.
        noise: standard deviation of the peer's first state, over that of the path at the first level.
        landings: path times where the peer's steps really land, where these are not the times it asks at.
        tell_between: as `tell`, at levels that only a peer's inner stage visits.
    """

    path: Path
    times: tuple[float, ...]
    end: float | None
    tell: Callable[[float], float] | None = None
    noise: float = 1.0
    landings: tuple[float | None, ...] = ()
    tell_between: Callable[[float], float] | None = None

    @property
    def points(self) -> tuple[float, ...]:
        """The asked times, followed by that of the end (0 for the data, which is at time 0 on every path used here)."""
        return (*self.times, 0.0 if self.end is None else self.end)


def table_sigmas(product: Tensor) -> np.ndarray:
    """Return s/a of the trained steps, float32."""
    return (((1 - product) / product) ** 0.5).numpy()


def place_of(sigma: float, logs: np.ndarray) -> float:
    """Return the fractional trained step of a level, linear in log sigma between steps."""
    return float(np.interp(math.log(max(sigma, 1e-10)), logs.astype(np.float64), np.arange(len(logs))))


def spread(config: Config, sigmas: np.ndarray, n: int) -> np.ndarray | None:
    """Return n levels between the first and the last of `sigmas` (noisiest first) by the option use_*_sigmas, or None.

    Raises:
        BadValue: more than one such option.
        MissingExtra: use_beta_sigmas without scipy.
    """
    names = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
    chosen = [name for name in names if config.get(name)]
    if len(chosen) > 1:
        raise BadValue(" and ".join(f"{name}=True" for name in chosen), f"one of {', '.join(names)}", f"{chosen[1]}=False")
    if not chosen:
        return None
    given = config.get("sigma_min"), config.get("sigma_max")
    low = float(sigmas[-1]) if given[0] is None else float(given[0])
    high = float(sigmas[0]) if given[1] is None else float(given[1])
    ramp = np.linspace(0, 1, n)
    match chosen[0]:
        case "use_karras_sigmas":
            return (high ** (1 / 7.0) + ramp * (low ** (1 / 7.0) - high ** (1 / 7.0))) ** 7.0
        case "use_beta_sigmas":
            try:
                from scipy.stats import beta
            except ImportError as error:
                raise MissingExtra("scipy", "science") from error
            return low + beta.ppf(1 - ramp, 0.6, 0.6) * (high - low)
    return np.exp(np.linspace(math.log(high), math.log(low), n))


def spaced(config: Config, n: int, *, whole: bool = True, beyond: int = 0) -> np.ndarray:
    """Return n trained steps by `timestep_spacing` and `steps_offset`, noisiest first.

    Args:
        whole: rounded to integers; the schedulers that step in s/a take "linspace" as it is.
        beyond: 1 for the multistep schedulers, which spread n + 1 steps and drop the last.

    Raises:
        BadValue: an unknown spacing, or a step outside the trained ones.
    """
    total = int(config["num_train_timesteps"])
    if config.get("_timesteps") is not None:
        return _explicit(config, total)
    last = total - int(config.get("_clipped", 0))
    match config.get("timestep_spacing", "linspace"):
        case "linspace":
            steps = np.linspace(0, last - 1, n + beyond, dtype=np.float64 if whole else np.float32)
            steps = (steps.round() if whole else steps)[::-1]
        case "leading":
            steps = (np.arange(0, n + beyond) * (last // (n + beyond))).round()[::-1]
            steps = (steps[:-1] if beyond else steps) + int(config.get("steps_offset", 0))
            beyond = 0
        case "trailing":
            steps, beyond = np.arange(last, 0, -total / n).round() - 1, 0
        case other:
            raise BadValue(f"timestep_spacing={other!r}", "'linspace', 'leading', 'trailing'", "timestep_spacing='trailing'")
    steps = steps[:-1] if beyond else steps
    if steps.max() > total - 1 or steps.min() < 0 or len(steps) > len(set(steps.tolist())):
        raise BadValue(
            f"{n} steps with timestep_spacing={config.get('timestep_spacing')!r} and "
            f"steps_offset={config.get('steps_offset', 0)}: {steps.tolist()[:4]}...",
            f"different steps within 0..{total - 1}",
            "fewer steps, or steps_offset=0",
        )
    return steps.astype(np.float64)


def _explicit(config: Config, total: int) -> np.ndarray:
    """Return the trained steps that were given instead of a number of them."""
    steps = np.asarray(config["_timesteps"], dtype=np.float64)
    if steps.ndim != 1 or np.any(np.diff(steps) >= 0) or steps.max() > total - 1 or steps.min() < 0:
        raise BadValue(f"timesteps={steps.tolist()}", f"falling trained steps within 0..{total - 1}", "timesteps=[999, 500]")
    if chosen := [name for name in config if name.startswith("use_") and "sigmas" in name and config[name]]:
        raise BadValue(f"timesteps with {chosen[0]}=True", "one of the two", f"{chosen[0]}=False")
    return steps


def _given(config: Config, path: Path, table: np.ndarray) -> Ladder:
    """Return the levels s/a that were given, the last of which is the end."""
    sigmas = np.asarray(config["_sigmas"], dtype=np.float32)
    if sigmas.ndim != 1 or len(sigmas) < 2 or np.any(np.diff(sigmas) >= 0) or sigmas[-1] < 0:
        raise BadValue(f"sigmas={sigmas.tolist()}", "falling levels, the end included", "sigmas=[14.6, 2.0, 0.0]")
    _within(sigmas[:-1], table)
    times = tuple(path.time_of_sigma(float(s)) for s in sigmas[:-1])
    logs, high = np.log(table), float(sigmas[0])
    scale = math.hypot(high, 1.0) / high if config.get("timestep_spacing") == "leading" else 1.0
    end = None if sigmas[-1] == 0.0 else path.time_of_sigma(float(sigmas[-1]))
    return Ladder(path, times, end, lambda t: place_of(path.sigma(t), logs), scale)


def discrete(
    config: Config,
    n: int,
    *,
    floor: float | None = 2.0**-24,
    beyond: int = 1,
    whole: bool = True,
    ends: str = "table",
    rounds: bool = True,
    cuts: bool = True,
) -> Ladder:
    """Return the levels of a scheduler on a trained table of betas.

    Args:
        floor: see `trained.alphas_cumprod`.
        beyond, whole: see `spaced`.
        ends: "table" to end at the table's least level where `final_sigmas_type` is "sigma_min", "last" to repeat the
            last level there unless the levels are those of trained steps.
        rounds: whether the steps told at levels between trained ones are rounded.
        cuts: whether they are then cut to integers.
    """
    product = trained.alphas_cumprod(config, floor)
    path, table = trained.path_of(product), table_sigmas(product)
    logs = np.log(table)
    if config.get("_sigmas") is not None:
        return _given(config, path, table)
    config = {**config, "_clipped": _clipped(config, product)}
    steps = spaced(config, n, whole=whole, beyond=beyond)
    between = spread(config, table[::-1] if beyond else np.interp(steps, np.arange(len(table)), table), n)
    if config.get("interpolation_type") == "log_linear":
        between = np.exp(np.linspace(np.log(table[-1]), np.log(table[0]), n + 1))[:-1]
        told = steps
    elif between is not None:
        told = np.array([place_of(s, logs) for s in between])
        told = told.round() if rounds and (config.get("use_karras_sigmas") or config.get("use_lu_lambdas")) else told
    else:
        told = steps
    if between is None:
        sigmas = np.interp(steps, np.arange(len(table)), table).astype(np.float32)
        times = [_time(path, step, float(sigma)) for step, sigma in zip(steps, sigmas, strict=True)]
    else:
        _within(between, table)
        sigmas = between.astype(np.float32)
        times = [path.time_of_sigma(float(s)) for s in sigmas]
    end = _end(config, path, times, ends == "last" and between is not None)
    if config.get("interpolation_type") == "log_linear":
        end = path.t_min  # its n + 1 levels are followed by a zero that n steps never reach
    told = np.trunc(told) if cuts else told
    asked = dict(zip(times, told.tolist(), strict=True))
    high = float(sigmas.max())
    scale = math.hypot(high, 1.0) / high if config.get("timestep_spacing") == "leading" or beyond else 1.0

    def between_steps(t: float) -> float:
        return place_of(path.sigma(t), logs)

    def tell(t: float) -> float:
        return asked[t] if t in asked else between_steps(t)

    return Ladder(path, tuple(times), end, tell, scale, (), between_steps)


def _clipped(config: Config, product: Tensor) -> int:
    """Number of trained steps at the noise end whose log(a/s) lies below `lambda_min_clipped`."""
    least = config.get("lambda_min_clipped", -math.inf)
    lam = (product.sqrt().log() - (1 - product).sqrt().log()).numpy()
    return int(np.searchsorted(lam[::-1], np.float32(least)))


def _time(path: Path, step: float, sigma: float) -> float:
    whole = float(step).is_integer()
    return (step + 1.0) / len(path.alphas_cumprod) if whole else path.time_of_sigma(sigma)  # type: ignore[attr-defined]


def _within(sigmas: np.ndarray, table: np.ndarray) -> None:
    for name, value, fits in (
        ("sigma_max", sigmas.max(), sigmas.max() <= table[-1] * (1 + 1e-4)),
        ("sigma_min", sigmas.min(), sigmas.min() >= table[0] * (1 - 1e-4)),
    ):
        if not fits:
            raise BadValue(
                f"{name}={value:g} beyond the trained levels",
                f"{table[0]:.4g} <= sigma <= {table[-1]:.4g}",
                f"{name}=None: the table's own",
            )


def _end(config: Config, path: Path, times: Sequence[float], repeats: bool) -> float | None:
    match config.get("final_sigmas_type", "zero"):
        case "zero":
            return None
        case "sigma_min":
            return times[-1] if repeats else path.t_min
    raise BadValue(f"final_sigmas_type={config['final_sigmas_type']!r}", "'zero', 'sigma_min'", "final_sigmas_type='zero'")
