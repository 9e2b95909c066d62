"""DMN: levels that make a bound on the error small which needs no network at all."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, cast

import numpy as np

from retrograde import grids, systems
from retrograde.baselines.gits import check_budget, one_evaluation, start_of
from retrograde.denoisers import AbstractDenoiser
from retrograde.errors import BadValue, MissingExtra
from retrograde.paths import Path
from retrograde.plan import Plan
from retrograde.recipes import level
from retrograde.recipes.recipe import Level
from retrograde.recipes.sa_solver import adams_weights

systems.register(
    systems.System(
        title="Accelerating Diffusion Sampling with Optimized Time Steps",
        authors=("Shuchen Xue", "Zhaoqiang Liu", "Fei Chen", "Shifeng Zhang", "Tianyang Hu", "Enze Xie", "Zhenguo Li"),
        year=2024,
        arxiv="2402.17376",
        home="tune",
        call="rg.baselines.dmn(denoiser, nfe=6)",
        test="tests/baselines/test_dmn.py::test_no_random_step_improves_on_the_levels_found",
    )
)


def dmn(denoiser: AbstractDenoiser, nfe: int, *, recipe: str = "unip_3", power: int = 1, apart: int | None = None) -> Plan:
    """Return a published solver on the levels that minimize `bound`, by a trust region method from levels even in log-SNR.

    Args:
        recipe: a multistep solver of one evaluation per step.
        power: 1 supposes predictions wrong by sigma (networks on pixels), 2 by sigma^2/sqrt(1 + sigma^2) (on latents).
        apart: the first steps whose errors are added rather than cancelled; 3 up to 7 evaluations, else 0, as published.

    Raises:
        BadValue: another power, or nfe < 1.
        MissingExtra: without scipy.

    Reference: Xue et al., Accelerating Diffusion Sampling with Optimized Time Steps, 2024, arXiv 2402.17376.
    """
    check_budget(nfe)
    if power not in (1, 2):
        raise BadValue(f"power={power}", "1 (pixels) or 2 (latents)", "power=1")
    try:
        from scipy.optimize import LinearConstraint, minimize
    except ImportError as error:
        raise MissingExtra("scipy", "tune") from error
    written, path = one_evaluation(recipe), denoiser.path
    apart = (3 if nfe <= 7 else 0) if apart is None else apart
    first = level(path, start_of(denoiser)).lam
    last = -math.log(grids.levels(path)[0])
    inner = np.linspace(first, last, nfe + 1)[1:-1]

    def objective(lambdas: np.ndarray) -> float:
        return bound(path, [first, *lambdas.tolist(), last], power, apart)

    if nfe > 1:
        gaps = np.zeros((nfe, nfe - 1))
        gaps[range(nfe - 1), range(nfe - 1)] = 1.0
        gaps[range(1, nfe), range(nfe - 1)] = -1.0
        least = np.zeros(nfe)
        least[0], least[-1] = first, least[-1] - last
        narrow = 1e-3 * (last - first) / nfe
        falling: Any = LinearConstraint(gaps, cast(Any, least + narrow), np.inf, keep_feasible=True)
        inner = minimize(objective, inner, method="trust-constr", constraints=[falling], options={"maxiter": 300}).x
    times = [start_of(denoiser), *(denoiser.snap(path.time_of_log_snr(2.0 * lam)) for lam in inner.tolist())]
    plan = written.compile(path, tuple(dict.fromkeys(times)))
    provenance = {**plan.provenance, "tuner": "dmn", "nfe": nfe, "power": power, "apart": apart}
    return dataclasses.replace(plan, provenance=provenance, report={"evaluations": 0, "bound": objective(inner)})


def bound(path: Path, lambdas: list[float], power: int, apart: int) -> float:
    """Return sum_k e_k |sum_i w_ik|, e_k the error supposed of prediction k and w_ik its weight in step i, over x/s.

    The steps are those of the exponential multistep solver of orders 1, 2, 3, ..., 3, 2, 1 on half the log-SNR `lambdas`,
    the last of which is not asked. The errors of the first `apart` steps are not let cancel those of later ones: each
    adds the root of its squares.
    """
    levels = [_level(path, lam) for lam in lambdas]
    count = len(levels) - 1
    supposed = [here.sigma**power / math.sqrt(1.0 + here.sigma**2) ** (power - 1) for here in levels]
    together, total = np.zeros(count), 0.0
    for i, (here, there) in enumerate(zip(levels, levels[1:], strict=False)):
        order = min(i + 1, 3, count - i)
        knots = [levels[i - k] for k in range(order)]
        weights = [w / there.s * supposed[i - k] for k, w in enumerate(adams_weights(here, there, knots, 0.0))]
        if i < apart or order == 1:
            total += math.hypot(*weights)
        else:
            for k, w in enumerate(weights):
                together[i - k] += w
    return total + float(np.abs(together).sum())


def _level(path: Path, lam: float) -> Level:
    t = path.time_of_log_snr(2.0 * lam)
    return Level(t, path.a(t), path.s(t))
