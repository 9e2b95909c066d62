"""Levels of the schedulers that count trained steps, of flow schedulers, and of those on the levels of EDM."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from retrograde.errors import BadValue
from retrograde.interop import trained
from retrograde.interop.ladders import Config, Ladder, spaced, spread
from retrograde.paths import EDM, VP, Flow, Trigonometric, VPCosine


def counted(config: Config, n: int, *, stride: bool = True, mended: bool = False) -> Ladder:
    """Return the levels of DDIM and its relatives: trained steps, each followed by the one `stride` steps below.

    Args:
        stride: whether a step lands num_train_timesteps // n trained steps below, as it does in DDIM and PNDM, wherever
            the next step asks. Else it lands where the next one asks.
        mended: land where the next step asks.
    """
    product = trained.alphas_cumprod(config)
    path, steps = trained.path_of(product), spaced(config, n)
    count = len(product)
    times = tuple((step + 1.0) / count for step in steps)
    end = None if config.get("set_alpha_to_one", True) else path.t_min
    landings: tuple[float | None, ...] = ()
    if stride and not mended:
        below = steps - count // n
        landings = tuple((step + 1.0) / count if step >= 0 else end for step in below)
        if _same(landings, (*times[1:], end)):
            landings = ()
    noise = 1.0 / path.s(times[0])
    return Ladder(path, times, end, _index(count), noise, landings)


def _same(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    return all(x == y or (x is not None and y is not None and abs(x - y) < 1e-12) for x, y in zip(one, other, strict=True))


def _index(count: int) -> Any:
    return lambda t: t * count - 1.0


def distilled(config: Config, n: int) -> Ladder:
    """Return the levels of consistency models: n of the `original_inference_steps` they were distilled at."""
    product = trained.alphas_cumprod(config)
    path, count = trained.path_of(product), len(product)
    original = int(config["original_inference_steps"])
    origin = (np.arange(1, original + 1) * (count // original) - 1)[::-1]
    if n > original:
        raise BadValue(f"{n} steps of {original} original_inference_steps", f"at most {original}", f"{original} steps")
    steps = origin[np.floor(np.linspace(0, original, num=n, endpoint=False)).astype(np.int64)]
    if config.get("_timesteps") is not None:
        steps = spaced(config, n)
    times = tuple(float(step + 1) / count for step in steps)
    return Ladder(path, times, None, _index(count), 1.0 / path.s(times[0]))


def shifted(t: np.ndarray, config: Config, key: str, mu: float | None) -> np.ndarray:
    """Return flow times after the shift of the options: fixed (`key`), or by `mu` where use_dynamic_shifting is set.

    Raises:
        BadValue: use_dynamic_shifting without mu, or an unknown time_shift_type.
    """
    if not config.get("use_dynamic_shifting"):
        shift = float(config[key])
        return shift * t / (1 + (shift - 1) * t)
    if mu is None:
        raise BadValue("use_dynamic_shifting=True without mu", "mu, which pipelines compute from the image size", "mu=1.15")
    match config.get("time_shift_type", "exponential"):
        case "exponential":
            return math.exp(mu) / (math.exp(mu) + (1 / t - 1))
        case "linear":
            return mu / (mu + (1 / t - 1))
    raise BadValue(f"time_shift_type={config['time_shift_type']!r}", "'exponential', 'linear'", "time_shift_type='linear'")


def _stretched(t: np.ndarray, config: Config) -> np.ndarray:
    terminal = config.get("shift_terminal")
    return 1 - (1 - t) / ((1 - t[-1]) / (1 - float(terminal))) if terminal else t


def _flow_times(config: Config) -> np.ndarray:
    """Return the flow times that were given, before any shift.

    Raises:
        BadValue: times that do not fall within (0, 1].
    """
    t = np.asarray(config["_sigmas"], dtype=np.float32).astype(np.float64)
    if t.ndim != 1 or np.any(np.diff(t) >= 0) or t.max() > 1.0 or t.min() <= 0.0:
        raise BadValue(f"sigmas={t.tolist()}", "falling flow times within (0, 1], the end left out", "sigmas=[1.0, 0.5]")
    return t


def flow(config: Config, n: int, mu: float | None = None, mended: bool = False) -> Ladder:
    """Return the levels of the flow-matching schedulers.

    They shift a grid whose ends were shifted before: with shift != 1 the least level is shifted twice. `mended` shifts
    once. What the network is told is left to the denoiser: it is the level itself, in the unit of the network.
    """
    total = int(config["num_train_timesteps"])
    ends = np.array([1.0, 1.0 / total])
    if not config.get("use_dynamic_shifting") and not mended:
        ends = shifted(ends.astype(np.float32), config, "shift", None)
    t = np.linspace(float(ends[0]), float(ends[1]), n)
    if config.get("_sigmas") is not None:
        t = _flow_times(config)
    t = shifted(t, config, "shift", mu)
    t = _stretched(t, config)
    between = spread(config, t, n)
    t = (t if between is None else between).astype(np.float32)
    tell = (lambda v: total * (1.0 - v)) if config.get("invert_sigmas") else None  # such a network counts from the noise
    return Ladder(Flow(), tuple(float(v) for v in t), None, tell)


def flow_of_multistep(config: Config, n: int, mu: float | None = None, mended: bool = False) -> Ladder:
    """Return the levels of DPM-Solver, DEIS and SA-Solver with use_flow_sigmas; the first lies below 1.

    Where they do not end at the data, DEIS and SA-Solver end at the last level asked at, DPM-Solver at the least level of
    its table of betas, taken for a flow time; `mended` puts the least trained flow time in its place.
    """
    total = int(config["num_train_timesteps"])
    if mu is not None and config.get("time_shift_type", "exponential") != "exponential":
        given = f"time_shift_type={config['time_shift_type']!r} of a multistep scheduler"
        raise BadValue(given, "'exponential', as there", "time_shift_type='exponential'")
    fixed = {**config, "flow_shift": math.exp(mu)} if mu is not None else {**config, "use_dynamic_shifting": False}
    fixed["use_dynamic_shifting"] = False
    t = shifted(1.0 - np.linspace(1, 1 / total, n + 1), fixed, "flow_shift", None)[::-1][:-1].astype(np.float32)
    times = tuple(float(v) for v in t)
    end: float | None = None
    if config.get("final_sigmas_type", "zero") == "sigma_min":
        product = trained.alphas_cumprod(config, 2.0**-24)
        end = float(((1 - product[0]) / product[0]) ** 0.5)
        if "solver_type" not in config or config.get("algorithm_type") == "deis":
            end = times[-1]
        elif mended:
            end = float(shifted(np.array([1.0 / total]), fixed, "flow_shift", None)[0])
    return Ladder(Flow(), times, end, None, 1.0 / times[0])


def flow_of_unipc(config: Config, n: int, mu: float | None = None) -> Ladder:
    """Return the levels of UniPC with use_flow_sigmas: from 1 (less a millionth) down, the last of n + 1 left out."""
    total = int(config["num_train_timesteps"])
    if config.get("use_karras_sigmas"):
        from retrograde.interop.ladders import table_sigmas

        sigmas = spread(config, table_sigmas(trained.alphas_cumprod(config, 2.0**-24))[::-1], n)
        t = np.asarray(sigmas) / (np.asarray(sigmas) + 1)
    else:
        t = np.linspace(1, 1 / total, n + 1)[:-1] if config.get("_sigmas") is None else _flow_times(config)
        t = _stretched(shifted(t, config, "flow_shift", mu), config)
        if abs(t[0] - 1) < 1e-6:
            t[0] -= 1e-6
    times = tuple(float(v) for v in t.astype(np.float32))
    end = times[-1] if config.get("final_sigmas_type") == "sigma_min" else None
    return Ladder(Flow(), times, end, None, 1.0 / times[0])


def edm(config: Config, n: int, ends: str = "config") -> Ladder:
    """Return the levels of the EDM schedulers: `sigma_schedule` "karras" (with `rho`) or "exponential"."""
    low, high, rho = float(config["sigma_min"]), float(config["sigma_max"]), float(config["rho"])
    ramp = np.linspace(0, 1, n)
    match config["sigma_schedule"]:
        case "karras":
            sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
        case "exponential":
            sigmas = np.exp(np.linspace(math.log(high), math.log(low), n))
        case other:
            raise BadValue(f"sigma_schedule={other!r}", "'karras', 'exponential'", "sigma_schedule='karras'")
    times = tuple(float(s) for s in sigmas.astype(np.float32))
    end = None if config["final_sigmas_type"] == "zero" else (times[-1] if ends == "last" else low)
    tell = (lambda t: math.atan(t) / math.pi * 2.0) if ends == "cosine" else None
    return Ladder(EDM(low, high), times, end, tell, math.hypot(high, 1.0) / high)


def continuous(config: Config, n: int) -> Ladder:
    """Return the levels of a v-prediction network of continuous time, told log(sigma)/4, on the continuous VP path.

    Raises:
        BadValue: no sigma_min and sigma_max: the table of betas has nothing to do with such a network.
    """
    if config.get("sigma_min") is None or config.get("sigma_max") is None:
        raise BadValue(
            "timestep_type='continuous' without its range of levels", "sigma_min and sigma_max", "sigma_max=700.0"
        )
    sigmas = spread(config, np.array([config["sigma_max"], config["sigma_min"]]), n)
    if sigmas is None:
        raise BadValue("timestep_type='continuous' without use_*_sigmas", "use_karras_sigmas=True", "use_karras_sigmas=True")
    path = VP()
    times = tuple(path.time_of_sigma(float(s)) for s in sigmas.astype(np.float32))
    high = float(config["sigma_max"])
    scale = math.hypot(high, 1.0) / high if config["timestep_spacing"] == "leading" else 1.0
    return Ladder(path, times, None, lambda t: 0.25 * math.log(path.sigma(t)), scale)


def consistency(config: Config, n: int) -> Ladder:
    """Return the levels of a consistency model: Karras levels counted from 0 to num_train_timesteps - 1.

    Raises:
        BadValue: more steps than there are levels.
    """
    total = int(config["num_train_timesteps"])
    if n > total:
        raise BadValue(f"{n} steps of num_train_timesteps={total}", f"at most {total}", f"{total} steps")
    low, high, rho = float(config["sigma_min"]), float(config["sigma_max"]), float(config["rho"])
    ramp = np.arange(0, n) * (total // n) / (total - 1)
    sigmas = (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return Ladder(EDM(low, high), tuple(float(s) for s in sigmas.astype(np.float32)), None)


def exploding(config: Config, n: int) -> Ladder:
    """Return the levels of the VE scheduler: even in log sigma, its network told sigma.

    Raises:
        BadValue: correct_steps other than 0: the length of a Langevin step depends on the state.
    """
    if config["correct_steps"] != 0:
        raise BadValue(
            f"correct_steps={config['correct_steps']}: Langevin steps whose length depends on the state",
            "correct_steps=0, the predictor alone",
            "rg.plan('predictor_corrector', path, nfe=...) with expected lengths",
        )
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    sigmas = np.exp(np.linspace(math.log(low), math.log(high), n)[::-1]).astype(np.float32)
    return Ladder(EDM(low, high), tuple(float(s) for s in sigmas), None, lambda t: t)


def angles(config: Config, n: int) -> Ladder:
    """Return the levels of SCM: angles from max_timesteps to zero, by way of intermediate_timesteps in two steps.

    Raises:
        BadValue: other than two steps with intermediate_timesteps.
    """
    first, middle = float(config["max_timesteps"]), config["intermediate_timesteps"]
    if middle is not None and n != 2:
        raise BadValue(f"{n} steps with intermediate_timesteps={middle}", "2 steps", "intermediate_timesteps=None")
    made = [first, float(middle)] if middle is not None else np.linspace(first, 0, n + 1)[:-1].tolist()
    times = [min(angle / math.pi * 2, 1.0) for angle in made]
    told = dict(zip(times, made, strict=True))
    return Ladder(Trigonometric(), tuple(times), None, lambda t: told[t])


def sines(config: Config, n: int) -> Ladder:
    """Return the levels of IPNDM: s = sin^2(pi u/2) for n even steps of u from 1, on the trigonometric path.

    Raises:
        BadValue: trained_betas.
    """
    if config["trained_betas"] is not None:
        raise BadValue("trained_betas of IPNDMScheduler", "None: its own levels", "trained_betas=None")
    s = np.sin(np.linspace(1, 0, n + 1)[:-1] * math.pi / 2) ** 2
    times = tuple(float(t) for t in np.arctan2(s, np.sqrt(1 - s**2)) / math.pi * 2)
    return Ladder(Trigonometric(), times, None, lambda t: t)


def wuerstchen(config: Config, n: int) -> Ladder:
    """Return the levels of Wuerstchen: the cosine path at n even steps of a warped time, alpha-bar within 0.0001 and 0.9999.

    The network is told the time before it is warped, by t^scaler or 1 - (1 - t)^scaler.
    """
    offset, scaler = float(config["s"]), float(config["scaler"])
    whole = VPCosine(offset, 0.0, 1.0)
    low, high = (whole.time_of_sigma(math.sqrt(1.0 / kept - 1.0)) for kept in (0.9999, 0.0001))
    path = VPCosine(offset, low, high)
    made = np.linspace(1.0, 0.0, n + 1, dtype=np.float32)[:-1].tolist()
    warped = [1.0 - (1.0 - u) ** scaler if scaler > 1.0 else u**scaler for u in made]
    times = tuple(min(max(t, low), high) for t in warped)
    if len(set(times)) < n:
        given = f"{n} steps, of which some lie beyond the least level"
        raise BadValue(given, "different levels between alpha-bar 0.0001 and 0.9999", "num_inference_steps=20")
    told = dict(zip(times, made, strict=True))
    return Ladder(path, times, low, lambda t: told[t], 1.0 / path.s(high))


def helios(config: Config, n: int, mu: float | None, mended: bool) -> Ladder:
    """Return the levels of Helios in one stage. A fixed shift other than one goes through the formula of `mu` there.

    Its own levels begin at one, where log-SNR is infinite: there its UniPC has weights of no method, and of order 3 NaN. The
    pipeline passes levels from 0.999. `mended` begins at one with the weights that are left.

    Raises:
        BadValue: its own levels with UniPC, or both shifts.
    """
    t = np.linspace(1, 1 / int(config["num_train_timesteps"]), n + 1)[:-1]
    if config.get("_sigmas") is not None:
        t = _flow_times(config)
    elif config["shift"] != 1.0:
        t = shifted(t, {**config, "use_dynamic_shifting": True}, "shift", float(config["shift"]))
    if config["use_dynamic_shifting"]:
        if config["shift"] != 1.0:
            raise BadValue(f"use_dynamic_shifting=True with shift={config['shift']}", "one of the two", "shift=1.0")
        t = shifted(t, config, "shift", mu)
    if config["scheduler_type"] == "unipc" and t[0] > 1 - 1e-6 and not mended:
        raise BadValue(
            "HeliosScheduler with UniPC from level 1, where log-SNR is infinite",
            "levels below 1, as its pipeline passes them",
            f"sigmas=np.linspace(0.999, 0.0, {n + 1})[:-1], or mended=True",
        )
    times = tuple(float(v) for v in t.astype(np.float32))
    return Ladder(Flow(), times, None, None, 1.0 / times[0])


def minimax(config: Config, n: int) -> Ladder:
    """Return the levels of MiniMax-H3: n shifted points from one to zero, of which the last is no question; told 1 - t."""
    if config.get("_sigmas") is not None:
        given = list(config["_sigmas"])
        if not given or given[-1] != 0.0:
            raise BadValue(f"sigmas={given} of MiniMaxH3Scheduler", "levels that end at 0", f"sigmas={[*given, 0.0]}")
        t = np.append(_flow_times({"_sigmas": given[:-1]}), 0.0).astype(np.float32)
    else:
        shift, base = np.float32(config["shift"]), np.linspace(1.0, 0.0, n, dtype=np.float32)
        t = np.unique(shift * base / (1 + (shift - 1) * base))[::-1]
    if len(t) < 2:
        raise BadValue(f"num_inference_steps={n}", ">= 2: the end is counted", "num_inference_steps=20")
    return Ladder(Flow(), tuple(float(v) for v in t[:-1]), None, lambda v: float(np.float32(1) - np.float32(v)))
